"""recent: a control that keeps the newest slots."""

from dataclasses import dataclass

from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention


@dataclass(frozen=True)
class Recent(Eviction):
    """Of the decoded slots keep the newest D. The score is age: newer slots score higher."""

    def score(self, attention: Attention) -> Tensor:
        return scores.age(attention)
