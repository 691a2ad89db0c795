"""adaptive: slide with a budget that grows with the generation (SCOPE, section 4.2, equation 4)."""

from dataclasses import dataclass

from scope.decoding.slide import Slide
from scope.errors import check_count
from scope.plan import View


@dataclass(frozen=True, kw_only=True)
class Adaptive(Slide):
    """Of the decoded slots keep recent + floor(max(0, t - recent) / delta), never more than D.

    tokens: T, the most tokens a sample may generate, over which the budget is spread.
    """

    tokens: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "tokens", low=1)

    @property
    def delta(self) -> int:
        """Steps for each slot that the region grows by: (T - recent) // (D - recent), at least 1."""
        return max(1, (self.tokens - self.recent) // max(1, self.budget - self.recent))

    def decoded(self, view: View) -> int:
        return min(self.limit(view), self.recent + max(0, view.step - self.recent) // self.delta)
