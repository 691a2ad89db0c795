"""Speeds of decoding, whether those of one table may be compared, and what to say where they may not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from analysis.records import Run, Sample

DAGGER = "\N{DAGGER}"  # after a speed that does not compare with the others
BUSY = 0.1  # share of the time spent waiting for a processor; above it a speed says little
MEASURED_WITH = {"engine": "engine", "device": "on", "threads": "threads", "batch_rows": "rows in a batch"}  # in words
SPEED_COLUMNS = (*MEASURED_WITH, "cpu_wait_percent", "speed_differs")  # of the frame: what a speed was measured with


def engine(run: Run) -> str:
    """What computed the decode steps: eager, compile, graph; several where batches differ."""
    return _several(s.engine for s in run.samples)


def device(run: Run) -> str:
    """What a run was computed on: the name of the GPU, or cpu with the machine. Empty where nothing is known."""
    maker = run.made_by[0]
    machine = ", ".join(f"{maker[key]}{word}" for key, word in (("machine", ""), ("cores", " cores")) if maker.get(key))
    names = {"cpu": f"cpu ({machine})" if machine else "cpu", "cuda": maker.get("gpu") or "cuda"}
    usual = "cuda" if maker.get("gpu") else "cpu" if machine else ""  # of records that do not say
    return _several(names.get(found, found) for s in run.samples if (found := s.device or usual))


def threads(run: Run) -> str:
    """The threads of torch; several where batches differ."""
    usual = run.made_by[0].get("threads")
    return _several(found for s in run.samples if (found := s.threads or usual))


def batch_rows(run: Run) -> str:
    """How many answers were written at a time; several where batches differ."""
    return _several(s.batch_rows for s in run.samples)


def tokens_per_second(samples: Sequence[Sample]) -> float:
    """All tokens generated over the decoding time of all batches one after the other; NaN without any.

    A batch lasts until its last row has ended. Replays generate none: their speed is not that of decoding.
    """
    longest: dict[str, float] = {}
    samples = [s for s in samples if s.replay is None]
    for s in samples:
        longest[s.batch] = max(longest.get(s.batch, 0.0), s.batch_seconds)
    seconds = sum(longest.values())
    return sum(s.generated_tokens for s in samples) / seconds if seconds else float("nan")


class Batch(NamedTuple):
    """What one batch held and how fast it decoded."""

    tokens: float  # of a sequence, prompt included: the mean
    rows: int
    tokens_per_second: float
    cache_bytes: float  # of a sequence: the mean


def batches(samples: Sequence[Sample]) -> list[Batch]:
    """The batches of a run that took any time, in the order they began."""
    answers: dict[str, list[Sample]] = {}
    for s in samples:
        if s.replay is None:
            answers.setdefault(s.batch, []).append(s)
    found = []
    for rows in answers.values():
        seconds = max(s.batch_seconds for s in rows)
        if seconds > 0:
            length = sum(s.prompt_tokens + s.generated_tokens for s in rows) / len(rows)
            speed = sum(s.generated_tokens for s in rows) / seconds
            found.append(Batch(length, rows[0].batch_rows, speed, sum(s.cache_bytes for s in rows) / len(rows)))
    return found


def differences(frame: pd.DataFrame) -> list[str]:
    """For each row how its speed was measured otherwise than most of the same model and task.

    In words; empty where the speed may be compared with theirs.
    """
    found: list[list[str]] = [[] for _ in range(len(frame))]
    timed = frame["tokens_per_second"].notna()
    for rows in frame.groupby(["model", "task"], sort=False).indices.values():
        for column, words in MEASURED_WITH.items():
            values = {int(row): frame[column].iloc[row] for row in rows if timed.iloc[row] and frame[column].iloc[row]}
            usual = Counter(values.values()).most_common(1)
            for row, value in values.items():
                if value != usual[0][0]:
                    found[row].append(f"{words} {value}, not {usual[0][0]}")
    for row, percent in enumerate(frame["cpu_wait_percent"]):
        if timed.iloc[row] and percent > 100 * BUSY:
            found[row].append("on a busy machine")
    return ["; ".join(reasons) for reasons in found]


def remarks_on(frame: pd.DataFrame) -> list[str]:
    """What has to be said under a table with daggers: nothing, or one line."""
    rows: dict[str, list[str]] = {}
    named: Sequence[Mapping[str, Any]] = frame.to_dict("records")
    for row in named:
        for reason in filter(None, row["speed_differs"].split("; ")):
            rows.setdefault(reason, []).append(f"{row['method']} + {row['decoding']}")
    if not rows:
        return []
    said = "; ".join(f"{reason} ({_which(names, len(named))})" for reason, names in rows.items())
    return [f"{DAGGER} tokens/s do not compare: {said}."]


def _which(names: Sequence[str], of: int) -> str:
    if len(names) == of:
        return "all rows"
    several = list(dict.fromkeys(names))
    return ", ".join(several[:4]) + f" and {len(several) - 4} more" * (len(several) > 4)


def _several(values: Any) -> str:
    return " and ".join(sorted({str(value) for value in values}))


def waited(samples: Sequence[Sample]) -> float:
    """For how much of the time of its batches, 0..1, a run waited for a processor; NaN where that is not recorded.

    A batch counts by its seconds. Its share is the one recorded at its end.
    """
    last: dict[str, tuple[float, float]] = {}
    for s in samples:
        if s.cpu_wait is not None:
            last[s.batch] = max(last.get(s.batch, (0.0, 0.0)), (s.batch_seconds, s.cpu_wait))
    seconds = sum(seconds for seconds, _ in last.values())
    return sum(seconds * wait for seconds, wait in last.values()) / seconds if seconds else float("nan")
