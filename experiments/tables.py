"""Tables in Markdown. This file needs nothing, so that benchmarks run where Hydra is not installed."""

from collections.abc import Iterable, Sequence


def pipe_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, the first column in words, the others numbers."""
    shown = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in shown)
