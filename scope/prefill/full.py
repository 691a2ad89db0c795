"""full: keep the whole prompt."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.policy.plan import Plan, View


@dataclass(frozen=True)
class Full:
    """Keep the whole prompt: no compression. It has no parameters."""

    layer_inputs = False
    queries = 0
    votes_only = False

    def slots(self, prompt: int) -> int:
        return prompt

    def capacity(self, view: View) -> int:
        return view.prompt

    def plan(self, view: View) -> Plan | None:
        return None

    def score(self, attention: Attention) -> Tensor:
        return scores.age(attention)
