"""What went wrong, in one line for the person who asked for it."""

import difflib
from collections.abc import Iterable


class ScopeError(Exception):
    """Anything a user can mend; the message is one line and needs no traceback."""


class ConfigError(ScopeError):
    """A setting that cannot be; the message names its key, its value and what is allowed."""


class ImpossibleError(ConfigError):
    """Settings that cannot work together: a sweep skips the job and goes on."""


class SettingError(ScopeError, ValueError):
    """A field of a settings class that cannot have the value it was given.

    `owner` is the object or class whose field it is; the command line replaces `Owner.field` by the configuration key.
    """

    def __init__(self, owner: object, field: str, value: object, allowed: str) -> None:
        self.owner = owner if isinstance(owner, type) else type(owner)
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(self.describe(f"{self.owner.__name__}.{field}"))

    def __reduce__(self) -> tuple[object, ...]:  # so that it survives the way back from another process
        return type(self), (self.owner, self.field, self.value, self.allowed)

    def describe(self, key: str) -> str:
        shown = "null" if self.value is None else self.value
        return f"{key}={shown}: must be {self.allowed}"


class CombinationError(SettingError):
    """Values that are fine one by one and cannot work together"""


def check_count(owner: object, field: str, low: int = 0) -> None:
    """Refuse a field that is not a whole number of at least `low`."""
    value = getattr(owner, field)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise SettingError(owner, field, value, f"a whole number of at least {low}")


def check_odd(owner: object, field: str) -> None:
    """Refuse a field that is not an odd whole number: neighbours that are pooled, as many on either side."""
    check_count(owner, field, low=1)
    value = getattr(owner, field)
    if value % 2 == 0:
        raise SettingError(owner, field, value, "odd, so that pooling keeps the length")


def check_number(owner: object, field: str, low: float) -> None:
    """Refuse a field that is not a finite number of at least `low`."""
    value = getattr(owner, field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < float("inf"):
        raise SettingError(owner, field, value, f"a number of at least {low:g}")


def check_flag(owner: object, field: str) -> None:
    """Refuse a field that is neither True nor False."""
    value = getattr(owner, field)
    if not isinstance(value, bool):
        raise SettingError(owner, field, value, "true or false")


def check_choice(owner: object, field: str, choices: tuple[str, ...]) -> None:
    """Refuse a field that is not one of `choices`."""
    value = getattr(owner, field)
    if value not in choices:
        raise SettingError(owner, field, value, "one of " + ", ".join(choices))


def nearest(name: str, valid: Iterable[str], prefix: str = "") -> str:
    """The valid name that was probably meant, as the end of a message; empty where none is near."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
