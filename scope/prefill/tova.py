"""tova: keep what the last query attends to, alike in all heads (Oren et al. 2024, arXiv 2401.06104)."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Scored


@dataclass(frozen=True)
class TOVA(Scored):
    """Keep the last `window` slots and the others that the last query attends to most.

        score of slot j = mean over all heads of the layer of a(last query, j)

    All heads of a layer keep the same tokens.
    Departures: the paper evicts at every token while it reads the prompt, and has no window. window=1 comes closest.
    """

    @property
    def queries(self) -> int:
        return 1

    def score(self, attention: Attention) -> Tensor:
        return scores.votes(attention, last=1).mean(1, keepdim=True).expand_as(attention.positions)
