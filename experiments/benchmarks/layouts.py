"""The released code's layout as a storage: concatenated at each step, and gathered again once something has to go."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scope.cache.twin import Concatenated
from scope.plan import Plan


class Gathered(Concatenated):
    """The plain twin's copies without its loops over rows and heads: for rows of one length, planned alike."""

    def evict(self, plans: Sequence[Plan | None], scores: Tensor | None) -> None:
        plan = plans[0]
        if plan is None or self.stored[0] <= plan.slots:
            return
        batch, heads, slots = self.positions.shape
        stop = slots - plan.tail
        every = torch.arange(slots, device=self.keys.device).expand(batch, heads, -1)
        parts = [every[..., : plan.head], every[..., stop:]]
        if plan.best:
            assert scores is not None
            best = scores[..., plan.head : stop].topk(plan.best, dim=-1).indices.sort(-1).values + plan.head
            parts.insert(1, best)
        kept = torch.cat(parts, -1)
        index = kept[..., None].expand(-1, -1, -1, self.keys.shape[-1])
        self.keys, self.values = self.keys.gather(2, index), self.values.gather(2, index)
        self.positions = self.positions.gather(2, kept)
        self.stored = [plan.slots] * batch
