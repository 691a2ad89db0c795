"""random: a control that evicts at random."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention, beyond
from scope.util.errors import check_count


@dataclass(frozen=True)
class Random(Eviction):
    """Of the decoded slots keep D: the `recent` last and a random choice of the others.

        score of slot j at step t = hash of (seed, layer, head, t, token)

    seed: a count. The same seed gives the same choice.
    Raises SettingError or CombinationError for invalid settings.
    """

    seed: int = 0

    skips_protected: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "seed")

    def score(self, attention: Attention) -> Tensor:
        return F.pad(scores.noise(beyond(attention), self.seed), (attention.front, 0))
