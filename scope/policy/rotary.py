"""Rotary position embeddings: how a layer turns queries and keys by their positions (Su et al. 2021, 2104.09864)."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rotary:
    """The rotary embedding of one layer.

    Coordinates f and f + F of a head, f < F, are a pair, which turns by `frequencies[f]` at each position. Coordinates
    from 2F on, which some models have, stay. Queries and keys that differ by a constant factor of the model, as with
    YaRN, keep it.

    frequencies: [F] float, in radians a position.
    """

    frequencies: Tensor

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return replace(self, frequencies=self.frequencies.to(device))

    @property
    def width(self) -> int:
        """2F: how many coordinates turn."""
        return 2 * len(self.frequencies)

    def turned(self, states: Tensor, steps: Tensor, offsets: Tensor | None = None) -> Tensor:
        """States turned on by `steps` positions; with offsets [n], the mean over `steps` plus each of them.

        states [..., D]. steps [...], or what broadcasts to it. -> [..., D] float32. What lies at position p is turned
        by -p into what it was before the embedding.
        """
        cosine, sine = _unit(steps[..., None], self.frequencies)
        if offsets is not None:
            cosines, sines = _unit(offsets[:, None], self.frequencies)
            mean = cosines.mean(0), sines.mean(0)
            cosine, sine = cosine * mean[0] - sine * mean[1], sine * mean[0] + cosine * mean[1]
        cosine, sine = cosine.float(), sine.float()
        first, second, rest = self._parts(states)
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine, rest], -1)

    def lengths(self, states: Tensor) -> Tensor:
        """states [..., D] -> [..., F] float32: the length of each pair. No rotation changes it."""
        first, second, _ = self._parts(states)
        return torch.hypot(first, second)

    def _parts(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The first and the second coordinate of each pair, and the coordinates that stay."""
        half, states = len(self.frequencies), states.float()
        return states[..., :half], states[..., half : 2 * half], states[..., 2 * half :]


def _unit(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles, in float64: at a far position an angle has many whole turns."""
    angles = positions.double() * frequencies.double()
    return angles.cos(), angles.sin()
