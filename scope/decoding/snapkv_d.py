"""snapkv_d: snapkv's score, again and again while decoding (Li et al. 2024, arXiv 2404.14469)."""

from dataclasses import dataclass

from torch import Tensor

from scope.decoding.periodic import Polled
from scope.policy import scores
from scope.policy.attention import Attention


@dataclass(frozen=True)
class SnapKVD(Polled):
    """Every `every` steps keep the `recent` last and the slots that the last `window` queries attend to most.

    Their attention is summed, max-pooled over `kernel` neighbours in order of position, the window itself apart.
    The paper has no decoding stage: period and window are those that studies of R-KV compare with. Departure: the
    softmax is over what is stored when the score is asked for, not over what was when the queries were.
    """

    def score(self, attention: Attention) -> Tensor:
        votes = scores.votes(attention).masked_fill(attention.positions > attention.now - self.window, 0.0)
        return scores.neighbourhood(votes, attention.positions, self.kernel)
