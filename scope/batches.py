"""Which samples are answered together, and what becomes of a batch that does not fit or holds a sample that fails."""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from scope.errors import ScopeError
from scope.secrets import redact

T = TypeVar("T")
Lines = list[dict[str, Any]]
OK, FAILED, OUT_OF_MEMORY = "ok", "failed", "out of memory"  # a record's status


def batches(items: Sequence[T], size: int, part: tuple[int, int] = (1, 1)) -> Iterator[Sequence[T]]:
    """`items` in batches of `size`, or the i-th of n equal shares of these batches for part (i, n).

    A batch holds the same samples whatever was answered before and however a run is shared out.
    """
    i, n = part
    for start in range((i - 1) * size, len(items), n * size):
        yield items[start : start + size]


class Attempts:
    """Answers batches, smaller ones from the first that did not fit in memory, and alone those of one that failed."""

    def __init__(self) -> None:
        self._rows: int | None = None  # the most that fit, once that is known

    def make(
        self, batch: Sequence[T], answer: Callable[[Sequence[T]], Lines], give_up: Callable[[T, str, str], Lines]
    ) -> Iterator[Lines]:
        """-> the records of parts of `batch`. `give_up` makes those of one that failed, from its status and a reason.

        Raises ScopeError as `answer` does, for what is not the fault of a sample, and where the device is lost.
        """
        waiting = [batch]
        while waiting:
            some = waiting.pop(0)
            if self._rows and len(some) > self._rows:
                waiting[:0] = [some[at : at + self._rows] for at in range(0, len(some), self._rows)]
                continue
            try:
                lines = answer(some)
            except Exception as error:
                status, reason = _judge(error)
            else:
                yield lines
                continue
            if status == OUT_OF_MEMORY:
                _free()  # only here, where the error and the tensors that its traceback holds are gone
            if len(some) == 1:
                yield give_up(some[0], status, reason)
            elif status == OUT_OF_MEMORY:
                self._rows = len(some) // 2
                waiting.insert(0, some)
            else:
                waiting[:0] = [[one] for one in some]


def _judge(error: Exception) -> tuple[str, str]:
    """-> status and reason. Raises what no other batch would survive either."""
    if isinstance(error, ScopeError | OSError):
        raise error
    reason = redact(" ".join(f"{type(error).__name__}: {error}".split()))[:500]
    if _is_out_of_memory(error):
        return OUT_OF_MEMORY, reason
    if isinstance(error, torch.AcceleratorError):
        raise ScopeError(f"the device is lost: {reason}") from error
    return FAILED, reason


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
