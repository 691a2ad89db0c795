"""tova: evict what this step's query attends to least, alike in all heads (Oren et al. 2024, arXiv 2401.06104)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention


@dataclass(frozen=True)
class TOVA(Eviction):
    """Keep the `recent` last slots and the tokens that get the most attention, the mean over all query heads.

        score of slot j = mean over all heads of the layer of a(t, the token in slot j)

    All heads of a layer decide together.
    Departures: the paper has no recent slots that always stay (recent=1 comes closest). After a prefill method, heads
    may hold different tokens. A head that does not hold a token counts as 0 for it.
    """

    protect: str = "nothing"

    heads_agree: ClassVar[bool] = True

    def score(self, attention: Attention) -> Tensor:
        return scores.across_heads(scores.received(attention), attention)
