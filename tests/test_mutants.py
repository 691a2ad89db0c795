"""The list of faults fits the code, and what runs them tells a fault that is noticed from one that is not."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.quick import slow

from experiments.mutants import EXPLAINED, KILLED, LATE, ROOT, STALE, SURVIVED, Mutant, mutants, verdict

SOURCE = "def larger(a, b):\n    return a if a > b else b\n"
TEST = "from code_under_test import larger\n\ndef test_it():\n    assert larger(1, 2) == larger(2, 1) == 2\n"
NOTICED = Mutant("code_under_test.py", "a > b", "a < b", ("test_it.py",))


@pytest.mark.parametrize("mutant", mutants(), ids=str)
def test_every_fault_fits_the_code(mutant: Mutant) -> None:
    assert mutant.fits(ROOT), "its text is not in the file, or is there twice"
    assert all((ROOT / tests).exists() for tests in mutant.tests)
    compile(mutant.applied((ROOT / mutant.file).read_text()), mutant.file, "exec")


def test_no_fault_is_there_twice() -> None:
    listed = mutants()
    assert len(listed) == len({(m.file, m.old, m.new) for m in listed}) >= 100


@pytest.mark.parametrize(
    ("mutant", "expected"),
    [
        (NOTICED, KILLED),
        (replace(NOTICED, new="a >= b"), SURVIVED),
        (replace(NOTICED, new="a >= b", explained="equal numbers are equal"), EXPLAINED),
        (replace(NOTICED, explained="it is not so"), KILLED),
        (replace(NOTICED, old="c > d"), STALE),
        (replace(NOTICED, old="a"), STALE),
        slow(replace(NOTICED, old="return", new="while True: "), LATE),
        (replace(NOTICED, old="def larger", new="def smaller"), KILLED),
    ],
    ids=str,
)
def test_a_fault_is_judged_by_its_tests(tmp_path: Path, mutant: Mutant, expected: str) -> None:
    (tmp_path / "code_under_test.py").write_text(SOURCE)
    (tmp_path / "test_it.py").write_text(TEST)
    assert verdict(mutant, tmp_path, seconds=20 if expected != LATE else 3) == expected
    assert (tmp_path / "code_under_test.py").read_text() == SOURCE


@pytest.mark.slow
def test_the_command_counts() -> None:
    """A process of its own: the copy's modules must not meet those that the tests have imported."""
    command = [sys.executable, "-m", "experiments.mutants", "--workers", "1", "scope/scoring/thinking.py", "first == 1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == "4 mutants: 1 explained, 3 killed"
