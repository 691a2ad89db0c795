"""How things are timed and weighed: in turns, in blocks, with the device idle at both ends; figures are medians."""

import gc
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from types import FunctionType, ModuleType, TracebackType
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from scope.generation.clock import synchronised
from scope.util.memory import out_of_memory

T = TypeVar("T")
TURN = 16  # steps of a kind, one after the other


@dataclass(frozen=True)
class Target:
    """A figure and what it must reach: at most `bound`, or at least it; None: it is only to be known.

    measured: None where memory did not suffice.
    """

    name: str
    measured: float | None
    bound: float | None = None
    at_most: bool = True

    @property
    def reached(self) -> bool:
        if self.bound is None:
            return True
        if self.measured is None:
            return False
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    def line(self) -> str:
        figure = f"{self.name:58} " + ("out of memory" if self.measured is None else f"{self.measured:8.3f}")
        if self.bound is None:
            return figure
        return f"{figure}  target {'<=' if self.at_most else '>='} {self.bound:g}  {'ok' if self.reached else 'short'}"


def ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one / other


def unless_out_of_memory(name: str, measure: Callable[[], T]) -> T | None:
    """What it measures; None, and a line that says so, where memory does not suffice for it."""
    found = None
    try:
        found = measure()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        print(f"{name}: out of memory", file=sys.stderr)
    if torch.cuda.is_available():  # the next one has the memory to itself
        gc.collect()
        torch.cuda.empty_cache()
    return found


def in_turns(
    steps: Mapping[str, Callable[[], object]], count: int, device: torch.device, block: int = TURN
) -> dict[str, list[float]]:
    """Seconds of each of `count` steps of each kind. Kinds take turns block by block, so that what else the machine
    does falls on all alike, and a kind has the caches of the processor to itself for a while, as in a generation."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for done in range(0, count, block):
        for name, step in steps.items():
            for _ in range(min(block, count - done)):
                began = synchronised(device)
                step()
                seconds[name].append(synchronised(device) - began)
    return seconds


def milliseconds(seconds: Mapping[str, list[float]], first: int) -> dict[str, float]:
    """The median of the steps from `first` on."""
    return {name: 1000 * median(found[first:]) for name, found in seconds.items()}


def over(seconds: Mapping[str, list[float]], one: str, other: str, first: int) -> float:
    """A step of one kind over one of the other: of each turn, from step `first` on, and of these the median, since what
    else the machine does lasts for longer than a turn."""
    turns = range(first, len(seconds[one]), TURN)
    return median(median(seconds[one][t : t + TURN]) / median(seconds[other][t : t + TURN]) for t in turns)


def thinned(seconds: Mapping[str, list[float]], points: int = 64) -> dict[str, Any]:
    """The median milliseconds of about so many stretches of steps, the same for all kinds."""
    every = max(1, max(map(len, seconds.values())) // points)
    return {
        "ms_per_step": {
            name: [1000 * median(found[i : i + every]) for i in range(0, len(found), every)]
            for name, found in seconds.items()
        },
        "steps_each": every,
    }


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Of what they lie in, each counted once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def held_bytes(thing: object) -> int:
    """Of all tensors that can be reached from it, whatever they are called."""
    found, seen, waiting = [], set(), [thing]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            found.append(one)
        elif not isinstance(one, torch.nn.Module):  # a cache refers to no weights that are its own
            waiting += gc.get_referents(one)
    return storage_bytes(found)


class PeakMemory:
    """A context that measures how far the memory of tensors rose within it: `bytes`, to the byte.

    On a CPU from torch's record of each allocation, which slows small operations down: not for what is timed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, 0

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._profile.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._before
            return
        self._profile.stop()
        results: Any = self._profile.profiler.kineto_results  # type: ignore[union-attr]
        changes = [event for event in results.events() if event.name() == "[memory]"]
        changes.sort(key=lambda event: event.start_ns())
        self.bytes = max(accumulate((change.nbytes() for change in changes), initial=0))
