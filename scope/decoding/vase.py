"""vase: sinks, values of large range, and others by lot (Chang et al. 2026, arXiv 2606.03928)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scope.decoding.periodic import Periodic
from scope.policy import scores
from scope.policy.attention import Attention
from scope.util.errors import check_count, check_odd


@dataclass(frozen=True)
class VASE(Periodic):
    """Every `every` steps keep the `recent` last; of the rest the first `sinks` tokens, the `anchors` slots with the
    largest range of values (maximum - minimum over the coordinates), and others drawn without replacement.

    The draw is in proportion to the mean attention of the `recent` last queries (64 in the paper), averaged over
    `kernel` neighbours, of which the recent slots count as 0; its lots are hashes of `seed`, layer, head, token and
    time. The queries are held beside the slots, and not counted among their bytes. Anchors are sought among what may be
    evicted: of a protected prompt nothing takes their place. Not known to us from the paper, and our choice: the
    kernel, and that the group's attention is averaged.
    """

    every: int = 64
    sinks: int = 4
    anchors: int = 256
    kernel: int = 7
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("sinks", "anchors", "seed"):
            check_count(self, field)
        check_odd(self, "kernel")

    @property
    def queries(self) -> int:
        return self.recent

    def score(self, attention: Attention) -> Tensor:
        free = self.evictable(attention)
        votes = scores.votes(attention).masked_fill(attention.positions > attention.now - self.recent, 0.0)
        weights = scores.neighbourhood(votes, attention.positions, self.kernel, average=True)
        lots = scores.noise(attention, self.seed).clamp(2**-25, 1 - 2**-25)
        drawn = weights.clamp_min(1e-30).log() - (-lots.log()).log()  # the largest are a draw without replacement
        range_ = (attention.values.amax(-1) - attention.values.amin(-1)).float().masked_fill(~free, -1.0)
        newest_first = attention.positions.argsort(-1, descending=True)  # equal values are common: tokens are repeated
        by_range = range_.gather(-1, newest_first).argsort(dim=-1, descending=True, stable=True)
        place = newest_first.gather(-1, by_range).argsort(-1)
        ranked = torch.where(place < self.anchors, 1e6 - place, drawn)
        return torch.where(attention.positions < self.sinks, 2e6, ranked)
