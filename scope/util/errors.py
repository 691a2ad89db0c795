"""Errors whose message is one clear line for the user, and checks of settings that raise them."""

import difflib
import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from scope.util.secrets import redact
from scope.util.visible import visible

MOST = 2**63 - 1  # a whole number as torch and the file formats hold it
LONGEST_VALUE, LONGEST_WORD, LONGEST_LINE = 160, 500, 4000  # characters of a message; paths may be long


class ScopeError(Exception):
    """Anything that a user can fix. The message is one line; no traceback is needed."""


class ConfigError(ScopeError):
    """A setting with a wrong value. The message names the key, the value and what is allowed."""


class ImpossibleError(ConfigError):
    """Settings that cannot work together. A sweep skips such a job and continues."""


class BugError(Exception):
    """A bug of this project. No setting is to blame, and a traceback helps."""


class SettingError(ScopeError, ValueError):
    """A field of a settings class with a wrong value.

    `owner` is the object or class whose field it is; the command line replaces `Owner.field` by the configuration key.
    """

    def __init__(self, owner: object, field: str, value: object, allowed: str) -> None:
        self.owner = owner if isinstance(owner, type) else type(owner)
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(self.describe(f"{self.owner.__name__}.{field}"))

    def __reduce__(self) -> tuple[object, ...]:  # so that it can be sent from another process
        return type(self), (self.owner, self.field, self.value, self.allowed)

    def describe(self, key: str) -> str:
        return f"{key}={shown(self.value)}: must be {self.allowed}"


class CombinationError(SettingError):
    """Values that are fine one by one but cannot work together."""


def without_score(policy: object) -> ScopeError:
    """The error of a policy that is asked for a score and has none, with the name that may be misspelt."""
    kind = type(policy)
    meant = difflib.get_close_matches("score", [name for base in kind.__mro__ for name in vars(base)], n=2, cutoff=0.6)
    hint = "".join(f"; is its {name} meant?" for name in meant if name != "score")
    return ScopeError(f"{kind.__name__}: keeps the slots of the best score, and has no `score` of its own{hint}")


@contextmanager
def before_it_runs() -> Iterator[None]:
    """A context for the steps before anything runs: a ScopeError or OSError within comes out as a ConfigError.

    So the command ends with the exit code of a refused request.
    """
    try:
        yield
    except ConfigError:
        raise
    except ScopeError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(of_the_machine(error)) from error


def of_the_machine(error: OSError) -> str:
    """The message of an error of the operating system: the path, if there is one, and the reason."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def shown(value: object) -> str:
    """A value as a message shows it: as on the command line, in one line, shortened, without secrets."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        text = str(value)
    except (ValueError, RecursionError):  # Python prints no number of more than 4,300 digits, and no endless nesting
        return f"(a value of type {type(value).__name__}, too long to print)"
    return one_line(shortened(str(redact(text)), LONGEST_VALUE))


def one_line(text: str) -> str:
    """A message for a terminal: one line, control characters escaped, long words and lines shortened."""
    words = [shortened(word, LONGEST_WORD) for word in text.split()]
    line = shortened(" ".join(words), LONGEST_LINE)
    return visible(line)


def print_anything() -> None:
    """Make stdout escape characters that it cannot encode; a path may hold any byte."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...({len(text):,} characters)"


def check_count(owner: object, field: str, low: int = 0, high: int = MOST) -> None:
    """Refuse a field that is not a whole number from `low` to `high`."""
    value = getattr(owner, field)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise SettingError(owner, field, value, f"a whole number of at least {low}")
    if value > high:
        raise SettingError(owner, field, value, f"a whole number of at most {high}")


def check_count_or_share(owner: object, field: str, low: int, whole: str) -> None:
    """Refuse a field that is neither a number of slots of at least `low`, an int, nor a share of `whole`, a float."""
    value = getattr(owner, field)
    share = isinstance(value, float) and 0 < value < 1
    count = isinstance(value, int) and not isinstance(value, bool) and low <= value <= MOST
    if not share and not count:
        allowed = f"a number of slots ({low} or more), or a share of {whole} (above 0, below 1)"
        raise SettingError(owner, field, value, allowed)


def check_odd(owner: object, field: str) -> None:
    """Refuse a field that is not an odd whole number, such as a width of pooling."""
    check_count(owner, field, low=1)
    value = getattr(owner, field)
    if value % 2 == 0:
        raise SettingError(owner, field, value, "odd, so that pooling keeps the length")


def check_number(owner: object, field: str, low: float) -> None:
    """Refuse a field that is not a finite number of at least `low`."""
    value = getattr(owner, field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= sys.float_info.max:
        raise SettingError(owner, field, value, f"a number of at least {low:g}")


def check_weights(owner: object, field: str, other: str) -> None:
    """Refuse two weights of which one is not a number of at least 0, or both are 0."""
    check_number(owner, other, low=0)
    check_number(owner, field, low=0)
    if not getattr(owner, field) and not getattr(owner, other):
        raise CombinationError(owner, field, getattr(owner, field), f"above 0 where `{other}` is 0")


def check_part(owner: object, field: str) -> None:
    """Refuse a field that is not a number in 0..1."""
    check_number(owner, field, low=0)
    value = getattr(owner, field)
    if value > 1:
        raise SettingError(owner, field, value, "a number between 0 and 1")


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


def counted(count: int, noun: str) -> str:
    """`1 run`, `2 runs`, `0 runs`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def nearest(name: str, valid: Iterable[str], prefix: str = "") -> str:
    """The end of a message that suggests the nearest valid name; empty if none is near."""
    close = difflib.get_close_matches(name[:LONGEST_VALUE], list(valid), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
