"""The tables and figures of one or several sweeps as a LaTeX document, and its PDF where there is a TeX.

python -m analysis.paper outputs/demo
"""

import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from analysis.command import command
from analysis.figures import draw_all
from analysis.frame import of_runs
from analysis.latex import escaped
from analysis.records import Run
from analysis.tables import PRESETS, write, write_preset
from scope.util.errors import ScopeError
from scope.util.files import make_folder, write_whole

SECONDS = 120  # pdflatex may take so long
DOCUMENT = r"""\documentclass[a4paper]{article}
\usepackage[landscape,margin=15mm]{geometry}
\usepackage{booktabs,siunitx,graphicx,caption}
\captionsetup[table]{skip=4pt}
\renewcommand{\topfraction}{.95}
\renewcommand{\textfraction}{.05}
\title{%s}
\date{}
\begin{document}
\maketitle
%s
\end{document}
"""
FIGURE = r"""\begin{figure}[htbp]
\centering
\includegraphics[width=160mm,height=.8\textheight,keepaspectratio]{%s}
\caption{%s}
\end{figure}"""


def write_document(runs: Sequence[Run], folder: Path, presets: Sequence[str]) -> Path:
    """Write the tables, the figures that the records allow, and paper.tex into `folder`.

    presets: further tables, by their names in `analysis.tables.PRESETS`. -> the path of paper.tex.
    """
    frame = of_runs(runs)
    make_folder(folder)
    write(frame, folder)
    names = ["table", *presets]
    for preset in presets:
        write_preset(runs, preset, folder)
    parts = [f"\\input{{{name}.tex}}" for name in names]
    parts += [FIGURE % (f"{name}.pdf", escaped(shows)) for name, shows in draw_all(runs, folder).items()]
    title = escaped(", ".join(frame["experiment"].unique()))
    write_whole(folder / "paper.tex", DOCUMENT % (title, "\n\\clearpage\n".join(parts)))
    return folder / "paper.tex"


def compiled(document: Path) -> Path:
    """Compile a .tex file. -> the path of the PDF.

    Raises ScopeError, in one line, where pdflatex is not installed, takes over `SECONDS`, or reports an error.
    """
    if shutil.which("pdflatex") is None:
        raise ScopeError(f"{document}: is there, its PDF is not: pdflatex is not installed (Debian: texlive-science)")
    asked = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", document.name]
    try:
        done = subprocess.run(asked, cwd=document.parent, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ScopeError(f"{document}: pdflatex did not end within {SECONDS} seconds") from error
    if done.returncode:
        lines = done.stdout.decode(errors="replace").splitlines()
        reason = next((line for line in lines if line.startswith("!")), "no reason given")
        raise ScopeError(f"{document}: pdflatex refused it: {reason} (see {document.with_suffix('.log').name})")
    return document.with_suffix(".pdf")


def _work(runs: list[Run], out: Path, given: Namespace) -> None:
    document = write_document(runs, out, given.preset)
    print(document)
    print(compiled(document))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document and compile it; -> the exit code, as `command` has it."""
    about = "further tables, in the paper's layouts (default: table2 table3)"
    presets = {"choices": sorted(PRESETS), "nargs": "*", "default": ["table2", "table3"], "help": about}
    return command("paper", __doc__, "paper", _work, arguments, {"--preset": presets}, extra="figures")


if __name__ == "__main__":
    sys.exit(main())
