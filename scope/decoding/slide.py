"""slide: keep D decoded slots beside a protected prompt (SCOPE, arXiv 2412.13649, section 4.2)."""

from dataclasses import dataclass

from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention


@dataclass(frozen=True)
class Slide(Eviction):
    """Of the decoded slots keep D: the `recent` last and the others that this step's query attends to most.

        score of slot j = a(t, j)

    a(t, j) is the attention of step t's query, averaged over the query heads that share a key/value head. Once the
    region is full, each step evicts one slot of each head. The parameters are those of `Eviction`.
    """

    def score(self, attention: Attention) -> Tensor:
        return scores.received(attention)
