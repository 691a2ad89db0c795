"""One layer's keys and values in preallocated slots: a freed slot is overwritten by the next token, nothing else moves.

Keys are rotated already, so the order of slots does not matter to attention. A slot remembers its token's position in
the text and its ordinal: the how-manieth token of its row it was to be stored (-1 = empty). Age is read from there.
Rows and heads fill and free slots on their own.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from scope.plan import Plan

GROWTH = 256  # slots added at a time where no bound is known


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
        self._prefilled = tuple(stored)
        self._prefilled_rows = torch.tensor(stored, dtype=torch.int32, device=keys.device)[:, None, None]
        # A row's first `_head` tokens and its last `_tail` were never evicted: ordinals say which they are.
        self._head = [math.inf] * batch
        self._tail = [0] * batch

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
        ordinals = self._per_row(self._seen)
        if full:  # no row has an empty slot but the new one
            new = self._width - 1
            self._keys[:, :, new], self._values[:, :, new] = keys[:, :, 0], values[:, :, 0]
            self._positions[:, :, new : new + 1] = positions[:, None, None]
            self._ordinals[:, :, new : new + 1] = ordinals
        else:
            empty = self.ordinals.argmin(-1, keepdim=True)  # [B, H, 1]
            at = empty[..., None].expand_as(keys)
            self._keys.scatter_(2, at, keys)
            self._values.scatter_(2, at, values)
            self._positions.scatter_(2, empty, positions.int()[:, None, None].expand_as(empty))
            if isinstance(ordinals, int):
                self._ordinals.scatter_(2, empty, ordinals)
            else:
                self._ordinals.scatter_(2, empty, ordinals.expand_as(empty))
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
        worth = worth.masked_fill(~eligible, torch.inf)
        if max(surplus) == 1:
            self._free_one(worth, surplus)
        else:
            self._free_many(worth, surplus)
        self.stored = [n - gone for n, gone in zip(self.stored, surplus, strict=True)]
        for row, (plan, gone) in enumerate(zip(made, surplus, strict=True)):
            if gone:
                self._head[row] = min(self._head[row], plan.head)
                self._tail[row] = min(self._tail[row], plan.tail)

    def _eligible(self, plans: Sequence[Plan]) -> Tensor:
        """-> [B, H, S] bool: neither empty nor in a row's head or tail."""
        intact = zip(plans, self._head, self._tail, strict=True)
        if all(plan.head <= head and plan.tail <= tail for plan, head, tail in intact):
            order, seen = self.ordinals, self._seen
        else:  # a plan looks behind earlier evictions: count the tokens that are left
            order, seen = self._ranks(), self.stored
        first = self._per_row([plan.head for plan in plans])
        end = self._per_row([n - plan.tail for n, plan in zip(seen, plans, strict=True)])
        return (order >= first) & (order < end)

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

    def _free_many(self, worth: Tensor, surplus: list[int]) -> None:
        by_age = self.ordinals.argsort(-1)
        by_worth = worth.gather(-1, by_age).argsort(dim=-1, stable=True)
        self._free(by_age.gather(-1, by_worth[..., : max(surplus)]), max(surplus), surplus)

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
        """Host counts, to broadcast over [B, H, S]; without a transfer where rows differ only by their prompt."""
        if len(set(counts)) == 1:
            return counts[0]
        beyond = {n - kept for n, kept in zip(counts, self._prefilled, strict=True)}
        if len(beyond) == 1:
            return self._prefilled_rows + beyond.pop()
        return torch.tensor(counts, dtype=torch.int32, device=self._keys.device)[:, None, None]

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
