"""The eviction rule that all strategies share: what is protected, how many slots stay, when to evict, and the score."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar, Protocol

from torch import Tensor

from scope.policy.attention import Attention
from scope.policy.plan import Plan, View
from scope.util.errors import (
    CombinationError,
    ScopeError,
    check_choice,
    check_count,
    check_count_or_share,
    without_score,
)


class DecodingStrategy(Protocol):
    """Decides at every decode step, after the step's attention, which slots stay.

    It decides for one row of one layer at a time. In shapes, B is rows, H heads and S slots.

    channels: names of the numbers that the cache keeps for each slot (float32, 0 for a new slot). A strategy that
    remembers something keeps it there.
    queries: how many of the last queries the score reads.
    heads_agree: whether all heads of a layer get the same scores while they hold the same tokens.
    skips_protected: whether the score needs to know how many slots at the front are protected in every row
    (`Attention.front`).
    rotary: whether the score reads how queries and keys were rotated (`Attention.rotary`). A model of which the cache
    does not know it is refused.
    """

    @property
    def channels(self) -> tuple[str, ...]: ...

    @property
    def heads_agree(self) -> bool: ...

    @property
    def skips_protected(self) -> bool: ...

    @property
    def rotary(self) -> bool: ...

    @property
    def queries(self) -> int: ...

    def most(self, view: View) -> int | None:
        """The most slots that a row of this layer ever stores at once; None if there is no bound."""
        ...

    def plan(self, view: View) -> Plan | None:
        """Which slots to keep after this step; None keeps all."""
        ...

    def observe(self, attention: Attention) -> Mapping[str, Tensor]:
        """The channels after this step, each [B, H, S]. Called once with the prompt's attention, then at every step.

        It is also called with the attention of each later turn that is prompt. What its slots held before is then in
        `channels`, 0 for those of the turn; `attention.decoding` is False, as over a prompt.
        """
        ...

    def score(self, attention: Attention) -> Tensor:
        """A score for each slot, [B, H, S]; higher is kept. Called after `observe`, only in steps that evict."""
        ...


@dataclass(frozen=True)
class Eviction:
    """Every `period` steps, cut the region to its size: keep its `recent` last slots and the others that score best.

    The region is what may be evicted. protect="prompt" protects the slots that the prefill left: the region is the
    decoded slots, and its size is D. This is SCOPE's idea. protect="nothing" protects no slot: the region is
    everything, and its size is C + D. A subclass gives the score, and may change a default or how the size grows.

    budget: D, in slots, 1 or more.
    recent: the newest slots, which always stay: a count, 1 .. D, or a share of D (a float, 0 < recent < 1). Where a
    bound in bytes or slots chooses D, the share is of each row's own D. With recent = D the score has nothing to choose
    from: the newest D stay, as with `Recent`.
    protect: "prompt" or "nothing".
    boundary: what counts as left by the prefill. "kept" is the slots that were kept. "budget" is the first C slots,
    even if fewer or more were kept, as in the released code.
    Raises SettingError for an invalid value, CombinationError if recent is more than D.
    """

    budget: int = 512
    recent: int | float = 0.5
    protect: str = "prompt"
    boundary: str = "kept"

    heads_agree: ClassVar[bool] = False
    skips_protected: ClassVar[bool] = False
    rotary: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_count(self, "budget", low=1)
        check_count_or_share(self, "recent", low=1, whole="D")
        check_choice(self, "protect", ("prompt", "nothing"))
        check_choice(self, "boundary", ("kept", "budget"))
        if self.newest > self.budget:
            raise CombinationError(self, "recent", self.recent, f"at most the decoding budget, {self.budget}")

    @property
    def newest(self) -> int:
        """The slots that always stay, as a count: `recent`, or its share of D, rounded, 1 at the least."""
        return self.recent if isinstance(self.recent, int) else max(1, round(self.recent * self.budget))

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the numbers that the cache keeps for each slot."""
        return ()

    @property
    def queries(self) -> int:
        """How many of the last queries `score` reads."""
        return 1

    @property
    def period(self) -> int:
        """Steps from one eviction to the next."""
        return 1

    def within(self, view: View) -> "Eviction":
        """This strategy with the D that a bound leaves (`view.max_slots`), and all that follows from D.

        Returns itself if there is no bound. Raises ScopeError if fewer than `recent` slots are left.
        """
        return self if view.max_slots is None else largest_within(self, view.of(0).at(0, 0), view.max_slots)

    def between(self, view: View) -> int:
        """The most slots that are added between two evictions."""
        return self.period

    def limit(self, view: View) -> int:
        """D of this layer, in slots."""
        return self.budget

    def decoded(self, view: View) -> int:
        """The decoded slots that may stay at this step, at most D."""
        return self.limit(view)

    def shared(self, view: View) -> int:
        """Slots that the region holds beside D: C if the prompt is not protected, else 0."""
        if self.protect == "prompt":
            return 0
        return view.capacity if self.boundary == "kept" else view.budget

    def protected(self, view: View) -> int:
        """Slots at the front of this layer that are never evicted."""
        if self.protect == "nothing":
            return 0
        return view.kept if self.boundary == "kept" else view.budget

    def due(self, view: View) -> bool:
        """Whether this step may evict."""
        return view.step % self.period == 0

    def plan(self, view: View) -> Plan | None:
        fit = self.within(view)
        head, size = fit.protected(view), fit.shared(view) + fit.decoded(view)
        if view.stored - head <= size or not fit.due(view):
            return None
        return fit.cut(head, size)

    def cut(self, head: int, size: int) -> Plan:
        """The plan that protects the first `head` slots and cuts the region behind them to `size` slots."""
        return Plan(head=head, best=size - self.newest, tail=self.newest)

    def most(self, view: View) -> int | None:
        fit = self.within(view)
        return max(view.kept, fit.protected(view) + fit.shared(view) + fit.limit(view)) + fit.between(view)

    def observe(self, attention: Attention) -> Mapping[str, Tensor]:
        return {}

    def score(self, attention: Attention) -> Tensor:
        """Raises ScopeError: to keep the newest slots, return `scope.policy.scores.age(attention)`."""
        raise without_score(self)

    def region(self, attention: Attention) -> Tensor:
        """The slots that are not protected, [B, H, S] bool: not empty, and not of a protected prompt or later turn."""
        if self.protect == "nothing":
            return attention.positions >= 0
        return ~attention.of_prompt

    def evictable(self, attention: Attention) -> Tensor:
        """The slots that may be evicted, [B, H, S] bool: those of the region that are not recent."""
        return self.region(attention) & (attention.positions <= attention.now - self.newest)


