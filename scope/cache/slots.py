"""One layer's keys and values in preallocated slots: a freed slot is overwritten by the next token, nothing else moves.

Keys are rotated already, so the order of slots does not matter to attention. A slot remembers its token's position in
the text and its ordinal: the how-manieth token of its row it was to be stored (-1 = empty). Age is read from there.
Rows and heads fill and free slots on their own.
"""

import math
from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from scope.plan import Plan

GROWTH = 256  # slots added at a time where no bound is known
REMEMBERED = 16  # per-row counts that are kept on the device


class Storage(Protocol):
    """What a layer needs of its storage: B rows, H key/value heads, S slots, D head dim."""

    stored: list[int]  # per row: tokens stored, the same number in every head

    @property
    def keys(self) -> Tensor: ...  # [B, H, S, D]

    @property
    def values(self) -> Tensor: ...  # [B, H, S, D]

    @property
    def positions(self) -> Tensor: ...  # [B, H, S] int32, -1 = empty

    @property
    def nbytes(self) -> int: ...  # of keys and values, as allocated

    def append(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        """Store one token per row: keys and values [B, H, 1, D], positions [B]."""
        ...

    def evict(self, plans: Sequence[Plan | None], scores: Tensor | None) -> None:
        """Keep what each row's plan says. `scores` [B, H, S]: where one has a `best`; of equals the newer stays."""
        ...

    def replace(self, rows: Sequence[int], other: Self) -> None:
        """These rows become those of `other`; what was in them is dropped."""
        ...


class StorageFactory(Protocol):
    """Makes a layer's storage from what the prefill kept."""

    def __call__(self, keys: Tensor, values: Tensor, positions: Tensor, stored: list[int], room: int) -> Storage:
        """keys, values [B, H, n, D], positions [B, H, n] (-1 past a row's `stored`); `room`: slots to make room for."""
        ...


class Slots:
    """Storage in place. Starts with what stays of the prompt at the front of each row, the oldest first."""

    def __init__(self, keys: Tensor, values: Tensor, positions: Tensor, stored: list[int], room: int) -> None:
        batch, heads, width, _ = keys.shape
        room = max(room, width)
        self._keys = keys.new_zeros(batch, heads, room, keys.shape[-1])
        self._values = values.new_zeros(batch, heads, room, values.shape[-1])
        self._positions = torch.full((batch, heads, room), -1, dtype=torch.int32, device=keys.device)
        self._keys[:, :, :width], self._values[:, :, :width] = keys, values
        self._positions[:, :, :width] = positions
        index = torch.arange(room, dtype=torch.int32, device=keys.device)
        self._ordinals = torch.where(self._positions >= 0, index, -1)
        self._width = width  # slots from here on have never been used
        self.stored = list(stored)
        self._seen = list(stored)  # tokens ever stored, per row: the next one's ordinal
        self._clock = torch.tensor(stored, dtype=torch.int32, device=keys.device)[:, None, None]  # the same, there
        # A row's first `_head` tokens and its last `_tail` were never evicted: ordinals say which they are.
        self._head = [math.inf] * batch
        self._tail = [0] * batch
        self._freed: Tensor | None = None  # [B, H, 1]: an empty slot of each, where it is known
        self._counts: dict[tuple[int, ...], Tensor] = {}  # of this batch, on its device

    @property
    def keys(self) -> Tensor:
        return self._keys[:, :, : self._width]

    @property
    def values(self) -> Tensor:
        return self._values[:, :, : self._width]

    @property
    def positions(self) -> Tensor:
        return self._positions[:, :, : self._width]

    @property
    def ordinals(self) -> Tensor:
        return self._ordinals[:, :, : self._width]

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes

    def append(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        full = min(self.stored) == self._width
        if max(self.stored) == self._width:
            self._widen()
        if full:  # no row has an empty slot but the new one
            new = slice(self._width - 1, self._width)
            self._keys[:, :, new], self._values[:, :, new] = keys, values
            self._positions[:, :, new] = positions[:, None, None]
            self._ordinals[:, :, new] = self._clock
        else:
            empty = self.ordinals.argmin(-1, keepdim=True) if self._freed is None else self._freed
            at = empty[..., None].expand_as(keys)
            self._keys.scatter_(2, at, keys)
            self._values.scatter_(2, at, values)
            self._positions.scatter_(2, empty, positions.int()[:, None, None].expand_as(empty))
            self._ordinals.scatter_(2, empty, self._clock.expand_as(empty))
        self._freed = None
        self._clock += 1
        self.stored = [n + 1 for n in self.stored]
        self._seen = [n + 1 for n in self._seen]
        self._tail = [n + 1 for n in self._tail]

    def evict(self, plans: Sequence[Plan | None], scores: Tensor | None) -> None:
        surplus = [0 if plan is None else max(0, n - plan.slots) for plan, n in zip(plans, self.stored, strict=True)]
        if not any(surplus):
            return
        made = [plan or Plan(head=0, best=n, tail=0) for plan, n in zip(plans, self.stored, strict=True)]
        eligible = self._eligible(made)
        worth = self.ordinals.float() if scores is None else scores
        worth = torch.where(eligible, worth, torch.inf)
        if max(surplus) == 1:
            self._free_one(worth, surplus)
        else:
            self._free_many(worth, surplus)
        self.stored = [n - gone for n, gone in zip(self.stored, surplus, strict=True)]
        for row, (plan, gone) in enumerate(zip(made, surplus, strict=True)):
            if gone:
                self._head[row] = min(self._head[row], plan.head)
                self._tail[row] = min(self._tail[row], plan.tail)

    def replace(self, rows: Sequence[int], other: Self) -> None:
        """Rows of this batch become those of `other`, which has as many heads; what was in them is dropped."""
        while self._width < other._width:
            self._widen()
        at = torch.tensor(rows, device=self._keys.device)
        width = other._width
        self._keys[at, :, :width], self._values[at, :, :width] = other.keys, other.values
        for marks, new in ((self._positions, other.positions), (self._ordinals, other.ordinals)):
            marks[at] = -1
            marks[at, :, :width] = new
        self._clock[at] = other._clock
        for source, row in enumerate(rows):
            self.stored[row], self._seen[row] = other.stored[source], other._seen[source]
            self._head[row], self._tail[row] = other._head[source], other._tail[source]
        self._freed = None
        self._counts.clear()

    def _eligible(self, plans: Sequence[Plan]) -> Tensor:
        """-> [B, H, S] bool: neither empty nor in a row's head or tail."""
        first = self._per_row([plan.head for plan in plans])
        tail = self._per_row([plan.tail for plan in plans])
        intact = zip(plans, self._head, self._tail, strict=True)
        if all(plan.head <= head and plan.tail <= tail for plan, head, tail in intact):
            order, seen = self.ordinals, self._clock
        else:  # a plan looks behind earlier evictions: count the tokens that are left
            order, seen = self._ranks(), (self.ordinals >= 0).sum(-1, keepdim=True)
        return (order >= first) & (order < seen - tail)

    def _ranks(self) -> Tensor:
        """-> [B, H, S]: each stored token's place in its row's and head's order of age, -1 = empty."""
        by_age = self.ordinals.argsort(-1)
        ranks = torch.empty_like(by_age).scatter_(
            -1, by_age, torch.arange(self._width, device=by_age.device).expand_as(by_age)
        )
        empty = (self.ordinals < 0).sum(-1, keepdim=True)
        return torch.where(self.ordinals >= 0, ranks - empty, -1)

    def _free_one(self, worth: Tensor, surplus: list[int]) -> None:
        lowest = worth == worth.amin(-1, keepdim=True)
        oldest = torch.where(lowest, self.ordinals, torch.iinfo(torch.int32).max).argmin(-1, keepdim=True)
        self._free(oldest, 1, surplus)
        self._freed = oldest if min(surplus) == 1 else None

    def _free_many(self, worth: Tensor, surplus: list[int]) -> None:
        by_age = self.ordinals.argsort(-1)
        by_worth = worth.gather(-1, by_age).argsort(dim=-1, stable=True)
        freed = by_age.gather(-1, by_worth[..., : max(surplus)])
        self._free(freed, max(surplus), surplus)
        self._freed = None

    def _free(self, slots: Tensor, most: int, surplus: list[int]) -> None:
        """Empty the first surplus[b] of each row's `slots` [B, H, most]."""
        if min(surplus) == most:
            self._ordinals.scatter_(2, slots, -1)
            self._positions.scatter_(2, slots, -1)
            return
        goes = torch.arange(most, device=slots.device) < self._per_row(surplus)
        for marks in (self._ordinals, self._positions):
            marks.scatter_(2, slots, torch.where(goes, -1, marks.gather(2, slots)))

    def _per_row(self, counts: Sequence[int]) -> Tensor | int:
        """Host counts, to broadcast over [B, H, S]; without a transfer where they have been asked for before."""
        if len(set(counts)) == 1:
            return counts[0]
        key = tuple(counts)
        if key not in self._counts:
            if len(self._counts) == REMEMBERED:
                self._counts.clear()
            self._counts[key] = torch.tensor(counts, dtype=torch.int32, device=self._keys.device)[:, None, None]
        return self._counts[key]

    def _widen(self) -> None:
        """One more slot for every row and head; where the room is used up, more is made."""
        self._width += 1
        if self._width <= self._keys.shape[2]:
            return
        batch, heads, _, _ = self._keys.shape
        more = (batch, heads, GROWTH)
        self._keys = torch.cat([self._keys, self._keys.new_zeros(*more, self._keys.shape[-1])], 2)
        self._values = torch.cat([self._values, self._values.new_zeros(*more, self._values.shape[-1])], 2)
        self._positions = torch.cat([self._positions, self._positions.new_full(more, -1)], 2)
        self._ordinals = torch.cat([self._ordinals, self._ordinals.new_full(more, -1)], 2)
