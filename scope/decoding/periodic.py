"""Eviction every few steps, and by the votes of the last queries: what strategies with a period share."""

from dataclasses import dataclass

from scope.decoding.eviction import Eviction
from scope.util.errors import CombinationError, check_count, check_odd


@dataclass(frozen=True)
class Periodic(Eviction):
    """Every `every` steps cut the region to its size. In between it grows by up to `every` slots.

    every: steps from one eviction to the next, 1 or more. The other parameters are those of `Eviction`.
    """

    protect: str = "nothing"
    every: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "every", low=1)

    @property
    def period(self) -> int:
        return self.every


@dataclass(frozen=True)
class Polled(Periodic):
    """The last `window` queries decide which slots stay. They do not vote on their own slots, which always stay.

    window: queries, 1 .. recent.
    Raises SettingError for an invalid value, CombinationError if the window is more than `recent`.
    """

    window: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "window", low=1)
        if self.window > self.newest:
            raise CombinationError(self, "window", self.window, f"at most the slots that always stay, {self.newest}")

    @property
    def queries(self) -> int:
        return self.window


@dataclass(frozen=True)
class Pooled(Polled):
    """As `Polled`; a slot's votes count for its neighbours too.

    kernel: neighbouring slots that are pooled, an odd number. The other parameters are those of `Polled`.
    Raises SettingError or CombinationError for invalid settings.
    """

    kernel: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_odd(self, "kernel")
