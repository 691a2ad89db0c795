"""What a scorer is, and how it is found by its name.

A scorer is one module with a `SCORER`. A scorer of this folder has the name of its module, such as `aligned`. Your own
has the full name of its module, such as `mypackage.first_line`, in a package that the environment variable SCOPE_ALLOW
names. Records and tables use the last part, `first_line`.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from scope.scoring.answer import PRIMARY, Question, Score
from scope.util.errors import ConfigError, nearest, shown
from scope.util.importing import allowed_packages

STANDARD = (PRIMARY, "released")  # the scorers of a run that names no others
_HOME = "scope.scoring"
_NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", re.ASCII)


@dataclass(frozen=True)
class Scorer:
    """A way from a text to answers.

    about: what it counts, in a few words, for the line under a table.
    score: (questions, text, form) -> one `Score` for each question, in their order. form is "number" or "choice".
    The function has no side effects, and its time is linear in the length of the text.
    reads_thinking: whether it gets the thinking part of a text. If not, that part is removed first.
    name: as the setting writes it. `scorers` fills it in.
    """

    about: str
    score: Callable[[Sequence[Question], str, str], Sequence[Score]]
    reads_thinking: bool = False
    name: str = ""


def scorers(names: Iterable[object]) -> dict[str, Scorer]:
    """The scorers with these names, by the name that records use.

    Raises ConfigError if a name is unknown or listed twice, if a package is not installed, or if `PRIMARY` is missing.
    """
    found: dict[str, Scorer] = {}
    for name in names:
        if short_name(name) in found:
            raise ConfigError(f"scoring={shown(name)}: the list already has a scorer {short_name(name)}")
        found[short_name(name)] = _scorer(name)
    if PRIMARY not in found:
        listed = ",".join(found)
        raise ConfigError(
            f"scoring=[{listed}]: must contain {PRIMARY}, the scorer of the accuracies in tables and figures"
        )
    return found


def short_name(name: object) -> str:
    """The name of a scorer in records and tables."""
    return str(name).rpartition(".")[2]


def module_of(name: object) -> str:
    """The module of a scorer, by the scorer's name in the setting."""
    inside = "." not in str(name) and str(name) not in allowed_packages()
    return f"{_HOME}.{name}" if inside else str(name)


def _scorer(name: object) -> Scorer:
    """The scorer with one name, as the setting writes it."""
    text = str(name)
    refused = f"scoring={shown(name)}"
    module = module_of(text)
    inside = module != text  # a scorer of this folder
    if not _NAME.fullmatch(text) or not (inside or text.partition(".")[0] in allowed_packages()):
        raise ConfigError(f"{refused}: must be {_allowed()}{nearest(text, known())}")
    try:
        found = getattr(importlib.import_module(module), "SCORER", None)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            wrong = f"must be {_allowed()}{nearest(text, known())}" if inside else _no_module(error.name)
            raise ConfigError(f"{refused}: {wrong}") from error
        raise ConfigError(f"{refused}: needs the package {error.name}, which is not installed") from error
    except Exception as error:  # importing a module of the user may raise anything
        raise ConfigError(f"{refused}: {' '.join(f'{type(error).__name__}: {error}'.split())}") from error
    if not isinstance(found, Scorer):
        raise ConfigError(f"{refused}: the module {module} has no SCORER; must be {_allowed()}")
    return replace(found, name=text)


def _no_module(name: str) -> str:
    """Says that there is no such module of an allowed package, and which one was probably meant."""
    package, _, last = name.rpartition(".")
    if not package:
        return f"there is no package {name} in the folders where Python looks: PYTHONPATH=FOLDER adds one"
    places = getattr(importlib.import_module(package), "__path__", None)  # was imported on the way to the module
    beside = sorted(module.name for module in pkgutil.iter_modules(places or []))
    there = f"; {package} has {', '.join(beside)}" if beside else f"; {package} has no modules"
    return f"there is no module {name}{nearest(last, beside, f'{package}.') or there}"


def _allowed() -> str:
    return f"one of {', '.join(known())}, or a module of yours, whose package SCOPE_ALLOW=package allows"


def known() -> list[str]:
    """The names of the scorers in this folder. A scorer whose package is not installed is included."""
    modules = [module.name for module in pkgutil.iter_modules(importlib.import_module(_HOME).__path__)]
    return [name for name in modules if name != "__main__" and _is_scorer(name)]


def _is_scorer(name: str) -> bool:
    try:
        return hasattr(importlib.import_module(f"{_HOME}.{name}"), "SCORER")
    except ImportError:
        return True
