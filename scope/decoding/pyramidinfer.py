"""pyramidinfer: h2o with numbers that fall from layer to layer (Yang et al. 2024, arXiv 2405.12532)."""

from dataclasses import dataclass

from scope.decoding.h2o import H2O
from scope.errors import check_count
from scope.plan import View, pyramid


@dataclass(frozen=True)
class PyramidInfer(H2O):
    """Of all slots keep C + D, with each layer's own D: the prefill's pyramid over the D - recent best.

    The paper gives no formula for this stage; `beta` is the prefill's.
    """

    beta: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "beta", low=1)

    def limit(self, view: View) -> int:
        mean = self.budget - self.recent
        return self.recent + pyramid(view.layer, view.layers, mean, 2 * mean, self.beta)
