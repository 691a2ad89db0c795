"""A storage whose heads hold different numbers of tokens: one storage for each head, so that no slot is left unused."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from scope.cache.ahead import Known
from scope.cache.storage import Kept, Storage, StorageFactory
from scope.policy.plan import Plan
from scope.policy.rule import Rule


class ByHead:
    """The heads of one layer, which shared the slots of the prompt, side by side.

    A plan counts slots as if every head held the mean. A head that got more slots of the prompt keeps as many more than
    the plan says, and one that got fewer as many fewer.
    For a score the slots of all heads are put side by side. A head with fewer slots gets empty ones at its end. These
    are copies, made only in a step that looks at them.
    """

    def __init__(self, kept: Kept, capacity: int, whole: bool, make: StorageFactory) -> None:
        """make: makes the storage of one head. Other arguments are those of a `StorageFactory`."""
        held = (kept.positions >= 0).sum(-1).tolist()  # [B][H]
        self._mean = list(kept.stored)  # slots of each row after the prefill, in the mean over the heads
        self._more = [[n - mean for n in heads] for heads, mean in zip(held, self._mean, strict=True)]
        self._heads: list[Storage] = []
        for head, counts in enumerate(zip(*held, strict=True)):
            most = capacity + max(row[head] for row in self._more)
            self._heads.append(make(_of_head(kept, head, counts), most, whole))

    @property
    def stored(self) -> list[int]:
        return [n - more[0] for n, more in zip(self._heads[0].stored, self._more, strict=True)]

    @property
    def keys(self) -> Tensor:
        return _side_by_side([head.keys for head in self._heads], 2)

    @property
    def values(self) -> Tensor:
        return _side_by_side([head.values for head in self._heads], 2)

    @property
    def positions(self) -> Tensor:
        return _side_by_side([head.positions for head in self._heads], 2, -1)

    @property
    def newest(self) -> Tensor:
        return self._heads[0].newest

    @property
    def nbytes(self) -> int:
        return sum(head.nbytes for head in self._heads)

    @property
    def channels(self) -> Mapping[str, Tensor]:
        every = [head.channels for head in self._heads]
        return {name: _side_by_side([own[name] for own in every], 2) for name in every[0]}

    def begin(self, plans: Sequence[Plan | None]) -> Hashable:
        moves = []
        for index, head in enumerate(self._heads):
            rows = zip(plans, self._more, self._mean, strict=True)
            moves.append(head.begin([plan and _shifted(plan, more[index], mean) for plan, more, mean in rows]))
        return None if None in moves else tuple(moves)

    def append(self, keys: Tensor, values: Tensor) -> None:
        for head, key, value in self._each(keys, values):
            head.append(key, value)

    def attend(self, query: Tensor, rule: Rule, scored: bool) -> tuple[Tensor, Tensor | None]:
        rules = self._rules(rule)
        found = [head.attend(asked, own, scored) for own, (head, asked) in zip(rules, self._each(query), strict=True)]
        looked = [probabilities for _, probabilities in found if probabilities is not None]
        output = torch.cat([attended for attended, _ in found], 2)
        return output, _side_by_side(looked, 3) if len(looked) == len(found) else None

    def ahead(self, query: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> "AheadByHead | None":
        each = zip(self._rules(rule), self._each(query, keys, values), strict=True)
        found = [head.ahead(*known, own) for own, (head, *known) in each]
        heads = [known for known in found if known is not None]
        return AheadByHead(heads) if len(heads) == len(found) else None

    def look(self, ahead: "AheadByHead", rule: Rule) -> Tensor:
        each = zip(self._rules(rule), self._heads, ahead.heads, strict=True)
        return _side_by_side([head.look(known, own) for own, head, known in each], 3)

    def write(self, channels: Mapping[str, Tensor]) -> None:
        for index, head in enumerate(self._heads):
            head.write({name: _part(marks, index, head) for name, marks in channels.items()})

    def evict(self, scores: Tensor | None) -> None:
        for index, head in enumerate(self._heads):
            head.evict(None if scores is None else _part(scores, index, head))

    def extend(self, kept: Kept, capacity: int, fronts: Sequence[int] | None) -> None:
        added = (kept.positions >= 0).sum(-1).tolist()  # [B][H]
        before = self._more
        self._more = [
            [old + n - mean for old, n in zip(heads, counts, strict=True)]
            for heads, counts, mean in zip(before, added, kept.stored, strict=True)
        ]
        self._mean = [old + mean for old, mean in zip(self._mean, kept.stored, strict=True)]
        for index, (head, counts) in enumerate(zip(self._heads, zip(*added, strict=True), strict=True)):
            own = fronts and [front + more[index] for front, more in zip(fronts, before, strict=True)]
            head.extend(_of_head(kept, index, counts), capacity + max(row[index] for row in self._more), own)

    def replace(self, rows: Sequence[int], other: Self) -> None:
        for own, new in zip(self._heads, other._heads, strict=True):
            own.replace(rows, new)
        for source, row in enumerate(rows):
            self._more[row], self._mean[row] = other._more[source], other._mean[source]

    def select(self, rows: Sequence[int]) -> None:
        for head in self._heads:
            head.select(rows)
        self._more, self._mean = [self._more[row] for row in rows], [self._mean[row] for row in rows]

    def clear(self, rows: Sequence[int]) -> None:
        for head in self._heads:
            head.clear(rows)

    def _rules(self, rule: Rule) -> list[Rule]:
        """The rule of each head."""
        return [rule.of_head(head, len(self._heads)) for head in range(len(self._heads))]

    def _each(self, *states: Tensor) -> Iterator[tuple[Any, ...]]:
        """Each head's storage with its part of these states [B, ., n, D]."""
        return zip(self._heads, *(part.chunk(len(self._heads), 1) for part in states), strict=True)


class AheadByHead:
    """What is known ahead of each head."""

    def __init__(self, heads: Sequence[Known]) -> None:
        self.heads = heads

    def outputs(self) -> Tensor:
        return torch.cat([head.outputs() for head in self.heads], 2)


def _of_head(kept: Kept, head: int, counts: Sequence[int]) -> Kept:
    """What was kept in one head. counts: its tokens in each row."""
    one, slots = slice(head, head + 1), slice(max(counts))
    return replace(
        kept,
        keys=kept.keys[:, one, slots],
        values=kept.values[:, one, slots],
        positions=kept.positions[:, one, slots],
        stored=tuple(counts),
        channels={name: marks[:, one, slots] for name, marks in kept.channels.items()},
    )


def _shifted(plan: Plan, more: int, mean: int) -> Plan:
    """The plan for a head that got `more` slots of the prompt than the mean.

    If the plan protects all that the mean head got, it protects all that this one got. Else this one keeps more of the
    best.
    """
    if plan.head >= mean:
        return replace(plan, head=plan.head + more)
    return replace(plan, best=plan.best + more)


def _part(marks: Tensor, index: int, head: Storage) -> Tensor:
    """[B, H, S] -> [B, 1, .], of one head and the slots that it has."""
    return marks[:, index : index + 1, : head.positions.shape[-1]]


def _side_by_side(parts: Sequence[Tensor], slots: int, fill: float = 0.0) -> Tensor:
    """Tensors of one head each, [B, 1, ...] -> [B, H, ...]. slots: the dimension, which is filled up to the widest."""
    most = max(part.shape[slots] for part in parts)
    before = [0] * (2 * (parts[0].ndim - slots) - 1)  # F.pad counts from the last dimension, two numbers for each
    return torch.cat([F.pad(part, (*before, most - part.shape[slots]), value=fill) for part in parts], 1)
