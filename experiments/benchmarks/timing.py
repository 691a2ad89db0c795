"""How things are timed: in turns, in blocks, with the device idle at both ends; figures are medians."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from types import TracebackType

import psutil
import torch

from scope.engine import synchronised


@dataclass(frozen=True)
class Target:
    """A figure and what it must reach: at most `bound`, or at least it."""

    name: str
    measured: float
    bound: float
    at_most: bool = True

    @property
    def reached(self) -> bool:
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    def line(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{self.name:58} {self.measured:8.3f}  target {sign} {self.bound:g}  {'ok' if self.reached else 'short'}"


def in_turns(
    steps: Mapping[str, Callable[[], object]], count: int, device: torch.device, block: int = 16
) -> dict[str, list[float]]:
    """Seconds of each of `count` steps of each kind. Kinds take turns block by block, so that what else the machine
    does falls on all alike, and a kind has the caches of the processor to itself for a while, as in a generation."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(0, count, block):
        for name, step in steps.items():
            for _ in range(block):
                began = synchronised(device)
                step()
                seconds[name].append(synchronised(device) - began)
    return seconds


def milliseconds(seconds: Mapping[str, list[float]], first: int) -> dict[str, float]:
    """The median of the steps from `first` on."""
    return {name: 1000 * median(found[first:]) for name, found in seconds.items()}


class PeakMemory:
    """A context that measures how far memory rose within it: `bytes`."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, 0
        self._stop = threading.Event()

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            self._before = psutil.Process().memory_info().rss
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._before
        else:
            self._stop.set()
            self._sampler.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.005):
            self.bytes = max(self.bytes, psutil.Process().memory_info().rss - self._before)
