"""The plain twin of `Slots`: concatenate, then gather. Slow and obvious: the tests' oracle, benchmarks' baseline."""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from scope.plan import Plan


class Concatenated:
    """Storage in order of age; each eviction copies everything that stays. Rows are filled up at the front."""

    def __init__(self, keys: Tensor, values: Tensor, positions: Tensor, stored: list[int], room: int) -> None:
        self.keys, self.values, self.positions, self.stored = keys, values, positions.int(), list(stored)

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def append(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        self.keys = torch.cat([self.keys, keys], 2)
        self.values = torch.cat([self.values, values], 2)
        new = positions.int()[:, None, None].expand(*keys.shape[:3])
        self.positions = torch.cat([self.positions, new], 2)
        self.stored = [n + 1 for n in self.stored]

    def evict(self, plans: Sequence[Plan | None], scores: Tensor | None) -> None:
        self.stored = [min(n, plan.slots) if plan else n for plan, n in zip(plans, self.stored, strict=True)]
        batch, heads, _ = self.positions.shape
        kept = torch.zeros(batch, heads, max(self.stored), dtype=torch.long)
        empty = torch.ones_like(kept, dtype=torch.bool)
        for b in range(batch):
            for h in range(heads):
                order = [slot for slot, position in enumerate(self.positions[b, h].tolist()) if position >= 0]
                plan = plans[b]
                stay = order if plan is None else choose(order, plan, None if scores is None else scores[b, h])
                kept[b, h, : len(stay)] = torch.tensor(stay)
                empty[b, h, : len(stay)] = False
        kept, empty = kept.to(self.keys.device), empty.to(self.keys.device)
        index = kept[..., None].expand(-1, -1, -1, self.keys.shape[-1])
        self.keys, self.values = self.keys.gather(2, index), self.values.gather(2, index)
        self.positions = self.positions.gather(2, kept).masked_fill(empty, -1)

    def replace(self, rows: Sequence[int], other: Self) -> None:
        width = max(self.positions.shape[-1], other.positions.shape[-1])
        mine, theirs = self._padded(width), other._padded(width)
        for own, new in zip(mine, theirs, strict=True):
            own[list(rows)] = new
        self.keys, self.values, self.positions = mine
        for row, n in zip(rows, other.stored, strict=True):
            self.stored[row] = n

    def _padded(self, width: int) -> list[Tensor]:
        """Copies of keys, values and positions with that many slots, the added ones empty."""
        more = width - self.positions.shape[-1]
        wider = [F.pad(x, (0, 0, 0, more)) for x in (self.keys, self.values)]
        return [*wider, F.pad(self.positions, (0, more), value=-1)]


def choose(order: list[int], plan: Plan, scores: Tensor | None) -> list[int]:
    """The slots of one row and head (`order`: oldest first) that a plan keeps, oldest first."""
    if len(order) <= plan.slots:
        return order
    middle = range(plan.head, len(order) - plan.tail)
    worth = [0.0 if scores is None else float(scores[order[i]]) for i in range(len(order))]
    best = sorted(middle, key=lambda i: (worth[i], i), reverse=True)[: plan.best]
    places = [*range(plan.head), *sorted(best), *range(len(order) - plan.tail, len(order))]
    return [order[i] for i in places]
