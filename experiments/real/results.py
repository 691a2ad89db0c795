"""The results of rows, one line each: appended when a row has run, and read by the tables and figures."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.statistics import Interval, mean_by_prompt
from experiments.real.rows import ROWS, Row

HERE = Path(__file__).parent / "results"
REPLAYED = ("kl", "agreement", "log_likelihood_lost", "answers_recalled", "answers_kl")
HELD = ("cache_bytes", "full_cache_bytes")
DIGITS = 5  # significant ones that are kept


@dataclass(frozen=True)
class Result:
    """A row as it ran: for each prompt its cluster and the means over the prompt's forced tokens."""

    row: Row
    identity: str  # of the run, whose records had every token
    seconds: float
    prompts: Mapping[str, Mapping[str, Any]]

    def values(self, name: str) -> dict[str, float]:
        """Of each cluster: the mean over its prompts."""
        found: dict[str, list[float]] = {}
        for prompt in self.prompts.values():
            if prompt[name] is not None:
                found.setdefault(prompt["cluster"], []).append(prompt[name])
        return {cluster: float(np.mean(values)) for cluster, values in found.items()}

    def mean(self, name: str) -> Interval:
        return mean_by_prompt(list(self.values(name).values()), most=float("inf"))

    def minus(self, other: "Result", name: str) -> Interval:
        """The difference of the two means, paired by cluster."""
        own, others = self.values(name), other.values(name)
        return mean_by_prompt([own[cluster] - others[cluster] for cluster in own if cluster in others], float("inf"))

    @property
    def of_full(self) -> float:
        """The most bytes of its cache over those of the full cache, in the mean over the prompts."""
        return float(np.mean([prompt["cache_bytes"] / prompt["full_cache_bytes"] for prompt in self.prompts.values()]))


def path_of(model: str, task: str) -> Path:
    return HERE / f"{model}_{task}.jsonl"


def read(model: str, task: str) -> dict[Row, Result]:
    """The results so far. A line that a kill has cut is left out."""
    path = path_of(model, task)
    return {result.row: result for result in _lines(path)} if path.is_file() else {}


def _lines(path: Path) -> Iterator[Result]:
    by_name = {row.name: row for row in ROWS}
    for line in path.read_text().splitlines():
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        if found["row"] in by_name:
            yield Result(by_name[found["row"]], found["identity"], found["seconds"], found["prompts"])


def append(model: str, task: str, result: Result) -> None:
    path = path_of(model, task)
    path.parent.mkdir(exist_ok=True)
    told = {
        "row": result.row.name,
        "identity": result.identity,
        "seconds": round(result.seconds, 1),
        "prompts": result.prompts,
    }
    whole = not path.is_file() or path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write(("" if whole else "\n") + json.dumps(told, separators=(",", ":")) + "\n")


def of_records(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is kept of a run's records, by the name of the prompt: of a generation the task's own measures."""
    found = {}
    for line in lines:
        measured = {name: line[name] for name in REPLAYED if name in line} | line.get("measures", {})
        kept = {name: _short(value) for name, value in measured.items()} | {name: line[name] for name in HELD}
        found[line["sample"]] = {"cluster": line.get("cluster") or line["sample"]} | kept
    return found


def _short(value: float | None) -> float | None:
    return value if value is None or isinstance(value, int) else float(f"{value:.{DIGITS}g}")
