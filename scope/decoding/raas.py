"""raas: evict the slots that got no high attention for the longest time (Hu et al. 2025, arXiv 2502.11147)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention
from scope.util.errors import SettingError, check_number


@dataclass(frozen=True)
class RaaS(Eviction):
    """Keep the `recent` last slots and the others with the newest clocks. High attention sets a slot's clock to now.

        score of slot j = the last step at which a(t, j) was high

    share: if `threshold` is None, attention is high if it is among the top `share` of the stored slots (0 < share <=
    1).
    threshold: if given, attention is high from this probability on.
    A new slot's clock is its own step. A prompt slot's clock is 0 until it gets high attention. Of equal clocks the
    newer slot stays.
    Departure: single slots are evicted, not pages of slots.
    Raises SettingError or CombinationError for invalid settings.
    """

    share: float = 0.5
    threshold: float | None = None

    channels: ClassVar[tuple[str, ...]] = ("clock",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "share", low=0)
        if not 0 < self.share <= 1:
            raise SettingError(self, "share", self.share, "a number above 0, at most 1")
        if self.threshold is not None:
            check_number(self, "threshold", low=0)

    def observe(self, attention: Attention) -> Mapping[str, Tensor]:
        if not attention.decoding:
            return attention.channels
        weights = scores.received(attention)
        if self.threshold is None:
            slots = weights.shape[-1]
            high = math.ceil(self.share * slots)  # for a row without empty slots
            empty = attention.positions < 0
            nth = empty.cumsum(-1)
            fewer = high - ((slots - nth[..., -1:]).double() * self.share).ceil()
            # A row with empty slots has fewer high ones. Some of its empty slots take the top weights instead,
            # so that one rank serves all rows.
            highest = (weights + (empty & (nth <= fewer))).topk(high, sorted=False).values
            # attention of 0 is never high
            least = highest.amin(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
            looked_at = weights >= least
        else:
            looked_at = weights >= self.threshold
        born = attention.positions == attention.now
        return {"clock": torch.where(looked_at | born, attention.now.float(), attention.channels["clock"])}

    def score(self, attention: Attention) -> Tensor:
        return attention.channels["clock"]
