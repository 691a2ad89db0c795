"""The one eviction rule of decoding: what is protected, how many slots the rest may hold, when, and by which score."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar, Protocol

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.policy.plan import Plan, View
from scope.util.errors import CombinationError, ScopeError, check_choice, check_count


class DecodingStrategy(Protocol):
    """Decides at every decode step, after the step's attention, what stays (one row of one layer at a time).

    A strategy that remembers says what: `channels` are numbers by name that the cache keeps for each slot, 0 for a new
    one; `queries` is how many of the last queries it wants to see. `heads_agree`: a layer's heads, while they hold the
    same tokens, are given the same scores. `skips_protected`: the score wants to know which slots at the front no row
    can lose (`Attention.front`).
    """

    @property
    def channels(self) -> tuple[str, ...]: ...

    @property
    def heads_agree(self) -> bool: ...

    @property
    def skips_protected(self) -> bool: ...

    @property
    def queries(self) -> int: ...

    def most(self, view: View) -> int | None:
        """The most slots ever stored at once in a row with this prefill; None where they grow without bound."""
        ...

    def plan(self, view: View) -> Plan | None:
        """What to keep; None keeps everything."""
        ...

    def observe(self, attention: Attention) -> Mapping[str, Tensor]:
        """-> the channels [B, H, S] after this step; called with the prompt's attention, then in every step."""
        ...

    def score(self, attention: Attention) -> Tensor:
        """-> [B, H, S]; called only in steps where something has to go, after `observe`."""
        ...


@dataclass(frozen=True)
class Eviction:
    """Every `period` steps, cut a region down to its size: its last `recent` slots and the best-scored others.

    The region is what was decoded (`protect="prompt"`: the slots that the prefill left are never evicted; SCOPE's idea)
    or everything (`protect="nothing"`; its size is then C + D). A subclass changes a default, the score, or how the
    size grows with the step. The score of the bare rule is age.

    budget: D in slots; recent: how many of them are always the newest. boundary: what counts as left by the prefill,
    the slots that were `kept`, or the first C (`budget`) even where fewer or more were, as the released code has it.
    Raises SettingError or CombinationError for values that cannot be.
    """

    budget: int
    recent: int
    protect: str = "prompt"
    boundary: str = "kept"

    channels: ClassVar[tuple[str, ...]] = ()
    heads_agree: ClassVar[bool] = False
    skips_protected: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_count(self, "budget", low=1)
        check_count(self, "recent", low=1)
        check_choice(self, "protect", ("prompt", "nothing"))
        check_choice(self, "boundary", ("kept", "budget"))
        if self.recent > self.budget:
            raise CombinationError(self, "recent", self.recent, f"at most the decoding budget, {self.budget}")

    @property
    def queries(self) -> int:
        """How many of the last queries `score` is shown."""
        return 1

    @property
    def period(self) -> int:
        """Steps from one eviction to the next."""
        return 1

    def within(self, view: View) -> "Eviction":
        """This strategy with the largest D for which the layers hold `view.max_slots` at the most; None: unchanged.

        Raises ScopeError where that is less than the slots that always stay.
        """
        return self if view.max_slots is None else largest_within(self, view.of(0).at(0, 0), view.max_slots)

    def between(self, view: View) -> int:
        """The most slots that come before some go."""
        return self.period

    def limit(self, view: View) -> int:
        """D in this layer."""
        return self.budget

    def decoded(self, view: View) -> int:
        """How much of D there is at this step."""
        return self.limit(view)

    def shared(self, view: View) -> int:
        """What the region holds beside D: the prefill's C where the prompt is not protected."""
        if self.protect == "prompt":
            return 0
        return view.capacity if self.boundary == "kept" else view.budget

    def protected(self, view: View) -> int:
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
        """The region down to `size` slots."""
        return Plan(head=head, best=size - self.recent, tail=self.recent)

    def most(self, view: View) -> int | None:
        fit = self.within(view)
        return max(view.kept, fit.protected(view) + fit.shared(view) + fit.limit(view)) + fit.between(view)

    def observe(self, attention: Attention) -> Mapping[str, Tensor]:
        return {}

    def score(self, attention: Attention) -> Tensor:
        return scores.age(attention)

    def evictable(self, attention: Attention) -> Tensor:
        """-> [B, H, S] bool: the slots that the score decides about: not empty, recent, or of a protected prompt."""
        positions = attention.positions
        free = (positions >= 0) & (positions <= attention.now - self.recent)
        if self.protect == "nothing":
            return free
        assert attention.prompt is not None
        return free & (positions >= attention.prompt[:, None, None])


@cache
def largest_within(strategy: Eviction, view: View, max_slots: int) -> Eviction:
    """The strategy with the largest D whose most, summed over the layers, is no more than `max_slots` in each.

    A sum, since layers differ: a pyramid's, of the prompt or of D, or one that a sliding window bounds, which leaves
    the others more. Of two D that take the same slots, as where a longer interval needs more beside a smaller D, it is
    the larger. Where layers wait for others (discontinuous's wait="full" after a pyramid) a larger one may fit too.
    Raises ScopeError where none does down to `recent`.
    """
    views = [replace(view.of(layer), max_slots=None) for layer in range(view.layers)]
    sizes = view.slot_bytes or (1,) * len(views)
    given = max_slots * sum(sizes)
    budget = given // min(sizes) if any(view.windows) else max_slots
    while budget >= strategy.recent:
        tried = replace(strategy, budget=budget)
        over = (
            sum(_within_window(tried.most(each), each) * size for each, size in zip(views, sizes, strict=True)) - given
        )
        if over <= 0:
            return tried
        budget -= math.ceil(over / (2 * sum(sizes)))  # a slot of D is at most two in a layer, a pyramid's first
    beside = [_within_window(max(v.kept, strategy.protected(v) + strategy.shared(v)), v) for v in views]
    prompt = math.ceil(sum(n * size for n, size in zip(beside, sizes, strict=True)) / sum(sizes))
    left = f"{max_slots - prompt} beside {prompt} for a prompt of {view.prompt} tokens"
    raise ScopeError(f"{max_slots} slots a layer leave {left}: recent, {strategy.recent}, and a period have to fit")


def _within_window(slots: int | None, view: View) -> int:
    return min(n for n in (slots or 0, view.window) if n is not None)
