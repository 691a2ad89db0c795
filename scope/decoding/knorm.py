"""knorm: keep keys of low norm (Devoto et al. 2024, arXiv 2406.11430)."""

from dataclasses import dataclass

from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention


@dataclass(frozen=True)
class KNorm(Eviction):
    """Keep the `recent` last slots and the others whose keys have the lowest L2 norm.

        score of slot j = - norm(k_j)

    It reads no attention.
    Departure: all layers are treated alike.
    """

    protect: str = "nothing"

    def score(self, attention: Attention) -> Tensor:
        return scores.key_norm(attention)
