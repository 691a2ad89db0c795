"""Unsafe switches, which only the user may turn on: on the command line, or by an environment variable.

A configuration file may come from anyone, so a file cannot turn them on. What was typed is stored in the environment,
which the processes of every launcher inherit.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scope.util.errors import ConfigError


@dataclass(frozen=True)
class Switch:
    """A setting that makes something unsafe possible; `unsafe` is the value that does."""

    variable: str
    unsafe: bool
    does: str


SWITCHES = {
    "trust_remote_code": Switch("SCOPE_TRUST_REMOTE_CODE", True, "runs code that comes with the model"),
    "safetensors_only": Switch("SCOPE_ALLOW_PICKLES", False, "loads weights that can run code"),
}


@contextmanager
def permitted(words: Sequence[str]) -> Iterator[None]:
    """A context in which the switches that these words turn on are permitted, also in processes started within."""
    before = {switch.variable: os.environ.get(switch.variable) for switch in SWITCHES.values()}
    for name, switch in SWITCHES.items():
        if any(_switches_on(word, name, switch) for word in words):
            os.environ[switch.variable] = "1"
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value


def _switches_on(word: str, name: str, switch: Switch) -> bool:
    """Whether a word is `...name=value` with the unsafe value, alone or as one of several."""
    key, _, values = word.partition("=")
    unsafe = str(switch.unsafe).lower()
    return key.rpartition(".")[2] == name and unsafe in (value.strip(" '\"").lower() for value in values.split(","))


def require_permission(key: str, name: str, value: object, files: Iterable[Path] = ()) -> None:
    """Refuse the unsafe value of a switch that only a configuration file has asked for.

    key: its full name in the configuration; files: those that may have set it. Raises ConfigError.
    """
    switch = SWITCHES.get(name)
    if switch is None or value is not switch.unsafe or os.environ.get(switch.variable) == "1":
        return
    setting = f"{key}={str(value).lower()}"
    place = ", ".join(str(file) for file in files if _mentions(file, name)) or "a configuration file"
    raise ConfigError(
        f"{setting}: {switch.does}, and {place} asks for it; if you trust the model, type {setting} "
        f"or set {switch.variable}=1"
    )


def _mentions(file: Path, name: str) -> bool:
    """Whether the file gives the switch a value other than the safe one."""
    safe = str(not SWITCHES[name].unsafe).lower()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return False
    return any(found.lower() != safe for found in re.findall(rf"{name}['\"]?\s*[:=]\s*(\S+)", text))
