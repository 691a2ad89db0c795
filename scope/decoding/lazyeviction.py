"""lazyeviction: what comes back after long gaps may wait as long (Zhang et al. 2025, arXiv 2506.15969)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention
from scope.util.errors import check_number


@dataclass(frozen=True)
class LazyEviction(Eviction):
    """Every `recent` steps keep the `recent` last and, of the rest, the slots of the highest
    2 sigmoid(-(t - TS) / MRI) + 2 sigmoid(-1 / MRI).

    TS: when the slot's attention last exceeded `threshold`; MRI: the longest it ever waited for that, from its own
    token on. Not known to us from the paper, and our choice: the threshold, and that a slot which nothing has looked at
    since its birth scores 0, the formula's limit.
    """

    protect: str = "nothing"
    threshold: float = 1e-4

    channels: ClassVar[tuple[str, ...]] = ("last", "gap")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "threshold", low=0)

    @property
    def period(self) -> int:
        return self.recent

    def observe(self, attention: Attention) -> Mapping[str, Tensor]:
        if not attention.decoding:
            return attention.channels
        now, last, gap = attention.now.float(), attention.channels["last"], attention.channels["gap"]
        last = torch.where(last == 0, attention.positions.float(), last)  # 0: nothing has been said of it
        looked_at = scores.received(attention) > self.threshold
        return {
            "last": torch.where(looked_at, now, last),
            "gap": torch.where(looked_at, torch.maximum(gap, now - last), gap),
        }

    def score(self, attention: Attention) -> Tensor:
        gap = attention.channels["gap"].clamp_min(1e-9)
        waited = attention.now - attention.channels["last"]
        return 2 * torch.sigmoid(-waited / gap) + 2 * torch.sigmoid(-1 / gap)
