"""The plain twin of `Slots`: it concatenates and gathers. Slow and simple: the tests compare with it.

It holds rounded keys and values as the numbers that they stand for, so its `nbytes` says nothing of a precision.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scope.cache.grouped import grouped
from scope.cache.precision import ROUNDINGS, Rounding
from scope.cache.sizes import reached
from scope.cache.states import Plain
from scope.cache.storage import Kept, stays
from scope.policy.plan import Plan
from scope.policy.rule import Rule


class Concatenated:
    """A storage in order of age. Each eviction copies everything that stays."""

    def __init__(self, kept: Kept, capacity: int, whole: bool = False) -> None:
        self._roundings = ROUNDINGS[kept.precision]
        self.keys, self.values = map(rounded, (kept.keys, kept.values), self._roundings)
        self.positions = kept.positions.int()
        self.newest, self.channels, self.stored = kept.newest.int(), dict(kept.channels), list(kept.stored)
        self.ordinals = torch.arange(self.positions.shape[-1]).to(self.positions).expand_as(self.positions)
        self._last, self._window = [n - 1 for n in kept.stored], kept.window  # each row's newest ordinal
        self._plans: Sequence[Plan | None] = []

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes + sum(x.nbytes for x in self.channels.values())

    def begin(self, plans: Sequence[Plan | None]) -> None:
        self._plans = plans
        held = [n + 1 for n in self.stored]
        self.stored = [stays(plan, n, self._window) for plan, n in zip(plans, held, strict=True)]

    def append(self, keys: Tensor, values: Tensor) -> None:
        self.newest = self.newest + 1
        self._last = [n + 1 for n in self._last]
        self.keys = torch.cat([self.keys, rounded(keys, self._roundings.keys)], 2)
        self.values = torch.cat([self.values, rounded(values, self._roundings.values)], 2)
        new = self.newest[:, None, None].expand(*keys.shape[:3])
        self.positions = torch.cat([self.positions, new], 2)
        ordinals = torch.tensor(self._last).to(self.ordinals)[:, None, None].expand_as(new)
        self.ordinals = torch.cat([self.ordinals, ordinals], 2)
        self.channels = {name: F.pad(x, (0, 1)) for name, x in self.channels.items()}

    def attend(self, query: Tensor, rule: Rule, scored: bool) -> tuple[Tensor, Tensor | None]:
        visible = self.positions >= 0
        visible &= self.positions >= rule.sight.first(self.newest)[:, None, None]
        return grouped(query, Plain(self.keys), Plain(self.values), visible.shape[-1], visible, rule)

    def ahead(self, query: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> None:
        return None

    def look(self, ahead: object, rule: Rule) -> Tensor:
        raise NotImplementedError  # it never says that it can

    def write(self, channels: Mapping[str, Tensor]) -> None:
        self.channels = {name: channels[name].float() for name in self.channels}

    def evict(self, scores: Tensor | None) -> None:
        if not any(self._plans) and self._window is None:
            return
        batch, heads, _ = self.positions.shape
        kept = torch.zeros(batch, heads, max(self.stored), dtype=torch.long)
        empty = torch.ones_like(kept, dtype=torch.bool)
        for b in range(batch):
            for h in range(heads):
                order = [slot for slot, position in enumerate(self.positions[b, h].tolist()) if position >= 0]
                plan, worth = self._plans[b], None if scores is None else scores[b, h]
                if self._window is not None:
                    stay = self._in_sight(b, h, order, plan or Plan(0, 0, 0), worth)
                else:
                    stay = order if plan is None else choose(order, plan, worth)
                kept[b, h, : len(stay)] = torch.tensor(stay)
                empty[b, h, : len(stay)] = False
        self.keep(kept.to(self.keys.device), empty.to(self.keys.device))

    def _in_sight(self, row: int, head: int, order: list[int], plan: Plan, scores: Tensor | None) -> list[int]:
        """What stays in a layer with a sliding window. Tokens that no later query sees go first, then low scores."""
        assert self._window is not None
        surplus, last = len(order) - self.stored[row], self._last[row]
        sees = int(self.newest[row]) + 2 - self._window
        gone = [slot for slot in order if int(self.positions[row, head, slot]) < sees][:surplus]
        ordinals = self.ordinals[row, head].tolist()
        middle = [slot for slot in order if slot not in gone and plan.head <= ordinals[slot] <= last - plan.tail]
        if scores is not None:
            middle.sort(key=lambda slot: float(scores[slot]))  # of equals the oldest stays first
        gone += middle[: surplus - len(gone)]
        return [slot for slot in order if slot not in gone]

    def keep(self, slots: Tensor, empty: Tensor | None = None) -> None:
        """Keep copies of these slots [B, H, n]. Those that are `empty` [B, H, n] hold no token."""
        index = slots[..., None].expand(-1, -1, -1, self.keys.shape[-1])
        self.keys, self.values = self.keys.gather(2, index), self.values.gather(2, index)
        self.positions, self.ordinals = self.positions.gather(2, slots), self.ordinals.gather(2, slots)
        if empty is not None:
            self.positions = self.positions.masked_fill(empty, -1)
        self.channels = {name: x.gather(2, slots) for name, x in self.channels.items()}

    def extend(self, kept: Kept, capacity: int, fronts: Sequence[int] | None) -> None:
        held, added = self.positions.shape[2], list(kept.stored)
        self.keys = torch.cat([self.keys, rounded(kept.keys, self._roundings.keys)], 2)
        self.values = torch.cat([self.values, rounded(kept.values, self._roundings.values)], 2)
        self.positions = torch.cat([self.positions, kept.positions.int()], 2)
        self.ordinals = F.pad(self.ordinals, (0, kept.positions.shape[2]))
        self.channels = {name: torch.cat([x, kept.channels[name]], 2) for name, x in self.channels.items()}
        total = [reached(n + new, self._window) for n, new in zip(self.stored, added, strict=True)]
        lasts = fronts or [last + 1 for last in self._last]
        begins = [reached(n + new, self._window if fronts else None) - new for n, new in zip(lasts, added, strict=True)]
        orders = torch.zeros(*self.positions.shape[:2], max(total), dtype=torch.long)
        empty = torch.ones_like(orders, dtype=torch.bool)
        for b, h in itertools.product(*map(range, self.positions.shape[:2])):
            old = [slot for slot in range(held) if self.positions[b, h, slot] >= 0]
            gone = sorted(old, key=lambda slot: int(self.positions[b, h, slot]))[: len(old) + added[b] - total[b]]
            for slot in old:
                behind = int(self.ordinals[b, h, slot]) >= lasts[b]
                self.ordinals[b, h, slot] += begins[b] - lasts[b] + added[b] * behind
            self.ordinals[b, h, held : held + added[b]] = begins[b] + torch.arange(added[b])
            stay = [slot for slot in (*old, *range(held, held + added[b])) if slot not in gone]
            stay.sort(key=lambda slot: int(self.ordinals[b, h, slot]))
            orders[b, h, : len(stay)] = torch.tensor(stay)
            empty[b, h, : len(stay)] = False
        self.keep(orders.to(self.keys.device), empty.to(self.keys.device))
        grown = [begin + new - last for begin, last, new in zip(begins, lasts, added, strict=True)]
        self._last = [n + more for n, more in zip(self._last, grown, strict=True)]
        self.stored, self.newest = total, kept.newest.int()

    def replace(self, rows: Sequence[int], other: Self) -> None:
        width = max(self.positions.shape[-1], other.positions.shape[-1])
        mine, theirs = self._padded(width), other._padded(width)
        for own, new in zip(mine, theirs, strict=True):
            own[list(rows)] = new
        self.keys, self.values, self.positions, self.ordinals, *channels = mine
        self.channels = dict(zip(self.channels, channels, strict=True))
        self.newest = self.newest.clone()
        self.newest[list(rows)] = other.newest
        for row, n in zip(rows, other.stored, strict=True):
            self.stored[row] = n
        for row, last in zip(rows, other._last, strict=True):
            self._last[row] = last

    def select(self, rows: Sequence[int]) -> None:
        at = list(rows)
        self.keys, self.values, self.positions = self.keys[at], self.values[at], self.positions[at]
        self.ordinals, self.newest = self.ordinals[at], self.newest[at]
        self.channels = {name: x[at] for name, x in self.channels.items()}
        self.stored, self._last = [self.stored[row] for row in rows], [self._last[row] for row in rows]

    def clear(self, rows: Sequence[int]) -> None:
        self.positions = self.positions.clone()
        for row in rows:
            self.positions[row], self.stored[row] = -1, 0

    def _padded(self, width: int) -> list[Tensor]:
        """Copies of keys, values, positions, ordinals and channels with `width` slots, the added ones empty."""
        more = width - self.positions.shape[-1]
        wider = [F.pad(x, (0, 0, 0, more)) for x in (self.keys, self.values)]
        marks = [F.pad(x, (0, more)) for x in self.channels.values()]
        places = [F.pad(x, (0, more), value=-1) for x in (self.positions, self.ordinals)]
        return [*wider, *places, *marks]


def choose(order: list[int], plan: Plan, scores: Tensor | None) -> list[int]:
    """The slots of one row and head that a plan keeps, oldest first. order: all its slots, oldest first."""
    if len(order) <= plan.slots:
        return order
    middle = range(plan.head, len(order) - plan.tail)
    worth = [0.0 if scores is None else float(scores[order[i]]) for i in range(len(order))]
    best = sorted(middle, key=lambda i: (worth[i], i), reverse=True)[: plan.best]
    places = [*range(plan.head), *sorted(best), *range(len(order) - plan.tail, len(order))]
    return [order[i] for i in places]


def rounded(states: Tensor, rounding: Rounding | None) -> Tensor:
    """Keys or values [B, H, n, D] as they read after they were stored so, one number at a time."""
    if rounding is None:
        return states
    group, highest = rounding.group(states.shape[-1]), 2**rounding.bits - 1
    numbers = states.reshape(-1, group).cpu().float().numpy().copy()
    for row in numbers:
        offset = np.float32(np.float16(row.min()))
        scale = np.float32(np.float16((row.max() - offset) / np.float32(highest)))
        for i, number in enumerate(row):
            code = round(float((number - offset) / scale)) if scale else 0
            row[i] = np.float32(min(max(code, 0), highest)) * scale + offset
    return torch.from_numpy(numbers).view(states.shape).to(states)
