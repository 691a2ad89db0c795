"""Settings as plain data, and their hash."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

ANY_MODEL = "hf"  # the option whose path names the model


def describe(settings: object, limits: bool = True) -> dict[str, Any]:
    """A settings object as plain data: its type and fields. limits: whether to include fields that change no answer.

    A field with `metadata={"later": True}` came after its class had been recorded. It is left out while it has its
    default value, so that runs from before keep their identity.
    A field that the object's own repr leaves out, such as a tensor for which a hash stands, is left out.
    """
    if not is_dataclass(settings):
        raise TypeError(f"{type(settings).__name__} is not a dataclass: its settings cannot be recorded")
    described: dict[str, Any] = {"type": name_of(type(settings))}
    for f in fields(settings):
        value = getattr(settings, f.name)
        as_before = f.metadata.get("later") and value == f.default
        if f.repr and (limits or not f.metadata.get("limit")) and not as_before:
            described[f.name] = describe(value, limits) if is_dataclass(value) else value
    return described


def name_of(kind: type[Any]) -> str:
    """The name by which a settings class is recorded: its own `recorded_as`, else its module's and its own.

    A class that moves to another file keeps the name that it has in recorded runs: it is given as
    `recorded_as: ClassVar[str]`. A subclass is another class, and takes no such name from the class that it extends.
    """
    return str(vars(kind).get("recorded_as", f"{kind.__module__}.{kind.__qualname__}"))


def model_name(labels: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """The model's name for people: its label, or for model=hf the last part of its path. settings: the model's own."""
    label, path = labels.get("model", ""), settings.get("path")
    return (PurePath(path).name or label) if label == ANY_MODEL and isinstance(path, str) else label


def identity(parts: Mapping[str, Any]) -> str:
    """SHA-256 of plain data in a canonical form."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
