"""Progress of a run on a terminal: samples done, tokens per second, time left. Silent where there is no terminal."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich import progress
from rich.console import Console

from scope.util.speeds import written


class Progress:
    """A context that shows a bar. `step` counts a decode step, `finish` the records of answers."""

    def __init__(self, title: str, samples: int, most_tokens: int, console: Console) -> None:
        self._samples, self._most_tokens = samples, most_tokens
        self._done = 0
        self._tokens = 0
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[samples]}"),
            progress.TextColumn("{task.fields[speed]}"),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(
            title, total=samples * most_tokens, samples=f"0/{samples} samples", speed="          tokens/s"
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
        speed = self._bar.tasks[0].speed or 0.0
        self._bar.update(self._task, advance=rows, speed=f"{written(speed):>8} tokens/s")

    def finish(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Count finished answers. The samples that are left are taken to be as long as these on average."""
        self._done += len(records)
        mean = self._tokens / self._done
        left = (self._samples - self._done) * mean
        samples = f"{self._done}/{self._samples} samples"
        self._bar.update(self._task, completed=self._tokens, total=self._tokens + left, samples=samples)
