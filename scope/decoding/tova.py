"""tova: what this query looks at least in the whole layer goes (Oren et al. 2024, arXiv 2401.06104)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention


@dataclass(frozen=True)
class TOVA(Eviction):
    """Keep the `recent` last and, of the rest, the tokens with the highest attention, the mean over all query heads.

    The heads of a layer decide together. Departures: the paper spares no recent tokens (recent=1 comes closest); and
    where a prefill method has left other tokens in each head, a head that does not hold a token gives it nothing.
    """

    protect: str = "nothing"

    heads_agree: ClassVar[bool] = True

    def score(self, attention: Attention) -> Tensor:
        return scores.across_heads(scores.received(attention), attention)
