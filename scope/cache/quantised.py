"""The keys, or the values, of all slots of a layer in small whole numbers. Each is quantised when it is written.

A group of a slot's numbers shares a scale and an offset, both in float16: a number is offset + scale * code. The offset
is the smallest number of the group, and the largest has the highest code (asymmetric quantisation, as KIVI's values,
arXiv 2402.02750). Codes are computed for the scale and offset as they are stored, so that an error is at most half a
scale, beside what the rounding of scale and offset adds.

Attention reads a block of slots at a time. The whole layer exists in the model's own numbers only while a score looks
at it (`read`).
"""

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from scope.cache.precision import Rounding
from scope.cache.states import Plain, States, longer
from scope.policy.attention import scaled_products

BLOCK_BYTES = 2**21  # of slots in float32 that are read together


class Quantised:
    """Keys or values [B, H, S, D] as codes [B, H, S, bytes] uint8 and marks [B, H, S, 2, groups] float16.

    The marks are scales and offsets.
    """

    def __init__(self, codes: Tensor, marks: Tensor, rounding: Rounding, dtype: torch.dtype) -> None:
        """dtype: of what is read."""
        self._codes, self._marks, self._rounding, self._dtype = codes, marks, rounding, dtype

    @classmethod
    def empty(cls, like: Tensor, capacity: int, rounding: Rounding) -> Self:
        """So many empty slots for states [B, H, n, D] as these. Raises ScopeError as `Rounding.group` does."""
        batch, heads, _, dim = like.shape
        groups = dim // rounding.group(dim)
        codes = like.new_zeros(batch, heads, capacity, dim * rounding.bits // 8, dtype=torch.uint8)
        marks = like.new_zeros(batch, heads, capacity, 2, groups, dtype=torch.float16)
        return cls(codes, marks, rounding, like.dtype)

    @property
    def capacity(self) -> int:
        return self._codes.shape[2]

    @property
    def heads(self) -> int:
        return self._codes.shape[1]

    @property
    def nbytes(self) -> int:
        return self._codes.nbytes + self._marks.nbytes

    def read(self, slots: int) -> Tensor:
        return self._decoded(self._codes[:, :, :slots], self._marks[:, :, :slots])

    def put(self, at: Tensor, new: Tensor) -> None:
        codes, marks = self._encoded(new)
        self._codes.scatter_(2, at[..., None].expand_as(codes), codes)
        self._marks.scatter_(2, at[..., None, None].expand_as(marks), marks)

    def put_alike(self, at: int, new: Tensor) -> None:
        there = slice(at, at + new.shape[2])
        self._codes[:, :, there], self._marks[:, :, there] = self._encoded(new)

    def replace(self, rows: Tensor, other: Self, slots: int) -> None:
        self._codes[rows, :, :slots] = other._codes[:, :, :slots]
        self._marks[rows, :, :slots] = other._marks[:, :, :slots]

    def select(self, rows: Tensor) -> None:
        self._codes, self._marks = self._codes[rows], self._marks[rows]

    def widen(self, more: int) -> None:
        self._codes, self._marks = longer(self._codes, 2, more, 0), longer(self._marks, 2, more, 0)

    def rounded(self, new: Tensor) -> Tensor:
        return self._decoded(*self._encoded(new))

    def products(self, queries: Tensor, scaling: float, slots: int) -> Tensor:
        parts = [scaled_products(queries, keys, scaling) for _, keys in self._blocks(slots)]
        return torch.cat(parts, -1)

    def mixed(self, weights: Tensor) -> Tensor:
        parts = [weights[..., some].to(self._dtype) @ values for some, values in self._blocks(weights.shape[-1])]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def copied(self, slots: int) -> Self:
        codes, marks = self._codes[:, :, :slots].clone(), self._marks[:, :, :slots].clone()
        return type(self)(codes, marks, self._rounding, self._dtype)

    def _blocks(self, slots: int) -> Iterator[tuple[slice, Tensor]]:
        """The first so many slots, a block at a time: which they are, and what they hold, [B, H, n, D]."""
        batch, heads, _, width = self._codes.shape
        together = max(1, BLOCK_BYTES // (4 * batch * heads * width * 8 // self._rounding.bits))
        for start in range(0, slots, together):
            some = slice(start, min(start + together, slots))
            yield some, self._decoded(self._codes[:, :, some], self._marks[:, :, some])

    def _encoded(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """states [B, H, n, D] -> codes [B, H, n, bytes] and marks [B, H, n, 2, groups]."""
        numbers = states.float().view(*states.shape[:3], self._marks.shape[-1], -1)
        low, high = numbers.aminmax(dim=-1)
        offset = low.half()
        scale = ((high - offset) / self._rounding.levels).half()
        unit = torch.where(scale > 0, scale, 1)[..., None]  # a scale of 0: the numbers are equal, and any code does
        codes = ((numbers - offset[..., None]) / unit).round_().clamp_(0, self._rounding.levels)
        whole = codes.to(torch.uint8).flatten(-2)
        if self._rounding.bits == 4:
            first, second = whole.chunk(2, -1)
            whole = first | second << 4
        return whole, torch.stack([scale, offset], -2)

    def _decoded(self, codes: Tensor, marks: Tensor) -> Tensor:
        """codes [B, H, n, bytes] and marks [B, H, n, 2, groups] -> [B, H, n, D]."""
        if self._rounding.bits == 4:
            codes = torch.cat([codes & 15, codes >> 4], -1)
        scale, offset = marks.float().unbind(-2)
        numbers = codes.float().view(*codes.shape[:3], marks.shape[-1], -1)
        states: Tensor = numbers.mul_(scale[..., None]).add_(offset[..., None]).flatten(-2)
        return states.to(self._dtype)


def states_of(first: Tensor, capacity: int, rounding: Rounding | None) -> States:
    """Keys or values in so many slots, of which the first ones hold `first` [B, H, n, D], the others 0.

    rounding: how they are stored; None: in the model's own numbers. Raises ScopeError as `Rounding.group` does.
    """
    batch, heads, _, dim = first.shape
    made: States
    if rounding is None:
        made = Plain(first.new_zeros(batch, heads, capacity, dim))
    else:
        made = Quantised.empty(first, capacity, rounding)
    made.put_alike(0, first)
    return made
