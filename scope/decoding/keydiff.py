"""keydiff: keys unlike the mean key stay (Park et al. 2025, arXiv 2504.15364)."""

from dataclasses import dataclass

from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention


@dataclass(frozen=True)
class KeyDiff(Eviction):
    """Keep the `recent` last and, of the rest, the slots whose keys are least similar to the mean direction of all.

    The mean is over everything stored, a protected prompt and the recent slots included.
    """

    protect: str = "nothing"

    def score(self, attention: Attention) -> Tensor:
        return scores.key_difference(attention)
