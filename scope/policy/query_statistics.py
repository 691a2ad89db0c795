"""What a model's queries are like before their rotation, on average: what TriAttention scores by."""

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from scope.util.errors import SettingError


@dataclass(frozen=True)
class QueryStatistics:
    """Averages of each query head over many tokens. `scope.calibrate` makes them, once a model.

    L layers, Hq query heads, F pairs of coordinates that the rotary embedding turns; see `Rotary` for their order.

    means: [L, Hq, 2F], the mean query before its rotation, of the coordinates that turn.
    magnitudes: [L, Hq, F], the mean length of each pair.
    sha256: 64 hex digits, a hash of both; it stands for them in the identity of a run.
    Raises SettingError for tensors whose shapes do not go together.
    """

    recorded_as: ClassVar[str] = "scope.QueryStatistics"

    means: Tensor = field(repr=False, compare=False)
    magnitudes: Tensor = field(repr=False, compare=False)
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        means, magnitudes = (tensor.detach().float().contiguous().cpu() for tensor in (self.means, self.magnitudes))
        layers, heads, pairs = magnitudes.shape if magnitudes.ndim == 3 else (0, 0, 0)
        if not magnitudes.numel() or means.shape != (layers, heads, 2 * pairs):
            allowed = f"[L, Hq, 2F] beside magnitudes [L, Hq, F], which are {list(magnitudes.shape)}"
            raise SettingError(self, "means", list(means.shape), allowed)
        digest = hashlib.sha256(repr(tuple(magnitudes.shape)).encode())
        for name, tensor in (("means", means), ("magnitudes", magnitudes)):
            digest.update(tensor.numpy().tobytes())
            object.__setattr__(self, name, tensor)
        object.__setattr__(self, "sha256", digest.hexdigest())

    def of(self, layer: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Means [Hq, 2F] and magnitudes [Hq, F] of one layer, on a device."""
        return self.means[layer].to(device), self.magnitudes[layer].to(device)
