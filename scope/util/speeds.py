"""How speeds are printed, and how long this process waited for a processor."""

import math
from contextlib import suppress
from pathlib import Path

TASKS = Path("/proc/self/task")  # of Linux


def written(per_second: float) -> str:
    """A speed as text: at least one decimal and two significant digits, so that a slow one is not 0."""
    if not math.isfinite(per_second) or per_second == 0:
        return f"{per_second:.1f}"
    return f"{per_second:.{max(1, 1 - math.floor(math.log10(abs(per_second))))}f}"


class CpuWait:
    """How long this process's threads have waited for a processor since this was made.

    The kernel counts it for each thread, so it is right in a container too. It counts waiting for other processes, for
    a container's share of the processors, and for threads of this process where they are more than the processors.
    """

    def __init__(self) -> None:
        self._before = _thread_times()

    def share(self) -> float | None:
        """Waiting time divided by running and waiting time of all threads, 0..1. None if the system does not tell."""
        pairs = [(times, self._before.get(thread, (0, 0))) for thread, times in _thread_times().items()]
        ran = sum(now[0] - before[0] for now, before in pairs)
        waited = sum(now[1] - before[1] for now, before in pairs)
        return waited / (ran + waited) if ran > 0 and waited >= 0 else None


def _thread_times() -> dict[str, tuple[int, int]]:
    """Thread -> nanoseconds that it ran, and that it waited for a processor."""
    found = {}
    for file in TASKS.glob("*/schedstat"):
        with suppress(OSError, ValueError):  # a thread that has just ended
            ran, waited, *_ = file.read_text().split()
            found[file.parent.name] = int(ran), int(waited)
    return found
