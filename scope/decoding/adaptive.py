"""adaptive: slide with a budget that grows with the generation (SCOPE, arXiv 2412.13649, section 4.2, equation 4)."""

from dataclasses import dataclass

from scope.decoding.slide import Slide
from scope.policy.plan import View
from scope.util.errors import check_choice, check_count, check_flag


@dataclass(frozen=True, kw_only=True)
class Adaptive(Slide):
    """Keep a number of decoded slots that grows with the step t, up to D. The score is that of `Slide`.

        size(t) = min(D, recent + floor(max(0, t - recent) / delta))        delta = max(1, (T - recent) // (D - recent))

    tokens: T, the most tokens that a sample may generate.
    delta: steps for each slot that the region grows by; None takes the formula above.
    growth: "recent" grows from t = recent. "start" grows from t = 0: size(t) = recent + floor(t / delta).
    capped: whether D is the maximum. False lets the region pass D. `growth="start"` and `capped=False` are what the
    released code does.
    If bytes bound the cache, D is the largest number of slots that they leave, and delta follows from this D.
    Raises SettingError or CombinationError for invalid settings.
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
        """delta in steps: as given, or by equation 4."""
        if self.delta is not None:
            return self.delta
        return max(1, (self.tokens - self.newest) // max(1, self.budget - self.newest))

    def decoded(self, view: View) -> int:
        grown = view.step if self.growth == "start" else max(0, view.step - self.newest)
        size = self.newest + grown // self.interval
        return min(self.limit(view), size) if self.capped else size

    def most(self, view: View) -> int | None:
        return super().most(view) if self.capped else None
