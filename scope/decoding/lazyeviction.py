"""lazyeviction: keep slots whose attention may come back (Zhang et al. 2025, arXiv 2506.15969)."""

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
    """Every `recent` steps keep the `recent` last slots and the others with the highest score.

        score of slot j = 2 sigmoid(-(t - TS) / MRI) + 2 sigmoid(-1 / MRI)

    TS is the last step at which the slot's attention exceeded `threshold`. MRI is the longest time, in steps, that the
    slot ever waited for this, from its own token on. A slot that came back after long gaps may wait as long again.

    threshold: attention probability, 0 or more.
    Two points are our choice, since we do not know them from the paper: the default threshold, and the score of a slot
    that got no such attention since its birth. It is 0, the limit of the formula.
    Raises SettingError or CombinationError for invalid settings.
    """

    protect: str = "nothing"
    threshold: float = 1e-4

    channels: ClassVar[tuple[str, ...]] = ("last", "gap")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "threshold", low=0)

    @property
    def period(self) -> int:
        return self.newest

    def observe(self, attention: Attention) -> Mapping[str, Tensor]:
        if not attention.decoding:
            return attention.channels
        now, last, gap = attention.now.float(), attention.channels["last"], attention.channels["gap"]
        # 0: not set yet, so the slot starts at its own token
        last = torch.where(last == 0, attention.positions.float(), last)
        looked_at = scores.received(attention) > self.threshold
        return {
            "last": torch.where(looked_at, now, last),
            "gap": torch.where(looked_at, torch.maximum(gap, now - last), gap),
        }

    def score(self, attention: Attention) -> Tensor:
        gap = attention.channels["gap"].clamp_min(1e-9)
        waited = attention.now - attention.channels["last"]
        return 2 * torch.sigmoid(-waited / gap) + 2 * torch.sigmoid(-1 / gap)
