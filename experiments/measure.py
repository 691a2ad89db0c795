"""Running one configuration for a report: composed as on the command line, recorded and found again like any run."""

import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from rich.console import Console

from analysis.statistics import Interval, clustered_proportion, mean_by_prompt
from scope import records
from scope.cli.config import Job, build
from scope.runs.run import finished, run
from scope.util.errors import ScopeError

CONF = Path(__file__).resolve().parents[1] / "conf"


@dataclass(frozen=True)
class Measured:
    """The result of a run, read from its records.

    marks: for each prompt, whether each question was answered right.
    cache_bytes, full_cache_bytes: the mean bytes of a sequence's cache, and those of the full cache.
    """

    marks: dict[str, list[bool]]
    cache_bytes: float
    full_cache_bytes: float

    @property
    def accuracy(self) -> Interval:
        """In 0..1, clustered by prompt."""
        rows = list(self.marks.values())
        return clustered_proportion([sum(row) for row in rows], [len(row) for row in rows])

    def minus(self, other: "Measured") -> Interval:
        """The difference of the two accuracies, in -1..1, paired over the same prompts."""
        assert self.marks.keys() == other.marks.keys()
        return mean_by_prompt([float(np.mean(row) - np.mean(other.marks[name])) for name, row in self.marks.items()])


def composed(overrides: Sequence[str]) -> Job:
    """The job that the command line composes from these overrides."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(compose("config", list(overrides)), {})


def measure(overrides: Sequence[str], output: Path) -> Measured:
    """The result of a configuration. It is run below `output`, unless a finished run is there."""
    return _read(*ran(overrides, output))


def ran(overrides: Sequence[str], output: Path) -> tuple[Job, Path]:
    """A configuration's job and the folder of its run. It is run below `output`, unless a finished run is there."""
    job = _job(overrides, output)
    return job, run(job.experiment, job.tracker, job.output, _silent())


def measured_lines(overrides: Sequence[str], output: Path) -> tuple[str, list[dict[str, Any]]]:
    """A configuration's identity and its records, one for each prompt. Its run is removed: it has each token.

    Raises ScopeError where a prompt has no result.
    """
    job, folder = ran(overrides, output)
    lines = [line for line in records.read(folder) if line["status"] == "ok"]
    if len(lines) != len(job.experiment.requests()):
        raise ScopeError(f"{folder}: {len(lines)} of {len(job.experiment.requests())} prompts have a result")
    shutil.rmtree(folder)
    return job.experiment.identity(), lines


def recorded(overrides: Sequence[str], output: Path) -> Measured | None:
    """The result of a configuration that has been run; None if there is no finished run."""
    job = _job(overrides, output)
    there = finished(job.experiment, job.output, _silent(), job.keeping)
    return there and _read(job, there[0])


def _job(overrides: Sequence[str], output: Path) -> Job:
    return composed([*overrides, f"output={output.parent}", f"name={output.name}"])


def _silent() -> Console:
    return Console(file=io.StringIO())


def _read(job: Job, folder: Path) -> Measured:
    names = {sample.name for sample in job.experiment.samples}
    lines = [line for line in records.read(folder) if line["sample"] in names]
    return Measured(
        {line["sample"]: [answer["scores"]["aligned"]["correct"] for answer in line["questions"]] for line in lines},
        float(np.mean([line["cache_bytes"] for line in lines])),
        float(np.mean([line["full_cache_bytes"] for line in lines])),
    )


def points(difference: Interval) -> str:
    """A difference of accuracies in percentage points, with its interval where it has one."""
    return in_points([None if isnan(value) else 100 * value for value in difference])


def in_points(difference: Sequence[float | None]) -> str:
    """The text of (estimate, lower bound, upper bound) in points. Bounds are None if all prompts differ equally."""
    estimate, low, high = difference
    if estimate is None or low is None or high is None:
        return f"{estimate:+.1f}, no interval" if estimate else "no prompt differs"
    return f"{estimate:+.1f} [{low:+.1f}, {high:+.1f}]"


def cell(value: Interval, scale: float, form: str, star: bool = True) -> str:
    """An estimate with its interval; a star where the interval excludes 0."""
    estimate, low, high = (scale * number for number in value)
    if isnan(low):
        return format(estimate, form)
    differs = " *" if star and (low > 0 or high < 0) else ""
    return f"{estimate:{form}} [{low:{form}}, {high:{form}}]{differs}"
