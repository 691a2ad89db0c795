"""Whether jobs that run beside each other on this machine have a core for each of their threads."""

import os


def crowded(jobs: int, threads: int | None, cores: int) -> str | None:
    """A line if so many jobs at once take more threads than there are cores; None where they fit.

    jobs: -1 is one for each core, as joblib has it. threads: of each job; None: joblib shares the cores out.
    """
    at_once = cores + 1 + jobs if jobs < 0 else jobs
    each = threads or max(1, cores // max(1, at_once))
    if at_once * each <= cores:
        return None
    said = f"note: {at_once} jobs at once with {each} thread{'s' * (each > 1)} each, on {cores} cores"
    return f"{said}: they wait for each other, and their tokens/s do not compare"


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_asked() -> int | None:
    """The threads that the environment asks for in each process; None where it does not."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else None
