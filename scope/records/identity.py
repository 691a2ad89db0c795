"""What was asked, as plain data, and a hash of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def describe(settings: object, limits: bool = True) -> dict[str, Any]:
    """A settings object as plain data: its type and fields; without `limits`, only what can change an answer."""
    if not is_dataclass(settings):
        raise TypeError(f"{type(settings).__name__} is not a dataclass: its settings cannot be recorded")
    kind = type(settings)
    described: dict[str, Any] = {"type": f"{kind.__module__}.{kind.__qualname__}"}
    for f in fields(settings):
        if limits or not f.metadata.get("limit"):
            value = getattr(settings, f.name)
            described[f.name] = describe(value, limits) if is_dataclass(value) else value
    return described


def identity(parts: Mapping[str, Any]) -> str:
    """SHA-256 of plain data in a canonical form."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
