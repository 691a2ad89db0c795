"""The terminal: an answer as it is written, and what the cache holds."""

from collections.abc import Callable
from statistics import fmean
from types import TracebackType
from typing import Self

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from transformers import PreTrainedTokenizerBase, TextStreamer

from scope.cache.summary import Summary

MIB = 2**20
REFRESHED = 8  # times a second


def held(summary: Summary, tokens: int, seconds: float) -> str:
    """What a cache holds, in a line. tokens: so many decode steps have taken these seconds."""
    slots, full = (fmean(n for layer in some for n in layer) for some in (summary.slots, summary.full_slots))
    speed = f"{tokens / seconds:.1f} tokens/s | " if tokens > 0 else ""
    bytes_now = f"{summary.nbytes / MIB:.2f} MiB; full cache: {summary.full_nbytes / MIB:.2f} MiB"
    return f"{speed}{slots:.0f} of {full:.0f} slots in each head, {full - slots:.0f} evicted | {bytes_now}"


class Screen(TextStreamer):
    """A context in which `show` shows the tokens of one answer. At its end what the cache holds is a line of its own.

    On a terminal that line also stands below the answer while it is written.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, console: Console, below: Callable[[], str]) -> None:
        """below: gives the line below the answer."""
        super().__init__(tokenizer, skip_special_tokens=True)
        self._console, self._below, self._line = console, below, ""
        self._live = Live(console=console, refresh_per_second=REFRESHED, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.end()  # type: ignore[no-untyped-call]
        self._live.stop()
        if kind is None:
            self._print(self._line)
            self._print(f"[{self._below()}]", "dim")

    def show(self, token: int) -> None:
        """Show the next token of the answer."""
        self.put(torch.tensor([token]))  # type: ignore[no-untyped-call]

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Show the next piece of the answer; on a terminal its last line together with the line below."""
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            self._print(line)
        if self._live.is_started:
            self._live.update(Group(Text(self._line), Text(self._below(), "dim")))
        else:
            self._console.file.write(self._line)
            self._line = ""
            self._console.file.flush()

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style), soft_wrap=True)
