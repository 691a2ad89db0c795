"""The command line as a user meets it, in a folder of its own. No test."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from scope.cli.run import cli

ROOT = Path(__file__).parents[2]

BUDGETS = ["budget.prefill=40", "budget.decode=32", "budget.recent=16"]

SMALL = ["task.questions=4", "task.max_new_tokens=100", "task.prompts=2", *BUDGETS]  # some answers, with evictions

SMALLEST = ["task.prompts=1", "task.questions=2", "task.max_new_tokens=4", *BUDGETS]  # one answer, whatever it says


@dataclass(frozen=True)
class Said:
    out: str
    err: str


class Scope:
    """main.py called in this process, with records below a folder that is also the working directory."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.capfd, self.monkeypatch = folder, capfd, monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def __call__(self, *arguments: str, code: int = 0) -> Said:
        """Run it; the exit code must be `code`."""
        self.capfd.readouterr()
        words = [f"output={self.folder / 'outputs'}", "compare=false", *arguments]  # unless they say otherwise
        self.monkeypatch.setattr(sys, "argv", [str(ROOT / "main.py"), *words])
        try:
            left = cli()
        except SystemExit as stop:
            left = stop.code
        said = Said(*self.capfd.readouterr())
        assert left == code, said
        return said


def in_a_process(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run main.py as a user does."""
    command = [sys.executable, str(ROOT / "main.py"), f"output={folder / 'outputs'}", "compare=false", *arguments]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=300)


def runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("outputs/*/*/manifest.json"))


def forget(package: str) -> None:
    """Forget the modules of a package, which another test may have read from another folder."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
