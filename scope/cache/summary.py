"""What a cache is and what it holds, as data and in five lines."""

from collections.abc import Iterable
from dataclasses import dataclass

UNKNOWN = "known after the prompt"


@dataclass(frozen=True)
class Summary:
    """A cache as it is now: what `CompressedCache.summary` gives. Its text has five lines.

    L layers, B rows. Before the prompt has been compressed there are no rows: what is counted in rows is then empty, in
    each layer, and bytes are 0. Slots are counted in each head; if the heads of a layer share slots, in the mean.
    """

    prefill: str  # the prefill method with its settings
    decoding: str  # the decoding strategy with its settings
    bound: str  # `max_bytes=...` or `max_slots=...`; empty: there is none
    granularity: str  # as of `Policy`
    precision: str  # as of `Policy`
    heads: tuple[int, ...]  # [L]: heads that are stored
    tokens: tuple[int, ...]  # [B]: that came so far, padding aside
    budgets: tuple[int, ...]  # [B]: C, in slots
    most: tuple[tuple[int | None, ...], ...]  # [L][B]: slots that are ever held at once; None: there is no bound
    slots: tuple[tuple[int, ...], ...]  # [L][B]: slots that are held
    full_slots: tuple[tuple[int, ...], ...]  # [L][B]: slots that transformers' own cache would hold
    nbytes: int  # allocated for keys, values and channels, of all layers and rows
    full_nbytes: int  # bytes of the keys and values that transformers' own cache would hold

    @property
    def layers(self) -> int:
        """L."""
        return len(self.heads)

    @property
    def rows(self) -> int:
        """B; 0 before the prompt."""
        return len(self.tokens)

    def __str__(self) -> str:
        policy = ", ".join(filter(None, (f"{self.prefill} + {self.decoding}", self.bound)))
        budgets = slots = sizes = UNKNOWN
        if self.rows:
            most = {n for layer in self.most for n in layer}
            highest = "no bound" if None in most else f"at most {_span(n for n in most if n is not None)}"
            budgets = f"{_span(self.budgets)} of the prompt, {highest} at once"
            slots = f"{_span(_flat(self.slots))} in each head; full cache: {_span(_flat(self.full_slots))}"
            sizes = f"{self.nbytes}; full cache: {self.full_nbytes}"
        shape = f"{self.layers}, heads: {_span(self.heads)} ({self.granularity}, {self.precision}), rows: {self.rows}"
        return f"{policy}\nbudgets: {budgets}\nslots: {slots}\nbytes: {sizes}\nlayers: {shape}"


def _flat(counts: Iterable[Iterable[int]]) -> list[int]:
    return [n for some in counts for n in some]


def _span(counts: Iterable[int]) -> str:
    """`64`, or `48 to 64` where they differ."""
    ordered = sorted({*counts})
    return f"{ordered[0]}" if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"
