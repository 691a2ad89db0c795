"""The code that decides what a run answers: a hash of each source file, without what changes no answer.

The identity of a run holds the names and settings of its classes, not their code. So a class that was edited would be
taken for the one that was recorded. These hashes tell them apart.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

from scope.util.importing import allowed_packages

ANSWERING = ("policy", "prefill", "decoding", "tasks")  # rooms of scope: what is asked, and what is kept
SCORING = ("scoring",)
DIGITS = 16


def code_of(parts: Iterable[object]) -> dict[str, str]:
    """Source file -> hash of its code, for the classes of `parts` and all that they are made of.

    parts: settings objects. Counted are the modules of the classes, of the classes that they extend and of the settings
    within them, and the modules that these import: of `scope` those of the rooms `ANSWERING`, and those of the user's
    own packages. Comments, docstrings and layout do not count. A module without a source file is left out.
    """
    return _code([kind.__module__ for part in parts for kind in _kinds(part)], ANSWERING)


def scorer_code(module: str) -> str:
    """A hash of the code of a scorer's module, and of what it imports of `scope.scoring` or of the user's packages."""
    return hashlib.sha256(json.dumps(_code([module], SCORING)).encode()).hexdigest()[:DIGITS]


def _code(waiting: list[str], rooms: Sequence[str]) -> dict[str, str]:
    """Source file -> hash of its code, for these modules and those that they import. rooms: of scope, which count."""
    own = (allowed_packages() | {name.partition(".")[0] for name in waiting}) - sys.stdlib_module_names | {"__main__"}
    found: dict[str, str] = {}
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or not _is_counted(name, own, rooms):
            continue
        seen.add(name)
        if (path := _source(name)) is None:
            continue
        stat = path.stat()
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        read = _read(path, package, stat.st_mtime_ns, stat.st_size)
        if read is not None:
            found[_file(name, path)] = read[0]
            waiting += read[1]
    return dict(sorted(found.items()))


def changed_code(before: Mapping[str, str] | None, now: Mapping[str, str]) -> list[str]:
    """The files whose code is not what it was. before: None in a manifest of an older version, which tells nothing."""
    if before is None:
        return []
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def listed(files: Sequence[str], most: int = 3) -> str:
    """Files in words, for a message."""
    return ", ".join(files[:most]) + (f" and {len(files) - most} more" if len(files) > most else "")


def _kinds(part: object) -> Iterator[type]:
    """The class of a settings object, those that it extends, and those of the settings within it."""
    own = type(part).__module__.partition(".")[0]
    yield from (k for k in type(part).__mro__ if k.__module__.partition(".")[0] in {own, *allowed_packages()})
    if is_dataclass(part):
        for f in fields(part):
            if is_dataclass(value := getattr(part, f.name)):
                yield from _kinds(value)


def _is_counted(name: str, own: Iterable[str], rooms: Sequence[str]) -> bool:
    """own: the packages that are followed. rooms: those of scope that count.

    The `__init__` files of scope only name what other files hold.
    """
    top, _, rest = name.partition(".")
    if top == "scope":
        room, _, module = rest.partition(".")
        return room in rooms and bool(module)
    return top in own


def _source(name: str) -> Path | None:
    """The source file of a module; None where there is none."""
    module = sys.modules.get(name)
    origin = getattr(module, "__file__", None)
    if module is None:
        try:
            spec = find_spec(name)
        except Exception:  # importing a package of the user may raise anything
            return None
        origin = spec.origin if spec and spec.has_location else None
    path = Path(origin) if origin else None
    return path if path and path.suffix == ".py" and path.is_file() else None


def _file(name: str, path: Path) -> str:
    """A source file as records and messages name it: from its package on, alike on every machine."""
    return name.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")


@cache
def _read(path: Path, package: str, changed: int, size: int) -> tuple[str, tuple[str, ...]] | None:
    """-> the hash of a file's code, and the modules that it may import. changed, size: so that an edit is noticed."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    form = json.dumps(_form(tree), separators=(",", ":"))
    return hashlib.sha256(form.encode()).hexdigest()[:DIGITS], tuple(dict.fromkeys(_imported(tree, package)))


def _form(node: object) -> object:
    """A syntax tree as lists, without docstrings and empty fields. Unlike `ast.dump`, it is alike in all Pythons."""
    if isinstance(node, ast.AST):
        held = {name: value for name, value in ast.iter_fields(node) if value is not None and value != []}
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            held["body"] = node.body[1:]
        return [type(node).__name__, *([name, _form(value)] for name, value in held.items())]
    return [_form(item) for item in node] if isinstance(node, list) else repr(node)


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """The modules that a file imports, and the names that it takes from them, which may be modules too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                base = resolve_name("." * node.level + (node.module or ""), package or None)
            except ImportError:
                continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
