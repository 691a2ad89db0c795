"""What to keep of one layer's cache, in whole numbers: sizes, clocks and the plan made from them.

Words (paper, sections 3 and 4): a *slot* holds the key/value pair of one token in one layer and head. P is the prompt's
length, C the prefill budget, D the decoding budget, T the most tokens a sample may generate, t the decode step.
"""

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Plan:
    """Keep the first `head` slots, the `best`-scored ones of the middle, and the last `tail`.

    What stays of a prompt lies in order of position; with `ranked`, the best lie in order of score.
    """

    head: int
    best: int
    tail: int
    ranked: bool = False

    @property
    def slots(self) -> int:
        return self.head + self.best + self.tail


@dataclass(frozen=True)
class View:
    """All that a plan may look at, for one row of one layer."""

    layer: int
    layers: int
    prompt: int  # P: tokens of the prompt
    stored: int  # slots stored now; while decoding, this step's own token included
    budget: int = 0  # C: the prefill budget, the same in all layers; P where the method has none
    capacity: int = 0  # C in this layer: the most the prefill method leaves here
    prefilled: tuple[int, ...] = ()  # slots that the prefill method leaves in each layer, where no window bounds it
    step: int = 0  # t: 0 for the first token fed back
    room: int | None = None  # where bytes bound the cache: slots a layer may hold at once, on average over the layers
    windows: tuple[int | None, ...] = ()  # of each layer: tokens that a query sees, itself included; None: all
    slot_bytes: tuple[int, ...] = ()  # of each layer, where they differ

    def at(self, step: int, stored: int) -> "View":
        """The same row at that step. Made for every row and layer in every step: `replace` takes four times as long."""
        view = object.__new__(View)
        view.__dict__.update(self.__dict__, step=step, stored=stored)
        return view

    def of(self, layer: int) -> "View":
        """The same row in another layer. Slots that a short prompt leaves unused are as many in all of them."""
        view = object.__new__(View)
        unused = self.capacity - self.prefilled[self.layer]
        view.__dict__.update(self.__dict__, layer=layer, capacity=self.prefilled[layer] + unused)
        return view

    @property
    def kept(self) -> int:
        """Slots that the prefill left in this layer."""
        left, window = self.prefilled[self.layer], self.window
        return left if window is None else min(left, window - 1)

    @property
    def window(self) -> int | None:
        """This layer's: no more slots are ever held at once there, the newest token's included."""
        return self.windows[self.layer] if self.windows else None


ROUNDINGS = ("exact", "floor")


def pyramid(layer: int, layers: int, mean: int, most: int, beta: int, rounding: str = "exact") -> int:
    """A layer's share of `layers * mean` slots, falling linearly from the first layer to the last.

    The ends are `mean // beta` and what mirrors it about the mean, clipped to `most`, which is at least the mean
    (PyramidKV, arXiv 2406.02069). With `exact` the shares add up to `layers * mean`: each lies less than one slot from
    the line, the largest fractions rounded up. `floor` is the released code's rule: it cuts off the fraction of the
    step from layer to layer, so that the shares add up to more.
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
    """Whole numbers along the line from high to low, that add up to what the line does."""
    gaps = layers - 1
    shares, fractions = zip(*(divmod(high * gaps - i * (high - low), gaps) for i in range(layers)), strict=True)
    missing = layers * (high + low) // 2 - sum(shares)
    first = sorted(range(layers), key=lambda i: (-fractions[i], i))[:missing]
    return tuple(share + (i in first) for i, share in enumerate(shares))
