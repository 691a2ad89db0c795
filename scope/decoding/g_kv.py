"""g_kv: as r_kv, but a slot remembers the attention that it once got (Liao et al. 2025, arXiv 2512.00504)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scope.decoding.periodic import Polled
from scope.policy.attention import Attention
from scope.policy.rkv import importance, of_the_queries, redundancy
from scope.util.errors import check_number, check_part


@dataclass(frozen=True)
class GKV(Polled):
    """Every `every` steps keep the `recent` last slots and the others of highest memory and lowest redundancy.

        score of slot j = balance * F_j - (1 - balance) * r_j
        F_j = max(decay * F_j at the last eviction, a_j)

    a: for each of the last `window` queries the maximum of its attention over the query heads that share a key/value
    head; then the mean over the queries, divided by the largest of all slots.
    r: the redundancy of R-KV (`RKV`), divided by the largest of all slots.
    The slots of the window are left out of a, F and both maxima. F is a channel, 0 at first. It changes only in steps
    that evict, and there only in the rows that evict.

    decay: what F is worth one eviction later, in 0..1. balance: weight of F, in 0..1. threshold: cosine similarities up
    to this count as 0 in r. 0 or more.
    The formula is that of the authors' released code (microsoft/G-KV). Departures from it:
    - It counts similarities below the threshold too, but for those that it leaves out.
    - It leaves out the newest similar slot of each block of 64 slots, and each slot at most once. r leaves out, for
      each slot, the newest of all that are similar.
    - It also evicts from a long prompt before the first step. Here that is the prefill method's.
    Raises SettingError or CombinationError for invalid settings.
    """

    window: int = 16
    decay: float = 0.8
    balance: float = 0.5
    threshold: float = 0.5

    channels: ClassVar[tuple[str, ...]] = ("memory",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("decay", "balance"):
            check_part(self, field)
        check_number(self, "threshold", low=0)

    def observe(self, attention: Attention) -> Mapping[str, Tensor]:
        if attention.leaving is None:
            return attention.channels
        old = attention.channels["memory"]
        new = torch.maximum(self.decay * old, _by_the_largest(importance(attention)))
        return {"memory": torch.where(attention.leaving[:, None, None] > 0, new, old)}

    def score(self, attention: Attention) -> Tensor:
        alike = redundancy(attention, self.threshold).masked_fill(of_the_queries(attention), 0.0)
        return self.balance * attention.channels["memory"] - (1 - self.balance) * _by_the_largest(alike)


def _by_the_largest(weights: Tensor) -> Tensor:
    """Weights [B, H, S] of at least 0 -> the same, divided by the largest of each row and head; all 0 stays 0."""
    return weights / weights.amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
