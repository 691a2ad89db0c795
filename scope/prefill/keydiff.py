"""keydiff: keys unlike the mean key stay (Park et al. 2025, arXiv 2504.15364)."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Windowed


@dataclass(frozen=True)
class KeyDiff(Windowed):
    """Keep the last `window` slots and those whose keys are least similar to the mean direction of the prompt's keys.

    The whole prompt is looked at together, and the recent tokens are spared.
    """

    @property
    def queries(self) -> int:
        return 0

    def score(self, attention: Attention) -> Tensor:
        return scores.key_difference(attention)
