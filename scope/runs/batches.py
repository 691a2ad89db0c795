"""Tries samples in batches; retries those that do not fit in memory or that fail."""

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any, TypeVar

import torch

from scope.util.errors import ScopeError
from scope.util.importing import allowed_packages
from scope.util.memory import out_of_memory
from scope.util.secrets import redact
from scope.util.speeds import CpuWait

_logger = logging.getLogger(__name__)
T = TypeVar("T")
Lines = list[dict[str, Any]]
OWN_ROOMS = ("prefill", "decoding", "tasks", "scoring")  # of scope: where a user adds files
OK, FAILED, OUT_OF_MEMORY = "ok", "failed", "out of memory"  # a record's status


class Begun:
    """A batch that begins now: when that was, and for how much of its time the process has waited for a processor."""

    def __init__(self) -> None:
        self._at, self._waiting = datetime.now(UTC).isoformat(timespec="milliseconds"), CpuWait()

    def fields(self, rows: int, engine: str, device: str, seconds: float) -> dict[str, Any]:
        """What a record tells of its batch. seconds: of decoding; with `compile` those of compiling are among them."""
        waited = self._waiting.share()  # since the batch began
        return {
            "batch": self._at,
            "batch_rows": rows,
            "engine": engine,
            "batch_seconds": round(seconds, 4),
            "device": device,
            "threads": torch.get_num_threads(),
            "cpu_wait": None if waited is None else round(waited, 3),
        }


def share(items: Sequence[T], part: tuple[int, int]) -> list[T]:
    """The i-th of n equal shares, for part (i, n)."""
    i, n = part
    return list(items[i - 1 :: n])


def attempts(
    items: Sequence[T],
    rows: int,
    answer: Callable[[Sequence[T], int], Iterable[tuple[T, Lines]]],
    give_up: Callable[[T, str, str], Lines],
) -> Iterator[tuple[T, Lines]]:
    """Yield each item with its records, as it is done.

    answer: is given items and a number of rows, starts the items in that order, and yields each with its records.
    give_up: makes the records of an item that failed alone, from its status and a reason.

    If `answer` runs out of memory, the items that are left are tried with half the rows. If it fails otherwise, the
    items that may have been under way are tried one by one. Ends early if `answer` does. Raises the ScopeError or
    OSError that `answer` raises, since no sample is to blame for it, and ScopeError if the device is lost.
    """
    left = list(items)
    while left:
        try:
            for item, lines in answer(left, rows):
                left = [other for other in left if other is not item]
                yield item, lines
        except Exception as error:
            status, reason = _judge(error)
        else:
            return
        if status == OUT_OF_MEMORY:
            _free()  # not in the except block: there, the traceback still holds the tensors
        if rows == 1:
            yield left[0], give_up(left[0], status, reason)
            left = left[1:]
        elif status == OUT_OF_MEMORY:
            rows //= 2
        else:
            suspects, left = left[:rows], left[rows:]
            yield from attempts(suspects, 1, answer, give_up)


def _judge(error: Exception) -> tuple[str, str]:
    """-> status and reason. Raises an error that every other sample would meet too."""
    if isinstance(error, ScopeError | OSError):
        raise error
    reason = redact(" ".join(f"{type(error).__name__}: {error}".split()))[:400]
    if out_of_memory(error):
        return OUT_OF_MEMORY, reason
    if isinstance(error, torch.AcceleratorError):
        raise ScopeError(f"the device is lost: {reason}") from error
    _logger.debug("a sample failed", exc_info=error)
    return FAILED, f"{reason}{redact(_where(error))}"


def _where(error: Exception) -> str:
    """Where it was raised, in words: the deepest place in a policy, task or scorer; empty where it was in none."""
    frames = [(frame, line) for frame, line in walk_tb(error.__traceback__) if _is_ours(frame)]
    if not frames:
        return ""
    frame, line = frames[-1]
    owner = frame.f_locals.get("self")
    name = frame.f_code.co_name if owner is None else f"{type(owner).__name__}.{frame.f_code.co_name}"
    path = "/".join(Path(frame.f_code.co_filename).parts[-3:])
    return f" ({path}:{line}, in {name})"


def _is_ours(frame: FrameType) -> bool:
    top, room = (*str(frame.f_globals.get("__name__")).split("."), "", "")[:2]
    return room in OWN_ROOMS if top == "scope" else top in allowed_packages()


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
