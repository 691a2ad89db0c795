"""random: a control that keeps the last slots and a random choice of the others."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Windowed
from scope.util.errors import check_count


@dataclass(frozen=True)
class Random(Windowed):
    """Keep the last `window` slots and a random choice of the others, different in each head.

        score of slot j = hash of (seed, layer, head, token)

    seed: a count. The same seed gives the same choice. It reads no queries.
    Raises SettingError or CombinationError for invalid settings.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "seed")

    @property
    def queries(self) -> int:
        return 0

    def score(self, attention: Attention) -> Tensor:
        return scores.noise(attention, self.seed)
