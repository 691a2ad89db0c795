"""slide: a window over what was decoded, beside a protected prompt (SCOPE, section 4.2)."""

from dataclasses import dataclass

from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention


@dataclass(frozen=True)
class Slide(Eviction):
    """Of the decoded slots keep D: the `recent` last, the rest by this query's attention. One goes at each step."""

    def score(self, attention: Attention) -> Tensor:
        return scores.received(attention)
