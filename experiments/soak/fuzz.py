"""Odd requests. Each must be answered, or refused in one line, and must never give a traceback.

All cases run in this process, without a GPU or a network, and write into a folder of their own only. A case follows
from the seed and its number, so each can be repeated alone.
"""

import gc
import io
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from unittest.mock import patch

import huggingface_hub.constants
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import track

from analysis import paper, report, tables
from experiments.soak import odd
from scope.cli import run as command_line
from scope.cli.config import build
from scope.cli.explain import accounted, exit_code, keys, told
from scope.records import merge
from scope.runs.forecast import show_plan
from scope.scoring import __main__ as scoring
from scope.tasks import __main__ as sets
from scope.util.errors import print_anything, shown

CONF = command_line.CONF
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ("hydra", "fidelity_of"))
TINY = ["task.questions=1", "task.prompts=2", "task.max_new_tokens=4", "budget.prefill=40", "budget.decode=32"]
TINY += ["budget.recent=16", "name=base", "compare=false"]
HYDRA = ["hydra/launcher", "hydra/sweeper", "hydra/job_logging", "hydra.sweeper.pairs", "hydra.sweeper.params", "hydra"]
HYDRA += ["hydra.sweeper.max_batch_size", "hydra.job.name", "hydra.job.chdir", "hydra.verbose", "hydra.searchpath"]
HYDRA += ["hydra.mode", "hydra.callbacks", "hydra.output_subdir", "hydra.job.env_set", "hydra.launcher", "hydra.help"]
MISSPELT = ["spare", "metod", "method.windw", "budget.", ".budget", "task..name", "model.path.x", "ünder", "a b", ""]
FLAGS = "--cfg --cfg=job --cfg=all --cfg=wrong --resolve --package --package=task --help --run --info --info=defaults "
FLAGS += "--info=nonsense --config-name=nope --config-name=config --nonsense -c --config-dir=nowhere --version "
FLAGS += "--config-path=nowhere --shell-completion --experimental-rerun=x"
WRITTEN = ("output", "task.cache", "hydra.sweep.dir", "hydra.run.dir")  # keys of places: odd ones, and safe to be made
PLACES = ("x", "ü", "a/b", "../x", "/dev/null", "/dev/null/x", "a" * 300, "a b", "null", "[]", "1", "''", "\udcff")
SECONDS = 60  # that one case may take
CODES = (0, 1, 2)


class TooLongError(BaseException):
    """A case that did not end; no Exception, which the project's own code might take for a sample's failure."""


@dataclass(frozen=True)
class Answer:
    """What came of a case: its exit code, and what it printed."""

    code: object
    said: str

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.said

    @property
    def told(self) -> str:
        """The last line of what was printed."""
        return (self.said.strip().splitlines() or [""])[-1][:300]


Command = Callable[[Sequence[str]], object]
Case = tuple[str, Callable[[], object]]  # as one would type it, and the call


def main(cases: int, seed: int, first: int = 0) -> int:
    """Try so many cases, from the `first` on. -> the exit code: 1 where one was answered by a traceback."""
    console = Console(file=sys.__stderr__)
    root = Path(tempfile.mkdtemp(prefix="scope-fuzz-"))
    tracebacks = codes = 0
    with alone(root), patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True):
        finished_sweep()
        for number in track(range(first, first + cases), "fuzzing", console=console, transient=True):
            typed, answer = tried(number, seed)
            if answer.traceback or answer.code not in CODES:
                if cases == 1:  # somebody wants to see it
                    print(answer.said)
                again = f"python -m experiments.soak --fuzz 1 --seed {seed} --first {number}"
                print(f"exit code {answer.code}: {typed[:300]!r}: {answer.told}   # {again}", flush=True)
            tracebacks += answer.traceback
            codes += answer.code not in CODES
    shutil.rmtree(root)
    print(f"{cases} cases, {tracebacks} tracebacks, {codes} exit codes outside 0 1 2")
    return int(bool(tracebacks or codes))


