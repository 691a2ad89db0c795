"""LaTeX compiles a table, for the tests. No test."""

import shutil
import subprocess
from pathlib import Path

import pytest


def compile_table(table: Path) -> None:
    """Fails where pdflatex does not take a table.tex; skips where there is none."""
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: table.tex is checked as text only")
    preamble = r"\documentclass{article}\usepackage{booktabs,siunitx,graphicx}\begin{document}"
    (table.parent / "page.tex").write_text(f"{preamble}\\input{{{table.name}}}\\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=table.parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
