"""pyramidinfer: h2o with fewer slots in later layers (Yang et al. 2024, arXiv 2405.12532)."""

from dataclasses import dataclass

from scope.decoding.h2o import H2O
from scope.policy.plan import ROUNDINGS, View, pyramid
from scope.util.errors import check_choice, check_count


@dataclass(frozen=True)
class PyramidInfer(H2O):
    """Of all slots keep C + D, as `H2O`, but each layer has its own D.

        m = D - recent        low = m // beta        high = 2 m - low
        layer l: D_l = recent + high - l * (high - low) / (L - 1)

    The mean of D_l over the L layers is D.

    beta: a larger one leaves fewer slots to the last layer. The paper gives no formula for decoding, so this is the one
    of the prefill.
    spread: "pyramid" is the formula above. "flat" gives all layers D. The released code does this: it never reaches its
    pyramid.
    pyramid: "exact" rounds so that the mean is exactly D. "floor" rounds as the released code's prefill does.
    Raises SettingError or CombinationError for invalid settings.
    """

    beta: int = 20
    spread: str = "pyramid"
    pyramid: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "beta", low=1)
        check_choice(self, "spread", ("pyramid", "flat"))
        check_choice(self, "pyramid", ROUNDINGS)

    def limit(self, view: View) -> int:
        if self.spread == "flat":
            return self.budget
        mean = self.budget - self.newest
        return self.newest + pyramid(view.layer, view.layers, mean, 2 * mean, self.beta, self.pyramid)
