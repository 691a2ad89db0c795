"""How time and memory are measured. Steps run in turns, with the device idle before and after. Figures are medians."""

import gc
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
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
    """A figure and its target.

    measured: the figure; None if memory did not suffice.
    bound: the target; None if the figure has none. at_most: whether the figure must be at most the target, or at least.
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

    def data(self) -> dict[str, Any]:
        """As it is written into a results file."""
        return asdict(self) | {"ok": self.reached}

    def line(self) -> str:
        figure = f"{self.name:58} " + ("out of memory" if self.measured is None else f"{self.measured:8.3f}")
        if self.bound is None:
            return figure
        return f"{figure}  target {'<=' if self.at_most else '>='} {self.bound:g}  {'ok' if self.reached else 'short'}"


def ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one / other


def unless_out_of_memory(name: str, measure: Callable[[], T]) -> T | None:
    """The result of `measure`. If memory does not suffice, None, and a line on stderr that says so."""
    found = None
    try:
        found = measure()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        print(f"{name}: out of memory", file=sys.stderr)
    if torch.cuda.is_available():  # free the memory for the next measurement
        gc.collect()
        torch.cuda.empty_cache()
    return found


def in_turns(
    steps: Mapping[str, Callable[[], object]], count: int, device: torch.device, block: int = TURN
) -> dict[str, list[float]]:
    """Seconds of each of `count` steps of each kind.

    block: the kinds run in turns of this many steps. So other work on the machine slows all kinds alike. Within a turn
    a kind has the processor's caches to itself, as in a generation.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for done in range(0, count, block):
        for name, step in steps.items():
            for _ in range(min(block, count - done)):
                began = synchronised(device)
                step()
                seconds[name].append(synchronised(device) - began)
    return seconds


def milliseconds(seconds: Mapping[str, list[float]], first: int) -> dict[str, float]:
    """The median time of a step of each kind, in milliseconds, from step `first` on."""
    return {name: 1000 * median(found[first:]) for name, found in seconds.items()}


def over(seconds: Mapping[str, list[float]], one: str, other: str, first: int) -> float:
    """The time of a step of one kind, divided by that of the other, from step `first` on.

    The ratio is computed for each turn, and then the median is taken: other work on the machine lasts longer than a
    turn.
    """
    turns = range(first, len(seconds[one]), TURN)
    return median(median(seconds[one][t : t + TURN]) / median(seconds[other][t : t + TURN]) for t in turns)


def thinned(seconds: Mapping[str, list[float]], points: int = 64) -> dict[str, Any]:
    """Median milliseconds of a step in about `points` equal groups of steps. The groups are the same for all kinds."""
    every = max(1, max(map(len, seconds.values())) // points)
    return {
        "ms_per_step": {
            name: [1000 * median(found[i : i + every]) for i in range(0, len(found), every)]
            for name, found in seconds.items()
        },
        "steps_each": every,
    }


def processor(device: str) -> str:
    """The name of the GPU, or of the CPU where the machine says it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages that the tensors lie in. Each storage counts once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def held_bytes(thing: object) -> int:
    """Bytes of all tensors that an object refers to, directly or indirectly."""
    found, seen, waiting = [], set(), [thing]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            found.append(one)
        elif not isinstance(one, torch.nn.Module):  # weights belong to the model, not to a cache
            waiting += gc.get_referents(one)
    return storage_bytes(found)


class PeakMemory:
    """A context that measures the rise of the tensors' memory within it: the most in `bytes`, and what is left of it at
    the end in `left`.

    On a CPU it uses torch's profile of all allocations. That slows small operations, so do not measure time in it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes, self.left = device, 0, 0

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
            self.left = torch.cuda.memory_allocated(self.device) - self._before
            return
        self._profile.stop()
        results: Any = self._profile.profiler.kineto_results  # type: ignore[union-attr]
        changes = [event for event in results.events() if event.name() == "[memory]"]
        changes.sort(key=lambda event: event.start_ns())
        held = [*accumulate((change.nbytes() for change in changes), initial=0)]
        self.bytes, self.left = max(held), held[-1]
