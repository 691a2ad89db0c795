"""Whether the speeds of one table may be held against each other, and what to say where they may not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.records import Run, Sample
from analysis.sheets import DAGGER

BUSY = 0.1  # of the time that the process waited for a processor: from here on its speed says little
MEASURED_WITH = {"engine": "engine", "device": "on", "threads": "threads", "batch_rows": "rows in a batch"}  # in words
SPEED_COLUMNS = (*MEASURED_WITH, "cpu_wait_percent", "speed_differs")
"""Columns of the frame. `batch_rows`: rows written at a time; several where batches differ. `cpu_wait_percent`: of the
time of its batches, for how much the process waited for a processor. `speed_differs`: in what, in words, this row's
speed was measured otherwise than most of the same model and task; empty where it may be held against theirs."""


def measured_with(run: Run) -> dict[str, Any]:
    """These columns of one run, but for the last, which needs the other rows."""
    samples, maker = run.samples, run.made_by[0]
    machine = ", ".join(f"{maker[key]}{word}" for key, word in (("machine", ""), ("cores", " cores")) if maker.get(key))
    names = {"cpu": f"cpu ({machine})" if machine else "cpu", "cuda": maker.get("gpu") or "cuda"}
    usual = "cuda" if maker.get("gpu") else "cpu" if machine else ""  # of records that do not say
    return {
        "engine": _several(s.engine for s in samples),
        "device": _several(names.get(device, device) for s in samples if (device := s.device or usual)),
        "threads": _several(threads for s in samples if (threads := s.threads or maker.get("threads"))),
        "batch_rows": _several(s.batch_rows for s in samples),
        "cpu_wait_percent": 100 * _waited(samples),
        "speed_differs": "",
    }


def differences(frame: pd.DataFrame) -> list[str]:
    """For each row in what its speed was measured otherwise than most of the same model and task."""
    found: list[list[str]] = [[] for _ in range(len(frame))]
    for rows in frame.groupby(["model", "task"], sort=False).indices.values():
        for column, words in MEASURED_WITH.items():
            values = {int(row): frame[column].iloc[row] for row in rows if frame[column].iloc[row]}
            usual = Counter(values.values()).most_common(1)
            for row, value in values.items():
                if value != usual[0][0]:
                    found[row].append(f"{words} {value}, not {usual[0][0]}")
    for row, percent in enumerate(frame["cpu_wait_percent"]):
        if percent > 100 * BUSY:
            found[row].append("on a busy machine")
    return ["; ".join(reasons) for reasons in found]


def marks(frame: pd.DataFrame) -> list[bool]:
    """Which speeds are to be marked."""
    return [bool(differs) for differs in frame["speed_differs"]]


def remarks_on(frame: pd.DataFrame) -> list[str]:
    """What has to be read with the marks: nothing, or one line."""
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


def _waited(samples: Sequence[Sample]) -> float:
    """The mean over batches, each as long as it took; a batch's own is what was known at its end."""
    last: dict[str, tuple[float, float]] = {}
    for s in samples:
        if s.cpu_wait is not None:
            last[s.batch] = max(last.get(s.batch, (0.0, 0.0)), (s.batch_seconds, s.cpu_wait))
    seconds = sum(seconds for seconds, _ in last.values())
    return sum(seconds * wait for seconds, wait in last.values()) / seconds if seconds else float("nan")
