"""morphkv: what the recent tokens look at stays (Ghadia et al. 2025, arXiv 2503.00979)."""

from dataclasses import dataclass

from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention
from scope.util.errors import check_choice


@dataclass(frozen=True)
class MorphKV(Eviction):
    """At each step keep the `recent` last and, of the rest, the slots that the recent tokens' queries attend to most.

    `fusion`: their attention's `sum` or its `max`, of the mean over the query heads that share a key/value head.
    Departure: the softmax is over what is stored now, not over what was when each of the queries was asked. The queries
    are held beside the slots, and not counted among their bytes.
    """

    protect: str = "nothing"
    fusion: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "fusion", ("sum", "max"))

    @property
    def queries(self) -> int:
        return self.recent

    def score(self, attention: Attention) -> Tensor:
        return scores.votes(attention) if self.fusion == "sum" else scores.looks(attention).mean(2).amax(2)
