"""discontinuous: adaptive, but evicting only now and then (SCOPE, section 4.2)."""

from dataclasses import dataclass
from functools import cache

from scope.decoding.adaptive import Adaptive
from scope.policy.plan import View
from scope.util.errors import check_choice


@dataclass(frozen=True, kw_only=True)
class Discontinuous(Adaptive):
    """Adaptive's size, restored every `delta` steps only; in between the region grows by up to delta slots.

    Where bytes bound the cache they have room for D + delta, and D is the largest for which they have: as delta falls
    where D rises, two D may take the same bytes, and it is the larger, which evicts more often.
    As the released code has it, wait="full" starts to count once the region is full, and evicts in every (delta + 1)-th
    step from there. It counts the steps of all layers together: where a pyramid fills some later, all are late.
    """

    wait: str = "steps"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "wait", ("steps", "full"))

    @property
    def period(self) -> int:
        return self.interval + (self.wait == "full")

    def due(self, view: View) -> bool:
        if self.wait == "steps":
            return super().due(view)
        since = self._full_since(view)
        before = sum(max(0, view.step - t) for t in since) + sum(t <= view.step for t in since[: view.layer])
        return before // view.layers % self.period == self.interval

    def between(self, view: View) -> int:
        if self.wait == "steps":
            return self.period
        since = self._full_since(view)
        return self.period + max(since) - min(since)  # the first layer to be full waits for the last

    def _full_since(self, view: View) -> list[int]:
        """The first step at which each layer's region is full."""
        since = []
        for layer in map(view.of, range(view.layers)):
            missing = self.protected(layer) + self.shared(layer) - layer.kept - 1
            start = 0 if self.growth == "start" else self.recent
            full = first_full(missing + self.recent, self.interval, start, self.tokens)
            since.append(min(full, max(0, missing + self.limit(layer))) if self.capped else full)
        return since


@cache
def first_full(missing: int, interval: int, start: int, tokens: int) -> int:
    """The first step t with t - floor(max(0, t - start) / interval) >= missing; `tokens` if there is none before."""
    return next((t for t in range(tokens) if t - max(0, t - start) // interval >= missing), tokens)
