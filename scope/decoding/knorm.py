"""knorm: keys of low norm stay (Devoto et al. 2024, arXiv 2406.11430)."""

from dataclasses import dataclass

from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention


@dataclass(frozen=True)
class KNorm(Eviction):
    """Keep the `recent` last and, of the rest, the slots whose keys have the lowest norm: no query is asked.

    All layers are alike.
    """

    protect: str = "nothing"

    def score(self, attention: Attention) -> Tensor:
        return scores.key_norm(attention)
