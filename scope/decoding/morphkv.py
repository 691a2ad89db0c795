"""morphkv: keep what the recent tokens attend to (Ghadia et al. 2025, arXiv 2503.00979)."""

from dataclasses import dataclass

from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention
from scope.util.errors import check_choice


@dataclass(frozen=True)
class MorphKV(Eviction):
    """Keep the `recent` last slots and the others that the queries of the `recent` last tokens attend to most.

        score of slot j = sum (or max) over the `recent` last queries i of a(i, j)

    a(i, j) is averaged over the query heads that share a key/value head.

    fusion: "sum" or "max".
    Departure: the softmax is over the slots that are stored now, not over those that were stored at query i's own step.
    The queries are held beside the slots. They do not count as bytes of the cache.
    Raises SettingError or CombinationError for invalid settings.
    """

    protect: str = "nothing"
    fusion: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "fusion", ("sum", "max"))

    @property
    def queries(self) -> int:
        return self.newest

    def score(self, attention: Attention) -> Tensor:
        return scores.votes(attention) if self.fusion == "sum" else scores.looks(attention).mean(2).amax(2)
