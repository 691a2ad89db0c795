"""keydiff: keep keys that differ from the mean key (Park et al. 2025, arXiv 2504.15364)."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Scored


@dataclass(frozen=True)
class KeyDiff(Scored):
    """Keep the last `window` slots and the others whose keys are least similar to the mean direction of the keys.

        score of slot j = - cos(k_j, mean direction of the prompt's keys)

    It reads no queries.
    Departures: the whole prompt is scored at once, and the last `window` slots always stay.
    """

    @property
    def queries(self) -> int:
        return 0

    def score(self, attention: Attention) -> Tensor:
        return scores.key_difference(attention)
