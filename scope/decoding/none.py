"""none: keep everything that is generated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.policy.plan import Plan, View


@dataclass(frozen=True)
class KeepAll:
    """Evict nothing while decoding. It has no parameters."""

    channels: ClassVar[tuple[str, ...]] = ()
    heads_agree: ClassVar[bool] = False
    skips_protected: ClassVar[bool] = False
    rotary: ClassVar[bool] = False
    queries: ClassVar[int] = 1

    def most(self, view: View) -> int | None:
        return None

    def plan(self, view: View) -> Plan | None:
        return None

    def observe(self, attention: Attention) -> Mapping[str, Tensor]:
        return {}

    def score(self, attention: Attention) -> Tensor:
        return scores.age(attention)
