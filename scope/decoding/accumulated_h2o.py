"""accumulated_h2o: heavy hitters by all the attention they ever got (Zhang et al. 2023, arXiv 2306.14048)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention
from scope.util.errors import SettingError, check_number


@dataclass(frozen=True)
class AccumulatedH2O(Eviction):
    """Keep the `recent` last and, of the rest, the slots with the most attention summed over their life.

    `h2o` here is SCOPE's reading, where this query alone decides; this is the H2O paper's. `decay`: what a vote is
    worth one step later; 1 is the paper's. Departures: query heads that share a key/value head average their votes;
    with a decay, the prompt's last 1 / (1 - decay) queries vote, all alike.
    """

    protect: str = "nothing"
    decay: float = 1.0

    channels: ClassVar[tuple[str, ...]] = ("votes",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "decay", low=0)
        if self.decay > 1:
            raise SettingError(self, "decay", self.decay, "a number between 0 and 1")

    def observe(self, attention: Attention) -> Mapping[str, Tensor]:
        if not attention.decoding:
            return {"votes": scores.votes(attention, None if self.decay == 1 else round(1 / (1 - self.decay)))}
        return {"votes": self.decay * attention.channels["votes"] + scores.received(attention)}

    def score(self, attention: Attention) -> Tensor:
        return attention.channels["votes"]
