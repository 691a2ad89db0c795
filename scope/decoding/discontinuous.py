"""discontinuous: adaptive, with an eviction only every delta steps (SCOPE, arXiv 2412.13649, section 4.2)."""

from dataclasses import dataclass
from functools import cache

from scope.decoding.adaptive import Adaptive
from scope.policy.plan import View
from scope.util.errors import check_choice


@dataclass(frozen=True, kw_only=True)
class Discontinuous(Adaptive):
    """Cut the region to the size of `Adaptive` every delta steps. In between it grows by up to delta slots.

        evict at step t if t mod delta = 0, down to size(t) of `Adaptive`

    wait: "steps" is the rule above. "full" is the released code's: it starts to count when the region is full, and
    evicts in every (delta + 1)-th step from then on. It counts the steps of all layers together. If a pyramid fills
    some layers later, all layers evict later.
    If bytes bound the cache, they must have room for D + delta slots, and D is the largest that fits. A larger D has a
    smaller delta, so two values of D may take the same bytes. The larger one is taken. It evicts more often.
    Raises SettingError or CombinationError for invalid settings.
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
        # the layer that is full first waits for the layer that is full last
        return self.period + max(since) - min(since)

    def _full_since(self, view: View) -> list[int]:
        """The first step at which each layer's region is full."""
        since = []
        for layer in map(view.of, range(view.layers)):
            missing = self.protected(layer) + self.shared(layer) - layer.kept - 1
            start = 0 if self.growth == "start" else self.newest
            full = first_full(missing + self.newest, self.interval, start, self.tokens)
            since.append(min(full, max(0, missing + self.limit(layer))) if self.capped else full)
        return since


@cache
def first_full(missing: int, interval: int, start: int, tokens: int) -> int:
    """The first step t with t - floor(max(0, t - start) / interval) >= missing; `tokens` if no earlier step has it."""
    return next((t for t in range(tokens) if t - max(0, t - start) // interval >= missing), tokens)
