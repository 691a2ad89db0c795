"""knorm: keys of low norm stay (Devoto et al. 2024, arXiv 2406.11430)."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Windowed


@dataclass(frozen=True)
class KNorm(Windowed):
    """Keep the last `window` slots and those whose keys have the lowest norm: no query is asked.

    All layers are alike, and the recent tokens are spared.
    """

    @property
    def queries(self) -> int:
        return 0

    def score(self, attention: Attention) -> Tensor:
        return scores.key_norm(attention)
