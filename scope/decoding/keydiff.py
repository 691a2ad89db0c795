"""keydiff: keep keys that differ from the mean key (Park et al. 2025, arXiv 2504.15364)."""

from dataclasses import dataclass

from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention


@dataclass(frozen=True)
class KeyDiff(Eviction):
    """Keep the `recent` last slots and the others whose keys are least similar to the mean direction of the keys.

        score of slot j = - cos(k_j, mean direction of all stored keys)

    The mean includes a protected prompt and the recent slots. It reads no attention.
    """

    protect: str = "nothing"

    def score(self, attention: Attention) -> Tensor:
        return scores.key_difference(attention)
