"""What is imported, and when: torch and transformers' code of models take most of the time before a command answers."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from helpers.command import ROOT, SMALLEST, Scope

import scope as library

HEAVY = ("torch", "transformers", "pandas", "scipy")
RUN = """
import runpy
sys.argv[:] = ["main.py", *{words!r}]
try:
    runpy.run_path("main.py", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def imported(code: str, names: tuple[str, ...]) -> set[str]:
    """Which of these modules a new process has imported after this code."""
    code = f"import sys\n{code}\nprint('imported', *(name for name in {names!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    word, *found = done.stdout.splitlines()[-1].split()
    assert word == "imported"
    return set(found)


@pytest.mark.parametrize("code", ["import scope", RUN.format(words=["--help"])], ids=["import scope", "--help"])
def test_neither_the_library_nor_the_help_imports_what_is_large(code: str) -> None:
    assert imported(code, HEAVY) == set()


@pytest.mark.slow
def test_a_finished_sweep_imports_no_code_of_models(scope: Scope, tmp_path: Path) -> None:
    words = [f"output={tmp_path / 'outputs'}", "-m", "decoding=none,slide", *SMALLEST]
    scope(*words)
    names = ("scope.runs.run", "transformers.modeling_utils", "torch._dynamo")
    assert imported(RUN.format(words=words), names) == {"scope.runs.run"}


def test_every_name_of_the_library_is_that_of_its_module() -> None:
    """The names and modules that mypy and editors see are those that are imported."""
    tree = ast.parse(Path(library.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}  # type: ignore[attr-defined]
    assert {*seen, "__version__"} == {*library.__all__}
    assert len(library.__all__) == len({*library.__all__})
    for name, module in seen.items():
        assert getattr(library, name) is getattr(import_module(module), name), name
        assert name in dir(library)
    with pytest.raises(AttributeError, match="module 'scope' has no attribute 'SnapKB'"):
        _ = library.SnapKB
