"""A sweep that is killed, starved of disk, damaged and run twice at once has to end as one that was left alone.

python -m experiments.soak [--kills 50] [--minutes 8]; prints what was found and exits 1 on any loss.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import main as command_line
import scope.sweep  # noqa: F401  # so that every fork starts with what it needs
from scope import records
from scope.files import write_whole

TIMINGS = {"batch_seconds", "prefill_seconds", "decode_seconds", "tokens_per_second"}
MAY_DIFFER = TIMINGS | {"batch", "batch_rows"}  # where a line was lost, its sample is answered again alone
SWEEP = ["-m", "method=snapkv,random", "decoding=slide,none", "task.questions=4", "task.max_new_tokens=100"]
SWEEP += ["task.prompts=8", "engine.batch_size=2", "budget.prefill=40", "budget.decode=32", "budget.recent=16"]
SWEEP += ["sampling.temperature=0.7", "name=soak"]
RUNS, PROMPTS = 4, 8


class Loss(Exception):  # noqa: N818
    """What must not happen."""


def start(folder: Path, *more: str) -> int:
    """The sweep below `folder` in a process of its own, which prints into `folder`/log. -> its id."""
    folder.mkdir(exist_ok=True)
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    log = os.open(folder.parent / f"{folder.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["main.py", *SWEEP, f"output={folder}", *more]
    code = 70
    try:
        code = command_line.cli()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(child: int, seconds: float) -> int | None:
    """Its exit code, negative for a signal; None where it still runs after so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def finish(folder: Path, *more: str) -> int:
    code = wait(start(folder, *more), 120)
    if code is None:
        raise Loss(f"{folder}: did not end in two minutes")
    return code


