"""Makes settings objects of a configuration's plain data, and checks the type of each value."""

import importlib
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import ModuleType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from scope.util.errors import ConfigError, ScopeError, SettingError, nearest, shown
from scope.util.importing import allowed_packages

# Former modules of settings classes, as the configurations of recorded runs name them.
EARLIER = ("scope.engine", "scope.generate", "scope.models", "scope.tracking", "scope.traces")
ALLOWED = "a settings class of scope; set SCOPE_ALLOW=package for one of yours"


def instance(node: Any, key: str, wanted: type = object) -> Any:
    """Plain data, with each mapping that has a `_target_` turned into an object of that class.

    node: the data. key: its name in the configuration, for messages. wanted: the class that the object must have.
    A configuration may come from anyone, so only settings classes of allowed packages are called.
    Raises SettingError for a field of the node itself, ConfigError for a field of a node within it.
    """
    if isinstance(node, list):
        return [instance(item, f"{key}.{i}") for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    settings = {name: instance(value, f"{key}.{name}") for name, value in node.items() if name != "_target_"}
    if "_target_" not in node:
        return settings
    target = str(node["_target_"])
    kind = settings_class(target)
    if kind is None:
        raise ConfigError(f"{key}._target_={shown(target)}: {_fault_of_target(target)}")
    if not _is_a(kind, wanted):
        raise ConfigError(f"{key}._target_={target}: is no {wanted.__name__}; --help lists the options of {key}")
    known = {f.name: f for f in fields(kind) if f.init}
    if unknown := settings.keys() - known:
        name, named = min(map(str, unknown)), ", ".join(known) or "none"
        meant = nearest(name, known, f"{key}.") or f"; it has {named}"
        raise ConfigError(f"{key}.{name}: no such setting of {target}{meant}")
    for name, f in known.items():
        if name not in settings and f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"{key}.{name}: must be given")
    try:
        return _made(kind, settings)
    except SettingError as error:
        if "." not in key:
            raise
        raise ConfigError(error.describe(f"{key}.{error.field}")) from error


def _fault_of_target(target: str) -> str:
    """Why a target names no settings class, with the nearest module or class of the same package."""
    module, _, name = target.rpartition(".")
    if target.partition(".")[0] not in allowed_packages() or not module:
        return f"must be {ALLOWED}"
    above = ""
    for part in module.split("."):
        here = f"{above}.{part}".lstrip(".")
        try:
            found = importlib.import_module(here)
        except ModuleNotFoundError as error:
            if error.name != here:
                return f"its module {here} needs {error.name}, which is not installed"
            if not above:
                return f"there is no module {here}: PYTHONPATH must name the folder that it lies in"
            beside = [m.name for m in pkgutil.iter_modules(getattr(sys.modules[above], "__path__", []))]
            return f"there is no module {here}{nearest(part, beside, f'{above}.')}"
        except ImportError as error:
            return f"its module {here} cannot be imported: {error}"
        above = here
    if not hasattr(found, name):
        return f"there is no class {name} in {module}{nearest(name, _settings_classes(found), f'{module}.')}"
    return "must be a settings class, which is a dataclass"


def _settings_classes(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, type) and is_dataclass(value)]


def _made(kind: type[Any], settings: Mapping[str, Any]) -> Any:
    """Make the object, then check each value's type. The class's own errors come first, since they say more."""
    failure: Exception | None = None
    made = None
    try:
        made = kind(**settings)
    except ScopeError:
        raise
    except Exception as error:  # of a value that the class did not expect: which one, is said below
        failure = error
    for name, hint in _hints(kind).items():
        if name in settings and not _fits(settings[name], hint):
            raise SettingError(kind, name, settings[name], _words(hint)) from failure
    if failure:
        raise failure
    return made


def _hints(kind: type[Any]) -> dict[str, Any]:
    try:
        return get_type_hints(kind)
    except NameError:  # a class of the user's own, with names that only a type checker knows
        return {}


def _is_a(kind: type[Any], wanted: type) -> bool:
    """Whether objects of a settings class are of that class, or have all that its protocol asks for."""
    if not getattr(wanted, "_is_protocol", False):
        return issubclass(kind, wanted)
    has = {f.name for f in fields(kind)}
    return all(name.startswith("_") or name in has or hasattr(kind, name) for name in vars(wanted))


def _fits(value: object, hint: Any) -> bool:
    """Whether a value has a field's type. Types that no configuration can hold are not checked."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if hint is Any:
        return True
    if hint in (int, float):  # true and false are numbers to Python only
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    if isinstance(hint, type) and origin is None:
        return isinstance(value, hint)
    if not isinstance(origin, type):
        return True
    if issubclass(origin, Mapping):
        pairs = value.items() if isinstance(value, Mapping) else ()
        return isinstance(value, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in pairs)
    if issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and all(_fits(item, inner[0]) for item in value)
    return True


def _words(hint: Any) -> str:
    """A field's type, for a message."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_words(one) for one in inner)
    if isinstance(origin, type):
        return "a mapping" if issubclass(origin, Mapping) else f"a list, each {_words(inner[0])}"
    known = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    return known.get(hint, f"a {hint.__name__}")


def settings_class(target: str) -> type[Any] | None:
    """The dataclass of that name, in scope or in a package that SCOPE_ALLOW names; None for anything else."""
    packages = allowed_packages()
    module, _, name = target.rpartition(".")
    module = "scope" if module in EARLIER else module
    if target.partition(".")[0] not in packages:
        return None
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None  # the whole of it has to be a module: not scope.records.folder.os.system
    ours = isinstance(found, type) and is_dataclass(found) and found.__module__.partition(".")[0] in packages
    return found if ours else None