def tried(number: int, seed: int) -> tuple[str, Answer]:
    """A case in a folder of its own, two levels below the one that all are in. -> what it was, and its answer."""
    lots = Random(f"{seed} {number}")
    make = lots.choice(KINDS)
    place = Path.cwd() / "case" / "here"
    place.mkdir(parents=True)
    base = Path.cwd() / "base"
    try:
        os.chdir(place)
        typed, call = make(lots, base)
        return typed, answered(call)
    finally:
        os.chdir(base.parent)
        shutil.rmtree(base.parent / "case")
        if number % 50 == 0:
            gc.collect()


def answered(call: Callable[[], object]) -> Answer:
    """Make a call as if nothing else had been called in this process before."""
    printed = io.BytesIO()
    out, err = (
        io.TextIOWrapper(printed, "utf-8", errors, write_through=True) for errors in ("strict", "backslashreplace")
    )
    code: object
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    with undisturbed(), redirect_stdout(out), redirect_stderr(err):
        try:
            code = call()
        except SystemExit as stop:
            code = stop.code or 0
        except TooLongError:
            code = f"none in {SECONDS} seconds"
        except BaseException:
            traceback.print_exc()
            code = "none"
    gc.unfreeze()  # what a sweep of the project has frozen for its own life
    return Answer(code, printed.getvalue().decode("utf-8", "replace"))


@contextmanager
def undisturbed() -> Iterator[None]:
    """What a command changes in its process is as it was afterwards; and it ends."""
    environment, argv, here, handlers = dict(os.environ), sys.argv, Path.cwd(), logging.root.handlers[:]

    def too_long(*_: object) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.chdir(here)
        sys.argv, logging.root.handlers[:] = argv, handlers
        logging.root.setLevel(logging.WARNING)
        logging.disable(logging.NOTSET)
        os.environ.clear()
        os.environ.update(environment)


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """In a folder, with an environment that shows no traceback which a user would not see."""
    here = Path.cwd()
    with patch.dict(os.environ, {"HYDRA_FULL_ERROR": "0", "COLUMNS": "200"}):
        os.chdir(root)
        try:
            yield
        finally:
            os.chdir(here)


def finished_sweep() -> None:
    """Two runs of two samples, and a share of two others, in the folder `base`."""
    for words in (["-m", "method=snapkv,full"], ["shard=1/2", "method=h2o"]):
        answer = answered(lambda words=words: main_py([*words, "output=base", *TINY]))  # type: ignore[misc]
        if answer.code:
            raise RuntimeError(answer.said)


def main_py(words: Sequence[str]) -> object:
    sys.argv = ["main.py", *words]
    return command_line.cli()


# kinds of cases: each draws one, for a finished sweep in `base`


def overrides(lots: Random, base: Path) -> Case:
    """Words of the command line, composed by Hydra: what cannot be, a plan, or sometimes a small run."""
    words = [word(lots) for _ in range(lots.choice((1, 1, 2, 4)))]
    other = any(word.startswith("task=") for word in words)  # which has no such keys
    words += [small for small in TINY if not (other and small.startswith("task."))]
    words += ["plan=true"] * (lots.random() < 0.9)
    words += [lots.choice(FLAGS.split())] * (lots.random() < 0.1) + ["-m"] * (lots.random() < 0.4)
    lots.shuffle(words)
    return f"python main.py {shlex.join(words)}", lambda: main_py(words)


def word(lots: Random) -> str:
    kind = lots.random()
    if kind < 0.35:
        group = lots.choice(GROUPS)
        return f"{lots.choice(('', '', '', '+', '++', '~'))}{group}={option(group, lots)}"
    key = lots.choice(lots.choice((known_keys(), known_keys(), HYDRA, MISSPELT, WRITTEN)))
    value = lots.choice(PLACES) if key in WRITTEN else odd.text(lots)
    if kind < 0.4:
        return lots.choice(
            (f"~{key}", key, f"={value}", f"{key}=={value}", f"{key}@x={value}", f"~{key}={value}", value)
        )
    return f"{lots.choice(('', '', '', '', '+', '++'))}{key}={value}"


def option(group: str, lots: Random) -> str:
    """Of the group, mostly; some need what is not here, and say so."""
    if lots.random() < 0.15:
        return odd.text(lots)
    return ",".join(lots.choice(options(group)) for _ in range(lots.choice((1, 1, 1, 2))))


