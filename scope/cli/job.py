"""What one composed configuration does: a run alone, compared with the full cache, or one run of a sweep."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis import tables
from scope import records
from scope.cli.config import NO_USE, Job, build, default_budget, files_of, unused
from scope.cli.sweep import setting_of
from scope.runs.experiment import Experiment
from scope.runs.forced import of_the_full_cache
from scope.runs.forecast import show_plan
from scope.runs.run import SamplesFailedError, run
from scope.runs.summary import summary
from scope.runs.tracking import kept_offline
from scope.util.errors import ConfigError, ScopeError, one_line
from scope.util.progress import Among
from scope.util.saying import say
from scope.util.secrets import redact
from scope.util.stopping import Stopped

NOT_COMPARED = "note: not compared with the full cache: {}; compare=false leaves it out"


def alone(cfg: Any, hydra: Any) -> str:
    """Run what a command without -m asks for, and print its table. -> the run's folder, or nothing for a plan.

    cfg: as composed. hydra: Hydra's part. With `compare=true` the full cache answers the same prompts afterwards,
    unless a finished run has them. Raises as `scope.runs.run.run` does, and ConfigError for what only a sweep can do.
    """
    _require_no_sweep(hydra)
    job = build(cfg, hydra.runtime.choices, files_of(hydra))
    console = Console(highlight=False)
    for note in _notes(cfg, hydra):
        say(console, note)
    compared = compared_with(job)
    if job.assumed_speed:
        show_plan([job.experiment, *compared], job.assumed_speed, console)
        return ""
    began, runs = time.time(), 1 + len(compared)
    try:
        folder = run(job.experiment, job.tracker, job.output, console, job.keeping, Among(1, runs, began))
    except Stopped as stop:
        if stop.done is None:
            raise
        folder, compared = stop.done, ()  # nothing else is begun after a signal
    except SamplesFailedError as error:
        _show(job, [error.folder], console)
        raise
    folders = [folder]
    for full in compared:
        try:
            keeping = replace(job.keeping, rerun=False)
            folders.append(run(full, job.tracker, job.output, console, keeping, Among(2, runs, began)))
        except ScopeError as error:  # it may not even fit in memory, which is why the cache is compressed
            say(console, NOT_COMPARED.format(one_line(str(redact(str(error))))))
    _show(job, folders, console)
    for written in folders:
        console.print(f"written: {written}", soft_wrap=True, markup=False)
    if offline := kept_offline(folders):
        console.print(offline, soft_wrap=True, markup=False)
    return str(folder)


def of_a_sweep(cfg: Any, hydra: Any) -> str | float | list[float]:
    """Run one job of a sweep. -> the run's folder, or what a sweeper that searches needs.

    Arguments as of `alone`. Raises as `scope.runs.run.run` does.
    """
    job = build(cfg, hydra.runtime.choices, files_of(hydra))
    direction = hydra.sweeper.get("direction")
    if job.experiment.replay and direction:
        raise ConfigError("measure=replay: has no accuracy, by which hydra/sweeper=optuna searches")
    console = Console(highlight=False)
    if job.assumed_speed:
        show_plan([job.experiment], job.assumed_speed, console)
        return ""
    setting = setting_of(hydra.overrides.task, hydra.job.config.override_dirname.exclude_keys)
    experiment = replace(job.experiment, setting=setting)
    folder = run(experiment, job.tracker, job.output, console, job.keeping, _among(hydra))
    if not direction:
        return str(folder)
    found = summary(list(records.read_run(folder).answered.values()))
    one = isinstance(direction, str) or len(direction) == 1
    return found["accuracy"] if one else [found["accuracy"], found["cache_share"]]


def compared_with(job: Job) -> tuple[Experiment, ...]:
    """The run to compare a job's with: the same prompts with the full cache.

    None for a run with the full cache, for a replay, which compares by itself, for a shard, and with `compare=false`.
    """
    own = job.experiment
    if not job.compare or own.replay or job.keeping.shard is not None:
        return ()
    full = replace(of_the_full_cache(own), granularity=own.granularity, trace=None)
    return () if full.policy == own.policy else (full,)


def _among(hydra: Any) -> Among | None:
    """The job's place in the sweep, which the sweeper has told; the time left only if jobs run one after the other."""
    of, began = (hydra.sweeper.get(key) for key in ("jobs", "began"))
    one_by_one = hydra.runtime.choices.get("hydra/launcher") == "basic"
    return Among(hydra.job.num + 1, of, began if one_by_one else None) if of else None


def _require_no_sweep(hydra: Any) -> None:
    if hydra.sweeper.get("params"):
        raise ConfigError(f"experiment={hydra.runtime.choices.get('experiment')}: is a sweep: add -m")
    for word in hydra.overrides.hydra:
        if word.startswith(("hydra/launcher=", "hydra/sweeper=")) and not word.endswith("=scope"):
            raise ConfigError(f"{word}: is for a sweep: add -m")


def _notes(cfg: Any, hydra: Any) -> Iterator[str]:
    """What the configuration asks for without effect, and a budget that nobody has chosen."""
    for word in unused(cfg, hydra.overrides.task):
        yield NO_USE.format(redact(word))
    if note := default_budget(cfg, hydra.overrides.task, hydra.runtime.choices):
        yield note


def _show(job: Job, folders: list[Path], console: Console) -> None:
    """Print the table of these runs; nothing for a shard, which is no whole run."""
    if job.keeping.shard is None:
        tables.show(tables.build(folders), console)
