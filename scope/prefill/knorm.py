"""knorm: keep keys of low norm (Devoto et al. 2024, arXiv 2406.11430)."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Scored


@dataclass(frozen=True)
class KNorm(Scored):
    """Keep the last `window` slots and the others whose keys have the lowest L2 norm.

        score of slot j = - norm(k_j)

    It reads no queries.
    Departures: all layers are compressed alike, and the last `window` slots always stay.
    """

    @property
    def queries(self) -> int:
        return 0

    def score(self, attention: Attention) -> Tensor:
        return scores.key_norm(attention)