@cache
def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@cache
def known_keys() -> list[str]:
    return [key for key in keys(CONF) if key not in WRITTEN]


@cache
def composed(choices: tuple[str, ...]) -> tuple[object, dict[str, str]]:
    from hydra import compose, initialize_config_dir

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(choices), return_hydra_config=True)
    chosen = dict(cfg.hydra.runtime.choices)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    for key, value in (assignment.split("=") for assignment in TINY):
        if OmegaConf.select(cfg, key) is not None:
            OmegaConf.update(cfg, key, value if key == "name" else yaml.safe_load(value))
    return cfg, chosen


def settings(lots: Random, base: Path) -> Case:
    """A configuration as Hydra might have composed it, with values that no command line could give."""
    group = lots.choice([group for group in GROUPS if group != "experiment"])
    taken = (f"{group}={lots.choice(options(group))}",)
    cfg, choices = composed(taken)
    plain = OmegaConf.to_container(cfg, resolve=False)  # type: ignore[arg-type]
    said = []
    for _ in range(lots.choice((1, 1, 2))):
        node, value = plain, odd.plain(lots)
        path = []
        while isinstance(node, dict) and node:
            parent, key = node, lots.choice(sorted(map(str, node)))
            node = parent.get(key)
            path.append(key)
            if lots.random() < 0.2:
                break
        if ".".join(path) in WRITTEN:
            value = lots.choice(PLACES)
        parent[key] = value
        said.append(f"{'.'.join(path)}={shown(value)}")

    def call() -> int:
        print_anything()
        try:
            made = OmegaConf.create(plain)
        except Exception:  # Hydra would not have composed it either
            return 2
        try:
            with accounted():
                job = build(made, choices)
                show_plan([job.experiment], 30, Console())
        except Exception as error:
            print(told(error, CONF, []), file=sys.stderr)
            return exit_code(error)
        return 0

    return f"build {' '.join((*taken, *said))}", call


def damaged(lots: Random, base: Path) -> Case:
    """A finished sweep with a file changed, read by whoever reads it."""
    shutil.copytree(base, "base", symlinks=True)
    runs = sorted(path.parent for path in Path("base").rglob("manifest.json"))
    done = [odd.damage(lots.choice(runs), lots)]
    command, words = lots.choice(READERS)
    return f"{'; '.join(done)}; {shlex.join(words)}", lambda: command(words)


def arguments(lots: Random, base: Path) -> Case:
    """Words that the other commands are given."""
    shutil.copytree(base, "base", symlinks=True)
    name, command = lots.choice(list(COMMANDS.items()))
    pool = "base base/base nowhere . base/base/table.csv /dev/null --out --preset --prompts --out=out --nope -h merge"
    pool += " build task=gsm8k_4k plan=true method=nope --preset=nope --preset=table1_4k --out=base/base/table.csv"
    pool = ["", "--out=/dev/null/x", f"--out={'a' * 300}", *pool.split(), *odd.WORDS[:20]]
    words = [lots.choice(pool) for _ in range(lots.choice((0, 1, 2, 3)))]
    words = ["merge" if name == "scope.records" else "build"] * (name in ("scope.records", "scope.tasks")) + words
    return f"python -m {name} {shlex.join(words)}", lambda: command(words)


COMMANDS: dict[str, Command] = {
    "analysis.tables": tables.main,
    "analysis.report": report.main,
    "analysis.paper": paper.main,
    "scope.scoring": scoring.main,
    "scope.records": merge.main,
    "scope.tasks": sets.main,
}
READERS: list[tuple[Command, list[str]]] = [
    (tables.main, ["base"]),
    (tables.main, ["base", "--preset", "table1_4k"]),
    (report.main, ["base"]),
    (report.main, ["base", "--prompts"]),
    (paper.main, ["base", "--out", "paper"]),
    (scoring.main, ["base"]),
    (merge.main, ["merge", "base"]),
    (main_py, ["-m", "method=snapkv,full", "output=base", *TINY]),
    (main_py, ["method=h2o", "shard=1/2", "output=base", *TINY]),
]
KINDS = (overrides, settings, settings, damaged, damaged, arguments)  # as often as each is drawn
