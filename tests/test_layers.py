"""Which room imports which: the contracts are in pyproject.toml, import-linter holds the code to them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(folder), "PATH": ""}
    return subprocess.run([*LINT], cwd=folder, env=environment, capture_output=True, text=True)


def test_rooms_import_downwards_and_one_knows_hydra() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


def test_an_import_that_runs_back_up_is_seen(tmp_path: Path) -> None:
    for package in ("scope", "analysis"):
        for path in (ROOT / package).rglob("*.py"):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text())
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    plan = tmp_path / "scope" / "policy" / "plan.py"
    plan.write_text("from scope.cache import CompressedCache\n" + plan.read_text())
    room = tmp_path / "scope" / "runs" / "run.py"
    room.write_text("import omegaconf\n" + room.read_text())
    done = lint(tmp_path)
    assert done.returncode == 1
    assert "scope.policy.plan -> scope.cache" in done.stdout
    assert "scope.runs.run -> omegaconf" in done.stdout
