"""pyramidinfer: h2o with numbers that fall from layer to layer (Yang et al. 2024, arXiv 2405.12532)."""

from dataclasses import dataclass

from scope.decoding.h2o import H2O
from scope.policy.plan import ROUNDINGS, View, pyramid
from scope.util.errors import check_choice, check_count


@dataclass(frozen=True)
class PyramidInfer(H2O):
    """Of all slots keep C + D, with each layer's own D: the prefill's pyramid over the D - recent best.

    The paper gives no formula for this stage; `beta` is the prefill's. `spread`: `pyramid`, or `flat`, the same D in
    all layers: in the released code the pyramid is never reached. `pyramid`: `exact` gives D on average, to the slot;
    `floor` rounds as the released code's prefill does.
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
        mean = self.budget - self.recent
        return self.recent + pyramid(view.layer, view.layers, mean, 2 * mean, self.beta, self.pyramid)
