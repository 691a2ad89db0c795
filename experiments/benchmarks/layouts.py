"""The released code's layout as a storage: concatenated at each step, and gathered again once something has to go."""

import torch
from torch import Tensor

from scope.cache.twin import Concatenated


class Gathered(Concatenated):
    """The plain twin's copies without its loops over rows and heads: for rows of one length, planned alike."""

    def evict(self, scores: Tensor | None) -> None:
        plan = self._plans[0]
        batch, heads, slots = self.positions.shape
        if plan is None or slots <= plan.slots:
            return
        stop = slots - plan.tail
        every = torch.arange(slots, device=self.keys.device).expand(batch, heads, -1)
        parts = [every[..., : plan.head], every[..., stop:]]
        if plan.best:
            assert scores is not None
            best = scores[..., plan.head : stop].topk(plan.best, dim=-1).indices.sort(-1).values + plan.head
            parts.insert(1, best)
        self.keep(torch.cat(parts, -1))
