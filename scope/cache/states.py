"""The keys, or the values, of all slots of a layer. Here they are kept in the model's own numbers."""

from typing import Protocol, Self

import torch
from torch import Tensor

from scope.policy.attention import scaled_products


class States(Protocol):
    """The keys, or the values, in a layer's slots. B rows, H heads, S slots, D head dim, Q queries of a head."""

    @property
    def capacity(self) -> int: ...  # slots allocated

    @property
    def heads(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def read(self, slots: int) -> Tensor:
        """-> [B, H, S, D]: what the first so many slots hold."""
        ...

    def put(self, at: Tensor, new: Tensor) -> None:
        """Write new [B, H, 1, D] into the slot `at` [B, H, 1] of each row and head."""
        ...

    def put_alike(self, at: int, new: Tensor) -> None:
        """Write new [B, H, n, D] into the n slots from `at` on, the same ones in all rows and heads."""
        ...

    def replace(self, rows: Tensor, other: Self, slots: int) -> None:
        """Copy the first so many slots of `other` into these rows [n]."""
        ...

    def select(self, rows: Tensor) -> None:
        """Go on with these rows [n], which may come several times."""
        ...

    def widen(self, more: int) -> None:
        """Allocate so many slots more."""
        ...

    def rounded(self, new: Tensor) -> Tensor:
        """-> new [B, H, n, D] as it would be read after it was written."""
        ...

    def products(self, queries: Tensor, scaling: float, slots: int) -> Tensor:
        """-> [B, H, Q, S]: the logits of queries [B, H, Q, D] with the keys in the first so many slots."""
        ...

    def mixed(self, weights: Tensor) -> Tensor:
        """-> [B, H, Q, D]: the values in the first S slots, summed with weights [B, H, Q, S]."""
        ...

    def copied(self, slots: int) -> Self:
        """A copy of the first so many slots, which later writes do not change."""
        ...


class Plain:
    """Keys or values in the model's own numbers, [B, H, S, D]."""

    def __init__(self, states: Tensor) -> None:
        self._states = states

    @property
    def capacity(self) -> int:
        return self._states.shape[2]

    @property
    def heads(self) -> int:
        return self._states.shape[1]

    @property
    def nbytes(self) -> int:
        return self._states.nbytes

    def read(self, slots: int) -> Tensor:
        return self._states[:, :, :slots]

    def put(self, at: Tensor, new: Tensor) -> None:
        self._states.scatter_(2, at[..., None].expand_as(new), new)

    def put_alike(self, at: int, new: Tensor) -> None:
        self._states[:, :, at : at + new.shape[2]] = new

    def replace(self, rows: Tensor, other: Self, slots: int) -> None:
        self._states[rows, :, :slots] = other.read(slots)

    def select(self, rows: Tensor) -> None:
        self._states = self._states[rows]

    def widen(self, more: int) -> None:
        self._states = longer(self._states, 2, more, 0)

    def rounded(self, new: Tensor) -> Tensor:
        return new

    def products(self, queries: Tensor, scaling: float, slots: int) -> Tensor:
        return scaled_products(queries, self.read(slots), scaling)

    def mixed(self, weights: Tensor) -> Tensor:
        return weights.to(self._states.dtype) @ self.read(weights.shape[-1])

    def copied(self, slots: int) -> Self:
        return type(self)(self.read(slots).clone())


def longer(states: Tensor, dim: int, more: int, fill: float) -> Tensor:
    """A copy with `more` entries added along `dim`, each set to `fill`."""
    shape = list(states.shape)
    shape[dim] = more
    return torch.cat([states, states.new_full(shape, fill)], dim)
