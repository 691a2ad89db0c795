"""Progress of a run on a terminal: samples done, tokens per second, time left. Silent where there is no terminal."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich import progress
from rich.console import Console
from rich.table import Column

from scope.util.speeds import written


@dataclass(frozen=True)
class Among:
    """The place of a run among those of one command, which run in this order.

    number: from 1. of: how many there are. began: when the first one began, in seconds since 1970; None where they run
    beside each other, so that nobody knows how long all will take.
    """

    number: int
    of: int
    began: float | None = None

    def seconds_left(self, now: float, own: float) -> float | None:
        """Of all runs of the command. own: of this run. The runs to come are taken to last as long as those so far."""
        if self.began is None:
            return None
        each = (now - self.began + own) / self.number
        return own + (self.of - self.number) * each


class Progress:
    """A context that shows a bar. `step` counts a decode step, `finish` the records of answers."""

    def __init__(
        self, title: str, samples: int, most_tokens: int, console: Console, among: Among | None = None
    ) -> None:
        self._samples, self._most_tokens = samples, most_tokens
        self._done = 0
        self._tokens = 0
        self._among = among if among and among.of > 1 else None
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            progress.BarColumn(bar_width=10),
            progress.TextColumn("{task.fields[samples]}", table_column=Column(no_wrap=True)),
            progress.TextColumn("{task.fields[speed]}", table_column=Column(no_wrap=True)),
            progress.TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            progress.TextColumn("{task.fields[all_left]}", table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            expand=True,
        )
        place = f"[{self._among.number}/{self._among.of}] " if self._among else ""
        self._task = self._bar.add_task(
            (place + title).replace("[", r"\["),
            total=samples * most_tokens,
            samples=f"0/{samples} samples",
            speed=" " * 12,
            all_left="",
        )

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, rows: int) -> None:
        """One decode step of that many rows."""
        self._tokens += rows
        task = self._bar.tasks[0]
        speed = f"{written(task.speed or 0.0):>6} tokens/s"
        self._bar.update(self._task, advance=rows, speed=speed, all_left=self._all_left(task.time_remaining))

    def _all_left(self, own: float | None) -> str:
        """The time left for all runs of the command, in words; nothing where it is not known."""
        left = None if own is None or self._among is None else self._among.seconds_left(time.time(), own)
        return "" if left is None else f"all {timedelta(seconds=round(left))}"

    def finish(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Count finished answers. The samples that are left are taken to be as long as these on average."""
        self._done += len(records)
        mean = self._tokens / self._done
        left = (self._samples - self._done) * mean
        samples = f"{self._done}/{self._samples} samples"
        self._bar.update(self._task, completed=self._tokens, total=self._tokens + left, samples=samples)
