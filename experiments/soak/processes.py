"""Processes that are killed, and processes that meet."""

import importlib.util
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from experiments.soak.sweep import Answers, Found, Loss, NotTried, compare, ended, finish, must_finish, start, wait

WORKER = {"joblib": "loky", "ray": "ray::", "submitit_local": "submitit.core._submit"}  # in a worker's command line


def kills(root: Path, whole: Answers, count: int, seconds: float, end: float) -> Found:
    """Kill the sweep at random moments of its life until `count` kills hit it, a new sweep whenever one is finished.

    seconds: what an uninterrupted one takes; end: the moment, by time.monotonic, to give up at.
    """
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
    must_finish(folder)
    compare(folder, whole)
    if hits < count:
        raise Loss(f"only {hits} of {count} kills in the time given")
    done = f"{sweeps + 1} sweeps of {len(whole)} samples finished, {torn} torn lines redone"
    figures = {"kills": hits, "starts": starts, "sweeps": sweeps + 1, "torn": torn}
    return Found(f"{hits} kills in {starts} starts, {done}; nothing lost, doubled or changed", figures)


def twice(folder: Path, whole: Answers) -> Found:
    codes = [ended(child) for child in [start(folder), start(folder)]]
    if min(codes) < 0:
        raise Loss(f"{folder}: exit codes {codes}")
    finish(folder)
    compare(folder, whole)
    return Found(f"exit codes {codes}, every sample there once")


def killed_worker(launcher: str) -> Callable[[Path, Answers], Found]:
    """The sweep with a worker killed as soon as there is a record."""

    def run(folder: Path, whole: Answers) -> Found:
        plugin = f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher"
        if importlib.util.find_spec(plugin) is None:
            raise NotTried(f"{plugin} is not installed")
        child = start(folder, f"hydra/launcher={launcher}")
        end = time.monotonic() + 120
        while not any(p.stat().st_size for p in folder.glob("soak/*/records.jsonl")) and time.monotonic() < end:
            time.sleep(0.01)
        workers = [pid for pid in descendants(child) if is_worker(command_of(pid), launcher)]
        if not workers:
            ended(child)
            raise Loss(f"{folder}: no worker to kill was found")
        os.kill(workers[0], signal.SIGKILL)
        code = ended(child)
        again = finish(folder) if code else 0
        compare(folder, whole)
        return Found(f"the sweep ended with {code}" + (f", the same command with {again}" if code else ""))

    return run


def is_worker(command: str, launcher: str) -> bool:
    return WORKER[launcher] in command and not any(word in command for word in ("resource_tracker", "ray::IDLE"))


def descendants(parent: int) -> list[int]:
    below = Path(f"/proc/{parent}/task/{parent}/children")
    children = [int(pid) for pid in below.read_text().split()] if below.exists() else []
    return [*children, *(pid for child in children for pid in descendants(child))]


def command_of(pid: int) -> str:
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_text() if path.exists() else ""
