"""What a scorer is, and how it is found by its name.

A scorer is one module that holds `SCORER`. Those of this folder go by their module's name: `aligned`. One of your own
goes by its full name, `mypackage.first_line`, in a package that the environment variable SCOPE_ALLOW names. Records and
tables call it by the last part, `first_line`.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scope.scoring.answer import PRIMARY, Question, Score
from scope.util.errors import ConfigError, nearest, shown
from scope.util.importing import allowed_packages

STANDARD = (PRIMARY, "released")  # the scorers of a run that asks for no others
_HOME = "scope.scoring"
_NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", re.ASCII)


@dataclass(frozen=True)
class Scorer:
    """A way from a text to answers.

    about: what it counts, in a few words, for the line under a table.
    score: (questions, text, form of an answer) -> one `Score` for each question, in their order. It changes nothing,
    and takes time linear in the length of the text.
    reads_thinking: whether it is given all of a text; if not, what a model thinks aloud is removed first.
    """

    about: str
    score: Callable[[Sequence[Question], str, str], Sequence[Score]]
    reads_thinking: bool = False


def scorers(names: Iterable[object]) -> dict[str, Scorer]:
    """The scorers of these names, by the name that records have.

    Raises ConfigError for a name that is none, one that is there twice, a package that is not installed, and a list
    without `PRIMARY`.
    """
    found: dict[str, Scorer] = {}
    for name in names:
        if short_name(name) in found:
            raise ConfigError(f"scoring={shown(name)}: the list has a scorer {short_name(name)} before it")
        found[short_name(name)] = _scorer(name)
    if PRIMARY not in found:
        listed = ",".join(found)
        raise ConfigError(f"scoring=[{listed}]: must hold {PRIMARY}, by which tables and figures have the accuracy")
    return found


def short_name(name: object) -> str:
    """What records and tables call a scorer."""
    return str(name).rpartition(".")[2]


def _scorer(name: object) -> Scorer:
    """The scorer of one name, as the setting has it."""
    text = str(name)
    refused = f"scoring={shown(name)}"
    inside = "." not in text and text not in allowed_packages()
    module = f"{_HOME}.{text}" if inside else text
    if not _NAME.fullmatch(text) or not (inside or text.partition(".")[0] in allowed_packages()):
        raise ConfigError(f"{refused}: must be {_allowed()}{nearest(text, known())}")
    try:
        found = getattr(importlib.import_module(module), "SCORER", None)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigError(f"{refused}: must be {_allowed()}{nearest(text, known())}") from error
        raise ConfigError(f"{refused}: needs the package {error.name}, which is not installed") from error
    except Exception as error:  # what a module of the user's own makes of being imported
        raise ConfigError(f"{refused}: {' '.join(f'{type(error).__name__}: {error}'.split())}") from error
    if not isinstance(found, Scorer):
        raise ConfigError(f"{refused}: the module {module} has no SCORER; must be {_allowed()}")
    return found


def _allowed() -> str:
    return f"one of {', '.join(known())}, or a module of yours, whose package SCOPE_ALLOW=package allows"


def known() -> list[str]:
    """The names of the scorers in this folder, those whose package is not installed included."""
    modules = [module.name for module in pkgutil.iter_modules(importlib.import_module(_HOME).__path__)]
    return [name for name in modules if name != "__main__" and _is_scorer(name)]


def _is_scorer(name: str) -> bool:
    try:
        return hasattr(importlib.import_module(f"{_HOME}.{name}"), "SCORER")
    except ImportError:
        return True
