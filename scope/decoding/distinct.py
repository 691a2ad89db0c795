"""distinct: keep slots whose key and value are unlike the others (our own strategy; see experiments/distinct)."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention, beyond
from scope.util.errors import check_weights


@dataclass(frozen=True)
class Distinct(Eviction):
    """Of the decoded slots keep D: the `recent` last, and the others that are least like the rest.

        score of slot j = - keys * cos(k_j, mean direction of keys) - values * cos(v_j, mean direction of values)

    The means are over the decoded slots. If the prompt is not protected, they are over all stored slots.
    It reads no attention, so a slot that rarely gets attention can stay. It remembers nothing of a slot.

    keys, values: weights of the two terms, each 0 or more, and one of them above 0. A term with weight 0 is left out.
    Raises SettingError or CombinationError for invalid settings.
    """

    values: float = 1.0
    keys: float = field(default=1.0, metadata={"later": True})

    skips_protected: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self, "keys", "values")

    def score(self, attention: Attention) -> Tensor:
        behind = beyond(attention)  # if the prompt is not protected, `front` is 0
        found = scores.distinctness(behind, self.region(behind), self.keys, self.values)
        return F.pad(found, (attention.front, 0))
