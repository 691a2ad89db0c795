"""recent: a control that keeps the newest slots."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Windowed


@dataclass(frozen=True)
class Recent(Windowed):
    """Keep the last C slots, whatever is in them. The score is age: newer slots score higher."""

    @property
    def queries(self) -> int:
        return 0

    def score(self, attention: Attention) -> Tensor:
        return scores.age(attention)
