"""Running one configuration for a report: composed as on the command line, recorded and found again like any run."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from rich.console import Console

from analysis.statistics import Interval, clustered_proportion, mean_by_prompt
from scope import records
from scope.cli.config import Job, build
from scope.runs.run import finished, run

CONF = Path(__file__).resolve().parents[1] / "conf"


@dataclass(frozen=True)
class Measured:
    """What a run's records say: per prompt the marks of its questions, and mean bytes of a sequence's cache."""

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
    """What the command line would make of these."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(compose("config", list(overrides)), {})


def measure(overrides: Sequence[str], output: Path) -> Measured:
    """Run a configuration below `output`, or read it back where it ran before."""
    job = _job(overrides, output)
    return _read(job, run(job.experiment, job.tracker, job.output, _silent()))


def recorded(overrides: Sequence[str], output: Path) -> Measured | None:
    """Read a configuration back; None where it has not run to its end."""
    job = _job(overrides, output)
    folder = finished(job.experiment, job.output, _silent(), job.keeping)
    return folder and _read(job, folder)


def _job(overrides: Sequence[str], output: Path) -> Job:
    return composed([*overrides, f"output={output.parent}", f"name={output.name}"])


def _silent() -> Console:
    return Console(file=io.StringIO())


def _read(job: Job, folder: Path) -> Measured:
    names = {sample.name for sample in job.experiment.task.samples()}
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
    """The same of estimate and bounds in points; bounds of None: the prompts all differ by as much."""
    estimate, low, high = difference
    if estimate is None or low is None or high is None:
        return f"{estimate:+.1f}, no interval" if estimate else "no prompt differs"
    return f"{estimate:+.1f} [{low:+.1f}, {high:+.1f}]"
