"""The precisions in which a cache stores keys and values, and the bytes that they take."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

from scope.util.errors import ScopeError

MARK_BYTES = 2  # of a scale or an offset: float16


@dataclass(frozen=True)
class Rounding:
    """A key or value of D numbers as whole numbers of `bits` bits. Those of a group share a scale and an offset.

    most: numbers in a group, at the most; None: all D are a group. A group is the largest divisor of `most` that also
    divides D.
    """

    bits: int
    most: int | None = None

    @property
    def levels(self) -> int:
        """The largest whole number."""
        return (1 << self.bits) - 1

    def group(self, dim: int) -> int:
        """Numbers that share a scale and an offset. Raises ScopeError for a D whose numbers do not fill whole bytes."""
        if dim * self.bits % 8:
            raise ScopeError(
                f"precision: in {self.bits} bits two numbers share a byte, so the head dim must be even; it is {dim}"
            )
        return dim if self.most is None else gcd(dim, self.most)

    def bytes(self, dim: int) -> int:
        """Of a key or value of D numbers, with its scales and offsets."""
        return dim * self.bits // 8 + dim // self.group(dim) * 2 * MARK_BYTES


class Roundings(NamedTuple):
    """How keys and values are rounded; None: they stay the model's own numbers."""

    keys: Rounding | None
    values: Rounding | None


INT8, INT4 = Rounding(8), Rounding(4, most=32)
ROUNDINGS: Mapping[str, Roundings] = {
    "float": Roundings(None, None),
    "int8": Roundings(INT8, INT8),
    "k8v4": Roundings(INT8, INT4),
    "int4": Roundings(INT4, INT4),
}
PRECISIONS = tuple(ROUNDINGS)


def pair_bytes(precision: str, dims: tuple[int, int], itemsize: int) -> int:
    """Bytes of a key and its value in one head.

    dims: how many numbers each has. itemsize: bytes of one of the model's own numbers. Raises ScopeError as
    `Rounding.group` does.
    """
    pairs = zip(ROUNDINGS[precision], dims, strict=True)
    return sum(dim * itemsize if rounding is None else rounding.bytes(dim) for rounding, dim in pairs)
