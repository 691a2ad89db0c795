"""python -m experiments.mutants: do the tests notice small faults?

First the tests run in a copy of the project without a fault. They must pass. Then each fault of `mutants.yaml` is put
into the copy, and the tests that it names run there. A fault survives if no test fails.

Exit code 0: no fault survived. 1: a fault survived, or its text is no longer in the file, or a test failed without any.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".yaml")
SECONDS = 180  # the time limit of the tests of one fault. A fault that makes them hang counts as noticed
KILLED, SURVIVED, LATE, STALE, EXPLAINED = "killed", "SURVIVED", "killed late", "STALE", "explained"


@dataclass(frozen=True)
class Mutant:
    """A fault: in `file` the text `old` is replaced by `new`.

    tests: the files of tests that must notice it. only: pytest's -k, which chooses among these tests.
    explained: why no test can notice the change; "" if a test must notice it.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    only: str = ""
    explained: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.old.strip()!r} -> {self.new.strip()!r}"

    def fits(self, root: Path) -> bool:
        """Whether its text is there, once."""
        return (root / self.file).exists() and (root / self.file).read_text().count(self.old) == 1

    def applied(self, text: str) -> str:
        return text.replace(self.old, self.new)


def mutants(path: Path = LIST) -> list[Mutant]:
    return [
        Mutant(part["file"], old, new, tuple(part["tests"]), part.get("only", ""), "".join(explained))
        for part in yaml.safe_load(path.read_text())
        for old, new, *explained in part["changes"]
    ]


def copied(root: Path, to: Path) -> Path:
    """The project's files, those not yet committed too, in a folder of their own."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    named = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in named:
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)
    return to


def tested(root: Path, tests: Sequence[str], only: str, seconds: float, log: Path) -> int | None:
    """pytest's exit code; None if it exceeds `seconds`. It runs in a fork, so libraries are imported once."""
    child = os.fork()
    if not child:
        _test(root, tests, only, log)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _test(root: Path, tests: Sequence[str], only: str, log: Path) -> None:
    """In a child: run the tests there, and end."""
    code = 70
    try:
        import pytest

        os.setsid()
        os.chdir(root)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["PYTHONPATH"] = str(root)
        sys.path[:] = [str(root), *(path for path in sys.path if path not in ("", str(ROOT)))]
        sys.dont_write_bytecode = True  # two faults of one second and one size would be the same to a cache
        chosen = ["-k", only] if only else []
        code = int(pytest.main(["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *chosen, *tests]))
    finally:
        os._exit(code)


def verdict(mutant: Mutant, root: Path, seconds: float = SECONDS) -> str:
    """What the tests say of a fault in the copy at `root`, which is left as it was."""
    if not mutant.fits(root):
        return STALE
    path = root / mutant.file
    whole = path.read_text()
    path.write_text(mutant.applied(whole))
    try:
        code = tested(root, mutant.tests, mutant.only, seconds, root / "mutant.log")
    finally:
        path.write_text(whole)
    if code == 0:
        return EXPLAINED if mutant.explained else SURVIVED
    return LATE if code is None else KILLED


@cache
def _own_copy(base: Path) -> Path:
    """Each worker's."""
    return copied(ROOT, base / str(os.getpid()))


def _in_copy(mutant: Mutant, base: Path) -> tuple[str, float]:
    began = time.monotonic()
    return verdict(mutant, _own_copy(base)), time.monotonic() - began


def _fails(tests: str, base: Path) -> str:
    """What is wrong with a file of tests where there is no fault: nothing, or the end of what it said."""
    root = _own_copy(base)
    code = tested(root, [tests], "", 4 * SECONDS, root / "mutant.log")
    return "" if code == 0 else f"{tests}: exit code {code}: {(root / 'mutant.log').read_text()[-2000:]}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only faults that have one of these in file or text")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    chosen = [m for m in mutants() if not options.words or any(word in str(m) for word in options.words)]
    import hypothesis  # noqa: F401  # these take seconds, and a fork has them
    import pandas  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    counts: dict[str, int] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(options.workers, mp_context=get_context("fork")) as pool,
    ):
        base = Path(folder)
        files = list(dict.fromkeys(tests for mutant in chosen for tests in mutant.tests))
        broken = [said for said in pool.map(_fails, files, [base] * len(files)) if said]
        if broken:
            print("these fail without any fault, so that nothing can be said:", *broken, sep="\n")
            return 1
        for mutant, (said, seconds) in zip(chosen, pool.map(_in_copy, chosen, [base] * len(chosen)), strict=True):
            counts[said] = counts.get(said, 0) + 1
            print(f"{said:13} {seconds:5.0f} s  {mutant}", flush=True)
    print(f"{len(chosen)} mutants: " + ", ".join(f"{count} {said}" for said, count in sorted(counts.items())))
    return int(any(counts.get(said) for said in (SURVIVED, STALE)))


if __name__ == "__main__":
    sys.exit(main())
