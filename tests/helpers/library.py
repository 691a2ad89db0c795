"""Runs as library calls on the embedded model, for the tests. No test."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from scope import records
from scope.decoding import Slide
from scope.generation.engine import Engine
from scope.generation.models import ModelSource
from scope.generation.stream import Sampling
from scope.prefill import SnapKV
from scope.runs.experiment import Experiment
from scope.runs.run import run
from scope.runs.tracking import RunInfo
from scope.tasks import Arithmetic, Sample

TIMINGS = {"batch", "engine", "batch_rows", "batch_seconds", "prefill_seconds", "decode_seconds", "tokens_per_second"}

TIMINGS |= {"device", "threads", "cpu_wait"}


class Silent:
    """A tracker that remembers what it was told; of metrics, the summary and the samples the last ones, as they are."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.metrics: Mapping[str, float] = {}
        self.summary: Mapping[str, Any] = {}
        self.samples: list[Mapping[str, Any]] = []

    def start(self, run: RunInfo) -> None:
        self.told.append("start")

    def log(self, metrics: Mapping[str, float]) -> None:
        self.told.append(f"log {metrics['samples']}")
        self.metrics = metrics

    def finish(self, summary: Mapping[str, Any], samples: list[Mapping[str, Any]]) -> None:
        self.told.append(f"finish {summary['samples']} {len(samples)}")
        self.summary, self.samples = summary, samples


def experiment(**changes: Any) -> Experiment:
    settings = {
        "model": ModelSource(),
        "method": SnapKV(40, 8),
        "decoding": Slide(32, 16),
        "task": Arithmetic(questions=4, max_new_tokens=100, prompts=3),
        "sampling": Sampling(),
        "labels": {"model": "embedded", "method": "snapkv", "decoding": "slide", "task": "arithmetic"},
        "engine": Engine(batch_size=2),
    }
    return Experiment(**(settings | changes))


def go(what: Experiment, output: Path, tracker: Silent | None = None) -> tuple[Path, list[dict[str, Any]]]:
    folder = run(what, tracker or Silent(), output, Console(file=io.StringIO()))
    return folder, records.read(folder)


def but_for_timings(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In order of their samples: answers are recorded as they end."""
    return sorted(
        ({k: v for k, v in line.items() if k not in TIMINGS} for line in lines), key=lambda line: line["sample"]
    )


@dataclass(frozen=True)
class Skies:
    """A prompt of so many sentences each, four tokens a sentence."""

    sentences: tuple[int, ...] = (3, 10)
    most_tokens: int | None = None
    max_new_tokens: int = 4

    def samples(self) -> list[Sample]:
        return [Sample(f"{n}", " The sky looks grey." * n, (), most_tokens=self.most_tokens) for n in self.sentences]

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        return {}
