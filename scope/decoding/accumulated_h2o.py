"""accumulated_h2o: keep heavy hitters by all the attention they ever got (Zhang et al. 2023, arXiv 2306.14048)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention
from scope.util.errors import check_part


@dataclass(frozen=True)
class AccumulatedH2O(Eviction):
    """Keep the `recent` last slots and the others with the most attention, summed over their whole life.

        votes_j(t) = decay * votes_j(t - 1) + a(t, j)        score of slot j = votes_j(t)

    a(t, j) is the attention of step t's query to slot j, averaged over the query heads that share a key/value head. The
    prompt's queries vote first. This is the H2O paper's rule. The strategy `h2o` is SCOPE's reading: only the query of
    this step votes.

    decay: what a vote is worth one step later, in 0..1. 1 is the paper's.
    Departures: query heads that share a key/value head average their votes. With a decay, only the prompt's last
    1 / (1 - decay) queries vote, each with weight 1.
    Raises SettingError or CombinationError for invalid settings.
    """

    protect: str = "nothing"
    decay: float = 1.0

    channels: ClassVar[tuple[str, ...]] = ("votes",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_part(self, "decay")

    def observe(self, attention: Attention) -> Mapping[str, Tensor]:
        if not attention.decoding:
            queries = (attention.query_positions >= 0).sum(-1)[:, None, None]
            before = self.decay**queries * attention.channels["votes"]  # of what was stored before a later turn
            return {"votes": before + scores.votes(attention, None if self.decay == 1 else round(1 / (1 - self.decay)))}
        return {"votes": self.decay * attention.channels["votes"] + scores.received(attention)}

    def score(self, attention: Attention) -> Tensor:
        return attention.channels["votes"]
