"""The results of rows, one line each: appended when a row has run, and read by tables and figures."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import Progress

from analysis.statistics import Interval, mean_by_prompt
from experiments.measure import measured_lines

REPLAYED = ("kl", "agreement", "log_likelihood_lost", "answers_recalled", "answers_kl")
HELD = ("cache_bytes", "full_cache_bytes")
PARTS = ("agreement", "answers_recalled", "values")  # in 0..1
DIGITS = 5  # significant ones that are kept


class Named(Protocol):
    """A row of an experiment."""

    @property
    def name(self) -> str:
        """Names the row in the results."""
        ...


R = TypeVar("R", bound=Named)
T = TypeVar("T")


@dataclass(frozen=True)
class Result(Generic[R]):
    """A row as it ran: for each prompt its cluster and the means over the prompt's forced tokens."""

    row: R
    identity: str  # of the run, whose records had every token
    seconds: float
    prompts: Mapping[str, Mapping[str, Any]]
    records: str = ""  # `hash_of` the run's records; results of before 2026-11-29 have none

    def values(self, name: str) -> dict[str, float]:
        """Of each cluster: the mean over its prompts."""
        found: dict[str, list[float]] = {}
        for prompt in self.prompts.values():
            if prompt[name] is not None:
                found.setdefault(prompt["cluster"], []).append(prompt[name])
        return {cluster: float(np.mean(values)) for cluster, values in found.items()}

    def mean(self, name: str) -> Interval:
        return mean_by_prompt(list(self.values(name).values()), most=1.0 if name in PARTS else float("inf"))

    def minus(self, other: "Result[R]", name: str) -> Interval:
        """The difference of the two means, paired by cluster."""
        own, others = self.values(name), other.values(name)
        return mean_by_prompt([own[cluster] - others[cluster] for cluster in own if cluster in others], float("inf"))

    @property
    def of_full(self) -> float:
        """The most bytes of its cache over those of the full cache, in the mean over the prompts."""
        return float(np.mean([prompt["cache_bytes"] / prompt["full_cache_bytes"] for prompt in self.prompts.values()]))


def read(path: Path, rows: Iterable[R]) -> dict[R, Result[R]]:
    """The results of these rows so far. A line that a kill has cut is left out."""
    return {result.row: result for result in _lines(path, rows)} if path.is_file() else {}


def _lines(path: Path, rows: Iterable[R]) -> Iterator[Result[R]]:
    by_name = {row.name: row for row in rows}
    for line in path.read_text().splitlines():
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        if found["row"] in by_name:
            told = (found["identity"], found["seconds"], found["prompts"], found.get("records", ""))
            yield Result(by_name[found["row"]], *told)


def append(path: Path, result: Result[R]) -> None:
    path.parent.mkdir(exist_ok=True)
    told = {
        "row": result.row.name,
        "identity": result.identity,
        "records": result.records,
        "seconds": round(result.seconds, 1),
        "prompts": result.prompts,
    }
    whole = not path.is_file() or path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write(("" if whole else "\n") + json.dumps(told, separators=(",", ":")) + "\n")


def measured(row: R, overrides: Sequence[str], output: Path) -> Result[R]:
    """Run a row, with all that the command line is told. Until it ends its records are below `output`."""
    began = time.monotonic()
    identity, lines = measured_lines(overrides, output)
    return Result(row, identity, time.monotonic() - began, of_records(lines), hash_of(lines))


def in_turn(jobs: Sequence[T], name: Callable[[T], str], hours: float) -> Iterator[T]:
    """These jobs, with a bar where there is a terminal. None is begun after so many hours."""
    until, console = time.monotonic() + 3600 * hours, Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("rows", total=len(jobs))
        for job in jobs:
            if time.monotonic() > until:
                return
            progress.update(bar, description=name(job))
            yield job
            progress.advance(bar)


def of_records(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is kept of a run's records, by the name of the prompt: of a generation the task's own measures."""
    found = {}
    for line in lines:
        measured = {name: line[name] for name in REPLAYED if name in line} | line.get("measures", {})
        kept = {name: _short(value) for name, value in measured.items()} | {name: line[name] for name in HELD}
        found[line["sample"]] = {"cluster": line.get("cluster") or line["sample"]} | kept
    return found


def hash_of(lines: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256, in 64 hex digits, of what was measured of each token, or of the texts that the model wrote."""
    told = {line["sample"]: line.get("replay") or line["generation"] for line in lines}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _short(value: float | None) -> float | None:
    return value if value is None or isinstance(value, int) else float(f"{value:.{DIGITS}g}")