@cache
def largest_within(strategy: Eviction, view: View, max_slots: int) -> Eviction:
    """The strategy with the largest D that fits: summed over the layers, at most `max_slots` slots a layer.

    The sum counts, because layers differ: a pyramid or a sliding window gives some layers less and leaves the others
    more. If two values of D take the same slots, the larger one is taken. This happens where a smaller D has a longer
    interval. A still larger D may fit where layers wait for one another (discontinuous with wait="full" after a
    pyramid).
    Raises ScopeError if no D down to `recent` fits.
    """
    views = [replace(view.of(layer), max_slots=None) for layer in range(view.layers)]
    sizes = view.slot_bytes or (1,) * len(views)
    given = max_slots * sum(sizes)
    budget = given // min(sizes) if any(view.windows) else max_slots
    while budget >= 1:
        try:
            tried = replace(strategy, budget=budget)
        except CombinationError:  # D has become too small for the strategy's own settings
            break
        over = (
            sum(_within_window(tried.most(each), each) * size for each, size in zip(views, sizes, strict=True)) - given
        )
        if over <= 0:
            return tried
        # one slot more in D is at most two more in a layer (the first layer of a pyramid)
        budget -= math.ceil(over / (2 * sum(sizes)))
    beside = [_within_window(max(v.kept, strategy.protected(v) + strategy.shared(v)), v) for v in views]
    prompt = math.ceil(sum(n * size for n, size in zip(beside, sizes, strict=True)) / sum(sizes))
    left = f"{max_slots - prompt} beside {prompt} for a prompt of {view.prompt} tokens"
    raise ScopeError(f"{max_slots} slots a layer leave {left}: recent, {strategy.recent:g}, and a period have to fit")


def _within_window(slots: int | None, view: View) -> int:
    return min(n for n in (slots or 0, view.window) if n is not None)
