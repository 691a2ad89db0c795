"""The sweep that is disturbed, in a process of its own, and what it has to leave behind."""

import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import scope.cli.sweep  # noqa: F401  # so that every fork starts with what it needs
from scope import records
from scope.cli import run as command_line

TIMINGS = {"batch_seconds", "prefill_seconds", "decode_seconds", "tokens_per_second", "cpu_wait"}
MAY_DIFFER = TIMINGS | {"batch", "batch_rows"}  # where a line was lost, its sample is answered again alone
SWEEP = ["-m", "method=snapkv,random", "decoding=slide,none", "task.questions=4", "task.max_new_tokens=100"]
SWEEP += ["task.prompts=8", "engine.batch_size=2", "budget.prefill=40", "budget.decode=32", "budget.recent=16"]
SWEEP += ["sampling.temperature=0.7", "name=soak"]
RUNS, PROMPTS = 4, 8
PATIENCE = 180  # seconds, for one sweep to end

Answers = dict[tuple[str, str], dict[str, Any]]  # by run and sample


class Loss(Exception):  # noqa: N818
    """What must not happen."""


class NotTried(Exception):  # noqa: N818
    """What this machine does not allow, and why."""


@dataclass(frozen=True)
class Found:
    """What a disturbance came to, in words, and its figures."""

    said: str
    figures: Mapping[str, float] = field(default_factory=dict)


def start(folder: Path, *more: str, sweep: list[str] = SWEEP, **environment: str) -> int:
    """The sweep below `folder` in a process of its own, which prints into `folder`.log. -> its id."""
    folder.mkdir(exist_ok=True)
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    log = os.open(log_of(folder), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(environment)
    sys.argv = ["main.py", *sweep, f"output={folder}", *more]
    code = 70
    try:
        code = command_line.cli()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(child: int, seconds: float) -> int | None:
    """The exit code of a process, negative for a signal; None if it still runs after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def ended(child: int) -> int:
    """The exit code of a process. If it does not end in time, it and its children are killed, and Loss is raised."""
    code = wait(child, PATIENCE)
    if code is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise Loss(f"a sweep did not end in {PATIENCE} seconds")
    return code


def finish(folder: Path, *more: str, **environment: str) -> int:
    """Run the sweep to its end. -> its exit code."""
    return ended(start(folder, *more, **environment))


def must_finish(folder: Path) -> None:
    if code := finish(folder):
        raise Loss(f"{folder}: the sweep failed with exit code {code}")


def answers(folder: Path) -> Answers:
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


def compare(folder: Path, whole: Answers) -> None:
    """Raises Loss for a sample that is missing, doubled or another than in the uninterrupted sweep."""
    found = answers(folder)
    if lost := whole.keys() - found.keys():
        raise Loss(f"{folder}: {len(lost)} of {len(whole)} samples lost: {sorted(lost)[:3]}")
    if found.keys() - whole.keys():
        raise Loss(f"{folder}: samples that nobody asked for")
    if changed := [key for key in whole if found[key] != whole[key]]:
        raise Loss(f"{folder}: {len(changed)} of {len(whole)} samples changed: {changed[:3]}")


def log_of(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.log"


def said(folder: Path, words: str) -> None:
    """Raises Loss where the sweep's output lacks these words, or holds a traceback."""
    log = log_of(folder).read_text()
    if words not in log or "Traceback" in log:
        raise Loss(f"{log_of(folder)}: no clear line about it")