def answers(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Every sample of every run, without what may differ. Raises Loss for one that is there twice."""
    found = {}
    for path in sorted(folder.glob("soak/*/records.jsonl")):
        lines = records.read(path.parent)
        counted = Counter(re.findall(rb'^{"sample": "([^"]*)".*"}$', path.read_bytes(), re.M))
        if twice := [name for name, n in counted.items() if n > 1]:
            raise Loss(f"{path}: doubled: {twice}")
        for line in lines:
            found[path.parent.name, line["sample"]] = {k: v for k, v in line.items() if k not in MAY_DIFFER}
    return found


def compare(folder: Path, whole: dict[tuple[str, str], dict[str, Any]]) -> None:
    found = answers(folder)
    if lost := whole.keys() - found.keys():
        raise Loss(f"{folder}: lost: {sorted(lost)}")
    if found.keys() - whole.keys():
        raise Loss(f"{folder}: samples that nobody asked for")
    if changed := [key for key in whole if found[key] != whole[key]]:
        raise Loss(f"{folder}: changed: {changed}")


def kills(root: Path, whole: dict[tuple[str, str], dict[str, Any]], count: int, seconds: float, end: float) -> str:
    """Kill the sweep at random moments of its life until `count` kills hit it, a new sweep whenever one is finished."""
    lots, hits, sweeps, starts, torn = random.Random(0), 0, 0, 0, 0
    folder = root / "kills-0"
    while hits < count and time.monotonic() < end:
        child = start(folder)
        starts += 1
        code = wait(child, lots.uniform(0.0, 1.0) * seconds)
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            hits += 1
            continue
        if code:
            raise Loss(f"{folder}: exit code {code}")
        compare(folder, whole)
        torn += len(list(folder.glob("soak/*/records.damaged")))
        sweeps += 1
        folder = root / f"kills-{sweeps}"
    if finish(folder):
        raise Loss(f"{folder}: failed")
    compare(folder, whole)
    if hits < count:
        raise Loss(f"only {hits} of {count} kills in the time given")
    done = f"{sweeps + 1} sweeps of {len(whole)} samples finished, {torn} torn lines redone"
    return f"{hits} kills in {starts} starts, {done}; nothing lost, doubled or changed"


def damaged(change: Callable[[bytes], bytes]) -> Callable[[Path, dict[tuple[str, str], dict[str, Any]]], str]:
    def run(folder: Path, whole: dict[tuple[str, str], dict[str, Any]]) -> str:
        finish(folder)
        for path in folder.glob("soak/*/records.jsonl"):
            write_whole(path, change(path.read_bytes()))
        left = len(answers(folder))
        if finish(folder):
            raise Loss(f"{folder}: failed")
        compare(folder, whole)
        return f"{len(whole) - left} of {len(whole)} samples were recognised as damaged and answered again"

    return run


def flip(data: bytes) -> bytes:
    """One bit in the middle of the second line."""
    first, second, *rest = data.split(b"\n")
    at = len(second) // 2
    return b"\n".join([first, second[:at] + bytes([second[at] ^ 4]) + second[at + 1 :], *rest])


def full_disk(folder: Path, whole: dict[tuple[str, str], dict[str, Any]]) -> str:
    with tmpfs(folder, "48k"):
        code = finish(folder)
        before = answers(folder)
        subprocess.run(["mount", "-o", "remount,size=8m", str(folder)], check=True)
        if code != 1 or any(before[key] != whole[key] for key in before):
            raise Loss(f"{folder}: exit code {code}")
        said(folder, "No space left on device")
        if finish(folder):
            raise Loss(f"{folder}: failed after there was space again")
        compare(folder, whole)
        return (
            f"exit 1 and a clear line; {len(before)} of {len(whole)} samples intact, the others after there was space"
        )


def read_only(folder: Path, whole: dict[tuple[str, str], dict[str, Any]]) -> str:
    with tmpfs(folder, "8m"):
        finish(folder, "limit=3")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        code = finish(folder)
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        if code != 1:
            raise Loss(f"{folder}: exit code {code}")
        said(folder, "Read-only file system")
        before = len(answers(folder))
        finish(folder)
        compare(folder, whole)
        return f"exit 1 and a clear line; {before} samples intact, the others after it could be written again"


def twice(folder: Path, whole: dict[tuple[str, str], dict[str, Any]]) -> str:
    children = [start(folder), start(folder)]
    codes = [wait(child, 120) for child in children]
    if None in codes or min(code for code in codes if code is not None) < 0:
        raise Loss(f"{folder}: exit codes {codes}")
    finish(folder)
    compare(folder, whole)
    return f"exit codes {codes}, every sample there once"


def killed_worker(launcher: str) -> Callable[[Path, dict[tuple[str, str], dict[str, Any]]], str]:
    def run(folder: Path, whole: dict[tuple[str, str], dict[str, Any]]) -> str:
        child = start(folder, f"hydra/launcher={launcher}")
        end = time.monotonic() + 60
        while not any(p.stat().st_size for p in folder.glob("soak/*/records.jsonl")) and time.monotonic() < end:
            time.sleep(0.01)
        workers = [p for p in descendants(child) if "resource_tracker" not in command_of(p) and "loky" in command_of(p)]
        if not workers:
            raise Loss(f"{folder}: no worker to kill was found")
        os.kill(workers[0], signal.SIGKILL)
        code = wait(child, 180)
        again = finish(folder) if code else 0
        compare(folder, whole)
        return f"the sweep ended with {code}" + (f", the same command with {again}" if code else "")

    return run


def descendants(parent: int) -> list[int]:
    below = Path(f"/proc/{parent}/task/{parent}/children")
    children = [int(pid) for pid in below.read_text().split()] if below.exists() else []
    return [*children, *(pid for child in children for pid in descendants(child))]


def command_of(pid: int) -> str:
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_text() if path.exists() else ""


def said(folder: Path, words: str) -> None:
    log = (folder.parent / f"{folder.name}.log").read_text()
    if words not in log or "Traceback" in log:
        raise Loss(f"{folder}.log: no clear line about it")


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[None]:
    """A disk of that size; raises PermissionError where this user may not have one."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        raise PermissionError("only root may mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=8, help="for the kills; the faults take about two more")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    root = Path(tempfile.mkdtemp(prefix="scope-soak-"))
    began = time.monotonic()
    finish(root / "whole")
    whole, seconds = answers(root / "whole"), time.monotonic() - began
    if len(whole) != RUNS * PROMPTS:
        print(f"LOSS uninterrupted: {len(whole)} samples, see {root}")
        return 1
    print(f"uninterrupted: {len(whole)} samples in {seconds:.1f} s", flush=True)
    faults: dict[str, Callable[[Path, dict[tuple[str, str], dict[str, Any]]], str]] = {
        "killed at random": lambda folder, whole: kills(root, whole, options.kills, seconds, end),
        "torn line": damaged(lambda data: data[:-20]),
        "flipped bit": damaged(flip),
        "full disk": full_disk,
        "read-only": read_only,
        "two at once": twice,
        "joblib worker killed": killed_worker("joblib"),
    }
    losses = 0
    for name, fault in faults.items():
        try:
            print(f"{name}: {fault(root / name.replace(' ', '-'), whole)}", flush=True)
        except PermissionError as error:
            print(f"{name}: not tried: {error}", flush=True)
        except Loss as loss:
            losses += 1
            print(f"LOSS {name}: {loss}", flush=True)
    if losses:
        print(f"{losses} losses; what was written is in {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
