"""adaptive: slide with a budget that grows with the generation (SCOPE, section 4.2, equation 4)."""

from dataclasses import dataclass

from scope.decoding.slide import Slide
from scope.policy.plan import View
from scope.util.errors import check_choice, check_count, check_flag


@dataclass(frozen=True, kw_only=True)
class Adaptive(Slide):
    """Of the decoded slots keep recent + floor(max(0, t - recent) / delta), never more than D.

    tokens: T, the most tokens a sample may generate, over which the budget is spread. delta: steps for each slot that
    the region grows by; None is equation 4's (T - recent) // (D - recent), at least 1. As the released code has it:
    growth="start" counts the steps from the first one, recent + floor(t / delta), and capped=False lets D be passed.
    Where bytes bound the cache, equation 4's D is the one that they leave: the bytes that a D takes give its interval.
    """

    tokens: int
    delta: int | None = None
    growth: str = "recent"
    capped: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "tokens", low=1)
        if self.delta is not None:
            check_count(self, "delta", low=1)
        check_choice(self, "growth", ("recent", "start"))
        check_flag(self, "capped")

    @property
    def interval(self) -> int:
        """delta, as given or by equation 4."""
        if self.delta is not None:
            return self.delta
        return max(1, (self.tokens - self.recent) // max(1, self.budget - self.recent))

    def decoded(self, view: View) -> int:
        grown = view.step if self.growth == "start" else max(0, view.step - self.recent)
        size = self.recent + grown // self.interval
        return min(self.limit(view), size) if self.capped else size

    def most(self, view: View) -> int | None:
        return super().most(view) if self.capped else None
