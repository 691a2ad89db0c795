"""distinct: what is unlike the rest stays, in its key and in its value (SCOPE's own; experiments/frontier)."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention, beyond
from scope.util.errors import check_number


@dataclass(frozen=True)
class Distinct(Eviction):
    """Of the decoded slots keep D: the `recent` last, and of the rest those that are least like the others.

    A slot's score is minus the cosine similarity of its key to the mean direction of the decoded keys, minus `values`
    times the same of its value. No query is asked, so that what is looked at rarely is not lost for that; nothing is
    remembered of a slot. Without protection of the prompt the means are over everything stored.
    """

    values: float = 1.0

    skips_protected: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "values", low=0)

    def score(self, attention: Attention) -> Tensor:
        first = 0
        if self.protect == "prompt":
            first, attention = attention.front, beyond(attention)
            assert attention.prompt is not None
            among = attention.positions >= attention.prompt[:, None, None]
        else:
            among = attention.positions >= 0
        return F.pad(scores.distinctness(attention, among, self.values), (first, 0))
