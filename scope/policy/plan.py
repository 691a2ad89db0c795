"""What to keep of one layer's cache, in whole numbers: what a policy is told (`View`) and what it answers (`Plan`).

A slot holds the key and the value of one token, in one layer and one head. The letters are those of the SCOPE paper,
sections 3 and 4: P is the length of the prompt, C the prefill budget, D the decoding budget, T the most tokens that may
be generated, t the decode step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import floor


@dataclass(frozen=True)
class Plan:
    """Which slots of one row and layer stay: its oldest, its newest, and those with the highest scores in between.

    Slots are counted from the oldest token on. Scores are needed only if `best` is above 0.
    """

    head: int  # slots: the oldest ones
    best: int  # slots: of those in between, the ones with the highest scores
    tail: int  # slots: the newest ones
    ranked: bool = False  # after a prefill the best lie in order of score, the highest first; else in order of position
    # After a prefill only. None: each head of the layer keeps its `best`. Else the heads of the layer share as many,
    # wherever in the layer the highest scores lie, and each head keeps at least so many.
    least: int | None = None

    @property
    def slots(self) -> int:
        """How many slots stay; in the mean over the heads, if they share them."""
        return self.head + self.best + self.tail


@dataclass(frozen=True)
class View:
    """What a policy is told when it makes a plan: the sizes and the clock of one row in one layer.

    Sizes are in tokens or slots. The first four are always set, the rest only where the comments say it.
    """

    layer: int  # which layer this is, from 0
    layers: int  # how many layers the model has
    prompt: int  # P: tokens of the prompt
    stored: int  # slots stored now; in a decode step the new token is among them
    budget: int = 0  # after the prefill: C, the same in all layers; P if the method has no budget
    capacity: int = 0  # after the prefill: the most slots that the method leaves in this layer
    prefilled: tuple[int, ...] = ()  # after the prefill: slots that its plan left in each layer, sliding windows aside
    step: int = 0  # t, the decode step: 0 for the first generated token
    max_slots: int | None = None  # the mean over the layers of the slots that they may hold at once; None: no bound
    windows: tuple[int | None, ...] = ()  # of each layer: tokens that a query sees, its own included; None: all
    slot_bytes: tuple[int, ...] = ()  # bytes of one slot in each layer; empty if they are all equal

    def at(self, step: int, stored: int) -> "View":
        """The same row at another step. It is called in every step, and `replace` would take four times as long."""
        view = object.__new__(View)
        view.__dict__.update(self.__dict__, step=step, stored=stored)
        return view

    def of(self, layer: int) -> "View":
        """The same row in another layer. A short prompt leaves the same number of unused slots in every layer."""
        view = object.__new__(View)
        unused = self.capacity - self.prefilled[self.layer]
        view.__dict__.update(self.__dict__, layer=layer, capacity=self.prefilled[layer] + unused)
        return view

    @property
    def kept(self) -> int:
        """Slots that the prefill left in this layer, its sliding window counted in."""
        left, window = self.prefilled[self.layer], self.window
        return left if window is None else min(left, window - 1)

    @property
    def window(self) -> int | None:
        """The sliding window of this layer: the most slots that it holds at once, the new token included."""
        return self.windows[self.layer] if self.windows else None


ROUNDINGS = ("exact", "floor")


def pyramid(layer: int, layers: int, mean: int, most: int, beta: int, rounding: str = "exact") -> int:
    """How many of `layers * mean` slots a layer gets: linearly fewer from the first layer to the last.

    The last layer gets `mean // beta` slots, and the first as much above the mean as that is below. No layer gets more
    than `most`, which is at least the mean; the last layer then gets more instead. Source: PyramidKV, arXiv 2406.02069.

    rounding: with `exact` the layers' slots add up to `layers * mean`, and each is less than one slot from the line.
    With `floor`, the rule of the released code, the difference from one layer to the next is rounded down, so the sum
    is larger.
    """
    low = mean // beta
    high = 2 * mean - low
    if high > most:
        high = most
        low = 2 * mean - high
    if rounding == "floor":
        return high - layer * ((high - low) // layers)
    if layers == 1:
        return mean
    return _exact(layers, high, low)[layer]


@cache
def _exact(layers: int, high: int, low: int) -> tuple[int, ...]:
    """Whole numbers along the line from high to low, with the same sum."""
    return _rounded([high - Fraction(i * (high - low), layers - 1) for i in range(layers)])


@cache
def proportional(weights: tuple[float, ...], mean: int, most: int) -> tuple[int, ...]:
    """How many of `len(weights) * mean` slots each layer gets: one, and a share of the rest by its weight.

    weights: of each layer, above 0. mean: 1 or more. No layer gets more than `most`, which is at least the mean; the
    others share what it does not take, in the same proportion. The numbers add up to `len(weights) * mean`, and each is
    less than one slot from its share.
    """
    full: set[int] = set()
    while True:
        spread = sum((Fraction(weight) for layer, weight in enumerate(weights) if layer not in full), Fraction())
        scale = (len(weights) * (mean - 1) - len(full) * (most - 1)) / spread
        shares = [
            Fraction(most) if layer in full else 1 + scale * Fraction(weight) for layer, weight in enumerate(weights)
        ]
        over = {layer for layer, share in enumerate(shares) if share > most}
        if not over:
            return _rounded(shares)
        full |= over


def _rounded(shares: Sequence[Fraction]) -> tuple[int, ...]:
    """Whole numbers with the same sum, which is one, each less than one away. The largest fractions are rounded up."""
    floors = [floor(share) for share in shares]
    missing = int(sum(shares)) - sum(floors)
    first = sorted(range(len(shares)), key=lambda i: (floors[i] - shares[i], i))[:missing]
    return tuple(whole + (i in first) for i, whole in enumerate(floors))
