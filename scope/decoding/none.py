"""none: everything that is generated stays."""

from dataclasses import dataclass

from torch import Tensor

from scope import scores
from scope.plan import Plan, View
from scope.scores import Attention


@dataclass(frozen=True)
class KeepAll:
    """No eviction while decoding."""

    def most(self, view: View) -> int | None:
        return None

    def plan(self, view: View) -> Plan | None:
        return None

    def score(self, attention: Attention) -> Tensor:
        return scores.age(attention)
