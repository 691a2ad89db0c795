"""vase: keep sinks, values of large range, and a random draw of others (Chang et al. 2026, arXiv 2606.03928)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scope.decoding.periodic import Periodic
from scope.policy import scores
from scope.policy.attention import Attention
from scope.util.errors import check_count, check_odd


@dataclass(frozen=True)
class VASE(Periodic):
    """Every `every` steps keep the `recent` last slots. Of the others keep, in this order:

    1. the first `sinks` tokens;
    2. the `anchors` slots with the largest range of values, max(v_j) - min(v_j) over the coordinates;
    3. slots drawn without replacement, each with weight w_j.

        w_j = mean over the `kernel` slots around j of (attention of the `recent` last queries to the slot)

    Recent slots count as 0 in w. Slots beside j are in order of position. The paper has recent = 64.

    seed: the draw is a hash of seed, layer, head, token and time.
    Anchors are chosen among the slots that may be evicted, so a protected prompt takes no place of an anchor.
    The queries are held beside the slots. They do not count as bytes of the cache.
    Two points are our choice, since we do not know them from the paper: `kernel`, and that the query heads that share a
    key/value head average their attention.
    Raises SettingError or CombinationError for invalid settings.
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
        return self.newest

    def score(self, attention: Attention) -> Tensor:
        free = self.evictable(attention)
        votes = scores.votes(attention).masked_fill(attention.positions > attention.now - self.newest, 0.0)
        weights = scores.neighbourhood(votes, attention.positions, self.kernel, average=True)
        lots = scores.noise(attention, self.seed).clamp(2**-25, 1 - 2**-25)
        # the largest of these are a draw without replacement (Gumbel top-k)
        drawn = weights.clamp_min(1e-30).log() - (-lots.log()).log()
        range_ = (attention.values.amax(-1) - attention.values.amin(-1)).float().masked_fill(~free, -1.0)
        # ties are common, since tokens repeat: the newest goes first
        newest_first = attention.positions.argsort(-1, descending=True)
        by_range = range_.gather(-1, newest_first).argsort(dim=-1, descending=True, stable=True)
        place = newest_first.gather(-1, by_range).argsort(-1)
        ranked = torch.where(place < self.anchors, 1e6 - place, drawn)
        return torch.where(attention.positions < self.sinks, 2e6, ranked)
