"""One layer's keys and values in slots that are allocated once. The next token is written into a slot that was freed.

Keys are rotated before they are stored, so the order of slots does not matter to attention. Each slot has two numbers:
the position of its token in the text, and its ordinal, which counts the tokens that the row has stored, from 0. In an
empty slot both are -1. The ordinal gives a token's age. Each row and head fills and frees its own slots.

In a layer with a sliding window, a slot that no later query can see may be freed.
- Which slots these are differs between heads. Only the device knows it.
- The host knows that at most `window - 1` others can be left. A step leaves no more than that.
- Slots out of sight are freed first, in whatever part of the plan they lie.
- `head` and `tail` of a plan then mean the first and last tokens that the row has ever stored. Some may be gone.

A decode step has a part for the host and a part for the device. `begin` gets the plans and decides on the host what can
be decided from counts. `append` and `evict` then never wait for the host. Their operations depend only on the `Move`
that `begin` returns, so steps with equal moves can be recorded and replayed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from scope.cache.ahead import Ahead
from scope.cache.grouped import grouped
from scope.cache.precision import ROUNDINGS
from scope.cache.quantised import states_of
from scope.cache.sizes import reached
from scope.cache.states import longer
from scope.cache.storage import Kept, stays
from scope.policy.plan import Plan
from scope.policy.rule import Rule, Sight

GROWTH = 256  # slots that are added at a time if no bound is known


@dataclass(frozen=True)
class Move:
    """What the operations of a step depend on in one layer. Other numbers are read from the device."""

    capacity: int  # slots allocated
    width: int  # slots that are attended over
    full: bool  # the new token goes into a slot that was never used, the same one in all rows
    remembered: bool  # the empty slot of each row and head is known from the step before
    masked: bool  # some slots are empty after the new token was stored
    most: int  # slots that are freed in the row that frees most
    even: bool  # every row frees the same number
    gaps: bool  # head or tail reaches past evicted tokens, so storage order no longer equals rank


class Slots:
    """A storage in which a token never moves: see the top of this file."""

    def __init__(self, kept: Kept, capacity: int, whole: bool = False) -> None:
        keys, values, stored = kept.keys, kept.values, kept.stored
        batch, heads, width, _ = keys.shape
        capacity = max(capacity, width)
        roundings = ROUNDINGS[kept.precision]
        self._keys, self._values = map(states_of, (keys, values), (capacity, capacity), roundings)
        self._marks = torch.full((2, batch, heads, capacity), -1, dtype=torch.int32, device=keys.device)
        index = torch.arange(width, dtype=torch.int32, device=keys.device)
        self._marks[0, :, :, :width] = torch.where(kept.positions >= 0, index, -1)
        self._marks[1, :, :, :width] = kept.positions
        last = torch.tensor(stored, dtype=torch.int32, device=keys.device) - 1
        self._last = torch.stack([last, kept.newest.to(last)])[..., None, None]  # [2, B, 1, 1]: of the newest token
        self._channels = keys.new_zeros(len(kept.channels), batch, heads, capacity, dtype=torch.float32)
        self._names = tuple(kept.channels)
        for own, given in zip(self._channels, kept.channels.values(), strict=True):
            own[:, :, :width] = given
        self._width = capacity if whole else width  # slots from this one on have never been used
        self._whole = whole
        self._window = kept.window
        self.stored = list(stored)
        # None of a row's first `_head` and last `_tail` tokens was ever evicted, so ordinals tell which they are.
        self._head = [math.inf] * batch
        self._tail = [0] * batch
        self._empty = torch.zeros(
            batch, heads, 1, dtype=torch.long, device=keys.device
        )  # an empty slot of each row and head, if remembered
        self._remembered = False
        self._at: Tensor | None = None  # [B, H, 1]: the slot of the newest token; None: the last one
        self._control = torch.zeros(3, batch, 1, 1, dtype=torch.int32, device=keys.device)  # head, tail, surplus
        self._controlled: list[list[int]] = []  # what the host sent last
        self._move = Move(capacity, self._width, False, False, False, 0, True, False)

    @property
    def keys(self) -> Tensor:
        return self._keys.read(self._width)

    @property
    def values(self) -> Tensor:
        return self._values.read(self._width)

    @property
    def positions(self) -> Tensor:
        return self._marks[1, :, :, : self._width]

    @property
    def ordinals(self) -> Tensor:
        return self._marks[0, :, :, : self._width]

    @property
    def newest(self) -> Tensor:
        return self._last[1, :, 0, 0]

    @property
    def channels(self) -> Mapping[str, Tensor]:
        if not self._names:  # a short cut, since every step asks
            return {}
        return dict(zip(self._names, self._channels[..., : self._width], strict=True))

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes + self._channels.nbytes

    def begin(self, plans: Sequence[Plan | None]) -> Move:
        full = not self._whole and min(self.stored) == self._width
        if max(self.stored) == self._width:
            self._widen()
        held = [n + 1 for n in self.stored]
        surplus = [n - stays(plan, n, self._window) for plan, n in zip(plans, held, strict=True)]
        heads = [plan.head if plan else 0 for plan in plans]
        tails = [plan.tail if plan else 0 for plan in plans]
        self._tail = [n + 1 for n in self._tail]
        most, even, gaps = max(surplus), min(surplus) == max(surplus), False
        if most:
            gaps = self._window is None and any(
                gone and (head > intact or tail > new)
                for gone, head, intact, tail, new in zip(surplus, heads, self._head, tails, self._tail, strict=True)
            )
            self._send([heads, tails, surplus])
            for row, gone in enumerate(surplus):
                if gone:
                    self._head[row] = min(self._head[row], heads[row])
                    self._tail[row] = min(self._tail[row], tails[row])
        self._move = Move(
            capacity=self._keys.capacity,
            width=self._width,
            full=full,
            remembered=self._remembered,
            masked=min(held) < self._width,
            most=most,
            even=even,
            gaps=gaps,
        )
        self._remembered = most == 1 and even
        self.stored = [n - gone for n, gone in zip(held, surplus, strict=True)]
        return self._move

    def append(self, keys: Tensor, values: Tensor) -> None:
        self._last += 1
        if self._move.full:
            last = self._width - 1
            self._keys.put_alike(last, keys)
            self._values.put_alike(last, values)
            self._marks[..., last : self._width] = self._last
            self._at = None
            return  # a slot that was never used has no channels to clear
        empty = self._empty if self._move.remembered else self.ordinals.argmin(-1, keepdim=True)
        self._at = empty
        self._keys.put(empty, keys)
        self._values.put(empty, values)
        self._marks.scatter_(3, empty.expand(2, -1, -1, -1), self._last.expand(-1, -1, empty.shape[1], -1))
        if self._names:
            self._channels.scatter_(3, empty.expand(len(self._names), -1, -1, -1), 0.0)

    def attend(self, query: Tensor, rule: Rule, scored: bool) -> tuple[Tensor, Tensor | None]:
        return grouped(query, self._keys, self._values, self._width, self._visible(rule.sight), rule)

    def ahead(self, query: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> Ahead | None:
        return None if self._whole else Ahead((self._keys, self._values), self._width, query, (keys, values), rule)

    def look(self, ahead: Ahead, rule: Rule) -> Tensor:
        last = torch.full_like(self._empty, self._width - 1) if self._at is None else self._at
        return ahead.attend(last, self._visible(rule.sight), self._width)

    def write(self, channels: Mapping[str, Tensor]) -> None:
        for name, own in zip(self._names, self._channels, strict=True):
            own[..., : self._width] = channels[name]

    def evict(self, scores: Tensor | None) -> None:
        move = self._move
        if not move.most:
            return
        ordinals = self.ordinals  # made once, since making a view takes as long as an operation on it
        worth = ordinals.float() if scores is None else scores
        worth = torch.where(self._eligible(ordinals), worth, torch.inf)
        if self._window is not None:  # empty slots are left out by their ordinal below
            out_of_sight = (ordinals >= 0) & (self.positions <= self.newest[:, None, None] + 1 - self._window)
            worth = torch.where(out_of_sight, -torch.inf, worth)
        if move.most == 1:
            lowest = worth == worth.amin(-1, keepdim=True)
            gone = torch.where(lowest, ordinals, torch.iinfo(torch.int32).max).argmin(-1, keepdim=True)
            self._empty.copy_(gone)
        else:
            by_age = ordinals.argsort(-1)
            by_worth = worth.gather(-1, by_age).argsort(dim=-1, stable=True)
            gone = by_age.gather(-1, by_worth[..., : move.most])
        gone = gone.expand(2, -1, -1, -1)
        if move.even:
            self._marks.scatter_(3, gone, -1)
        else:
            goes = torch.arange(move.most, device=gone.device) < self._control[2]
            self._marks.scatter_(3, gone, torch.where(goes, -1, self._marks.gather(3, gone)))

    def extend(self, kept: Kept, capacity: int, fronts: Sequence[int] | None) -> None:
        gone = [n + new - reached(n + new, self._window) for n, new in zip(self.stored, kept.stored, strict=True)]
        if any(gone):
            self._free_oldest(gone)
        self.stored = [n - out + new for n, out, new in zip(self.stored, gone, kept.stored, strict=True)]
        self._reserve(max(self.stored), capacity)
        first = self._make_way(kept.stored, fronts)
        count = (kept.positions >= 0).sum(-1, keepdim=True)
        index = torch.arange(kept.positions.shape[2], device=count.device)
        index = torch.where(index < count, index, 0)  # where a row has fewer, its first is written again
        at = (self.ordinals >= 0).byte().argsort(dim=-1, stable=True).gather(-1, index)  # the empty slots come first
        for states, new in ((self._keys, kept.keys), (self._values, kept.values)):
            states.put(at, new.gather(2, index[..., None].expand(*index.shape, new.shape[-1])))
        marks = torch.stack([first + index, kept.positions.gather(-1, index)]).to(self._marks)
        self._marks.scatter_(3, at.expand(2, -1, -1, -1), marks)
        for own, given in zip(self._channels, kept.channels.values(), strict=True):
            own.scatter_(2, at, given.gather(-1, index))
        self._last[1] = kept.newest[:, None, None]
        self._remembered = False

    def replace(self, rows: Sequence[int], other: Self) -> None:
        """Put the rows of `other`, which has as many heads, in place of these rows, whose tokens are dropped."""
        self._reserve(other._width, 0)
        at = torch.tensor(rows, device=self._marks.device)
        width = other._width
        self._keys.replace(at, other._keys, width)
        self._values.replace(at, other._values, width)
        self._marks[:, at] = -1
        self._marks[:, at, :, :width] = other._marks[..., :width]
        self._last[:, at] = other._last
        self._channels[:, at, :, :width] = other._channels[..., :width]
        for source, row in enumerate(rows):
            self.stored[row] = other.stored[source]
            self._head[row], self._tail[row] = other._head[source], other._tail[source]
        self._remembered = False

    def select(self, rows: Sequence[int]) -> None:
        at = torch.tensor(rows, device=self._marks.device)
        self._keys.select(at)
        self._values.select(at)
        self._marks, self._channels, self._last = self._marks[:, at], self._channels[:, at], self._last[:, at]
        self._empty = self._empty[at]
        self._control, self._controlled = self._control[:, at], []  # so that the host sends it anew
        self.stored, self._tail = [self.stored[row] for row in rows], [self._tail[row] for row in rows]
        self._head = [self._head[row] for row in rows]

    def clear(self, rows: Sequence[int]) -> None:
        if rows:
            self._marks[:, torch.tensor(rows, device=self._marks.device)] = -1
            self._remembered = False
        for row in rows:
            self.stored[row], self._head[row], self._tail[row] = 0, math.inf, 0

    def _free_oldest(self, gone: Sequence[int]) -> None:
        """Free so many slots of each row, in each head those of the first positions."""
        most = torch.iinfo(torch.int32).max
        by_age = torch.where(self.ordinals < 0, most, self.positions).argsort(-1)[..., : max(gone)]
        by_age = by_age.expand(2, -1, -1, -1)
        counts = torch.tensor(gone, device=by_age.device)[:, None, None]
        goes = torch.arange(max(gone), device=by_age.device) < counts
        self._marks.scatter_(3, by_age, torch.where(goes, -1, self._marks.gather(3, by_age)))

    def _make_way(self, added: Sequence[int], fronts: Sequence[int] | None) -> Tensor:
        """Change the ordinals, so that so many tokens can come in each row. -> [B, 1, 1]: the ordinal of the first."""
        new = torch.tensor(added, dtype=torch.int32, device=self._marks.device)[:, None, None]
        if fronts is None:
            self._tail = [n + more for n, more in zip(self._tail, added, strict=True)]
            self._last[0] += new
            return self._last[0] + 1 - new
        self._head = [n + more * (n >= front) for n, more, front in zip(self._head, added, fronts, strict=True)]
        counted = [reached(front + more, self._window) for front, more in zip(fronts, added, strict=True)]
        front, behind = (torch.tensor(some).to(new)[:, None, None] for some in (fronts, counted))
        ordinals = self._marks[0]
        moved = (ordinals - (front + new - behind) + new * (ordinals >= front)).clamp_min(0)
        self._marks[0] = torch.where(ordinals < 0, -1, moved)
        self._last[0] += behind - front
        return behind - new

    def _reserve(self, width: int, capacity: int) -> None:
        """Attend over at least so many slots, with at least so many allocated."""
        more = max(width, capacity) - self._keys.capacity
        if more > 0:
            self._allocate(more)
        self._width = max(self._width, width)

    def _visible(self, sight: Sight) -> Tensor | None:
        """-> [B, H, S] bool: the slots that the step's query sees; None = all."""
        visible = self.ordinals >= 0 if self._move.masked else None
        if sight.window is not None:
            near = self.positions >= sight.first(self.newest)[:, None, None]
            visible = near if visible is None else visible & near
        return visible

    def _eligible(self, ordinals: Tensor) -> Tensor:
        """-> [B, H, S] bool: slots that may be freed: neither empty nor in the head or tail of the row's plan."""
        head, tail, _ = self._control.unbind()
        if self._move.gaps:  # count only the tokens that are left
            order = self._ranks(ordinals)
            return (order >= head) & (order < (ordinals >= 0).sum(-1, keepdim=True) - tail)
        return (ordinals >= head) & (ordinals <= self._last[0] - tail)

    def _ranks(self, ordinals: Tensor) -> Tensor:
        """-> [B, H, S]: the rank of each token by age in its row and head, 0 = the oldest; -1 = empty."""
        by_age = ordinals.argsort(-1)
        ranks = torch.empty_like(by_age).scatter_(
            -1, by_age, torch.arange(self._width, device=by_age.device).expand_as(by_age)
        )
        empty = (ordinals < 0).sum(-1, keepdim=True)
        return torch.where(ordinals >= 0, ranks - empty, -1)

    def _send(self, control: list[list[int]]) -> None:
        """Copy the counts of this step to the device, unless they are those of the step before."""
        if control != self._controlled:
            self._control.copy_(torch.tensor(control, dtype=torch.int32)[..., None, None], non_blocking=True)
            self._controlled = control

    def _widen(self) -> None:
        """Attend over one more slot in every row and head. If all are in use, allocate more."""
        self._width += 1
        capacity = self._keys.capacity
        if self._width > capacity:
            self._allocate(GROWTH if self._window is None else max(1, min(GROWTH, self._window - capacity)))

    def _allocate(self, more: int) -> None:
        """Allocate so many slots more."""
        self._keys.widen(more)
        self._values.widen(more)
        self._marks, self._channels = longer(self._marks, 3, more, -1), longer(self._channels, 3, more, 0.0)
        if self._whole:
            self._width = self._keys.capacity
