"""random: a control, the last slots and others by lot."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Windowed
from scope.util.errors import check_count


@dataclass(frozen=True)
class Random(Windowed):
    """Keep the last `window` slots and a seeded random choice of the others, apart for each head."""

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "seed")

    @property
    def queries(self) -> int:
        return 0

    def score(self, attention: Attention) -> Tensor:
        return scores.noise(attention, self.seed)
