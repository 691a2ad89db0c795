"""discontinuous: adaptive, but evicting only now and then (SCOPE, section 4.2)."""

from dataclasses import dataclass

from scope.decoding.adaptive import Adaptive


@dataclass(frozen=True, kw_only=True)
class Discontinuous(Adaptive):
    """Adaptive's size, restored every `delta` steps only; in between the region grows by up to delta slots."""

    @property
    def period(self) -> int:
        return self.delta
