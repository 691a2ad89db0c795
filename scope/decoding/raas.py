"""raas: what was not looked at for longest goes (Hu et al. 2025, arXiv 2502.11147)."""

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
    """Keep the `recent` last and, of the rest, the slots with the newest clocks, which high attention sets to now.

    High: at least `threshold`; None: among the top `share` of the slots stored. A new slot's clock is its birth, a
    prompt's 0 until it is looked at. Of equal clocks the newer slot stays. Departure: single slots are evicted, no
    pages of them.
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
            high = math.ceil(self.share * slots)  # of a row that is full
            empty = attention.positions < 0
            nth = empty.cumsum(-1)
            fewer = high - ((slots - nth[..., -1:]).double() * self.share).ceil()
            # as many empty slots as this row has fewer go first, so that one rank serves all rows
            highest = (weights + (empty & (nth <= fewer))).topk(high, sorted=False).values
            least = highest.amin(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)  # 0 is not looked at
            looked_at = weights >= least
        else:
            looked_at = weights >= self.threshold
        born = attention.positions == attention.now
        return {"clock": torch.where(looked_at | born, attention.now.float(), attention.channels["clock"])}

    def score(self, attention: Attention) -> Tensor:
        return attention.channels["clock"]
