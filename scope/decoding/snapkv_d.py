"""snapkv_d: the score of snapkv, computed again and again while decoding (Li et al. 2024, arXiv 2404.14469)."""

from dataclasses import dataclass

from torch import Tensor

from scope.decoding.periodic import Pooled
from scope.policy import scores
from scope.policy.attention import Attention


@dataclass(frozen=True)
class SnapKVD(Pooled):
    """Every `every` steps keep the `recent` last slots and the others that the last `window` queries attend to most.

        score of slot j = max over the `kernel` slots around j of (sum over the last `window` queries i of a(i, j))

    Neighbours are in order of position. The slots of the window count as 0 in the pooling.
    Departures: the paper has no decoding stage. Period and window are those of studies that compare with R-KV. The
    softmax is over the slots that are stored now, not over those that were stored at query i's own step.
    """

    def score(self, attention: Attention) -> Tensor:
        votes = scores.votes(attention).masked_fill(attention.positions > attention.now - self.window, 0.0)
        return scores.neighbourhood(votes, attention.positions, self.kernel)
