"""pyramidinfer: h2o with numbers that fall from layer to layer (Yang et al. 2024, arXiv 2405.12532)."""

from dataclasses import dataclass

from scope.decoding.h2o import H2O
from scope.errors import check_choice, check_count
from scope.plan import View, pyramid


@dataclass(frozen=True)
class PyramidInfer(H2O):
    """Of all slots keep C + D, with each layer's own D: the prefill's pyramid over the D - recent best.

    The paper gives no formula for this stage; `beta` is the prefill's. `spread`: `pyramid`, or `flat`, the same D in
    all layers: in the released code the pyramid is never reached.
    """

    beta: int = 20
    spread: str = "pyramid"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "beta", low=1)
        check_choice(self, "spread", ("pyramid", "flat"))

    def limit(self, view: View) -> int:
        if self.spread == "flat":
            return self.budget
        mean = self.budget - self.recent
        return self.recent + pyramid(view.layer, view.layers, mean, 2 * mean, self.beta)
