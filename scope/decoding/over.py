"""Strategies that choose by another strategy's score: what ams and diverse share."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.decoding.periodic import Periodic
from scope.decoding.tova import TOVA
from scope.policy.attention import Attention, latest
from scope.util.errors import SettingError


@dataclass(frozen=True)
class Over(Periodic):
    """Every `every` steps cut the region to its size, by a score that is made of the score of `base`.

    base: any strategy of the shared rule that has a score (`Eviction`). It gets the budget, `recent`, `protect` and
    `boundary` of this strategy, whatever its own are, and makes no plan. It may read queries and remember: the channel
    x of the base is the channel `base.x` here. The other parameters are those of `Periodic`.
    Raises SettingError for a base that is none, SettingError or CombinationError for other invalid settings.
    """

    base: Eviction = field(default_factory=TOVA)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.base, Eviction) or type(self.base).score is Eviction.score:
            what = type(self.base).__name__
            raise SettingError(self, "base", what, "a strategy that evicts by a score, such as TOVA")
        sizes = {name: getattr(self, name) for name in ("budget", "recent", "protect", "boundary")}
        try:
            object.__setattr__(self, "base", replace(self.base, **sizes))
        except SettingError as error:
            raise type(error)(self, f"base.{error.field}", error.value, error.allowed) from error

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(f"base.{name}" for name in self.base.channels)

    @property
    def queries(self) -> int:
        return self.base.queries

    def observe(self, attention: Attention) -> Mapping[str, Tensor]:
        if not self.base.channels:
            return attention.channels
        noted = self.base.observe(self._shown(attention)).items()
        return {**attention.channels, **{f"base.{name}": marks for name, marks in noted}}

    def base_score(self, attention: Attention) -> Tensor:
        """-> [B, H, S]: the score of the base."""
        return self.base.score(self._shown(attention))

    def _shown(self, attention: Attention) -> Attention:
        """What the base is shown: in a decode step no more queries than it asks for, and of the channels its own."""
        own = {name: attention.channels[f"base.{name}"] for name in self.base.channels}
        asked = latest(attention, self.base.queries) if attention.decoding else attention
        return replace(asked, probabilities=attention.probabilities, channels=own)
