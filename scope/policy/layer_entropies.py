"""How spread a model's attention is in each layer, on average: what `method=entropy` shares the budget by."""

import hashlib
import math
from dataclasses import dataclass
from typing import ClassVar

from scope.util.errors import SettingError


@dataclass(frozen=True)
class LayerEntropies:
    """The mean entropy of the attention in each layer. `scope.calibrate` makes it, once a model.

    nats: one number for each layer, above 0. They are part of the identity of a run.
    Raises SettingError for other values.
    """

    recorded_as: ClassVar[str] = "scope.LayerEntropies"

    nats: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.nats or not all(math.isfinite(value) and value > 0 for value in self.nats):
            raise SettingError(self, "nats", list(self.nats), "a number above 0 for each layer")

    @property
    def sha256(self) -> str:
        """64 hex digits, a hash of the numbers."""
        return hashlib.sha256(repr(self.nats).encode()).hexdigest()
