"""Makes foreign text safe to print: characters that move the cursor, hide or reverse text become escapes."""

import unicodedata
from typing import Any

_ACT = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode categories of control, format and separator characters


def visible(text: str, keep: str = "") -> str:
    """The text with control characters as escapes, such as `\\x1b` and `\\u202e`.

    keep: characters to leave, such as line breaks.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or unicodedata.category(c) not in _ACT else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def all_visible(value: Any) -> Any:
    """`visible` applied to every string of plain data, keys too."""
    if isinstance(value, dict):
        return {all_visible(key): all_visible(item) for key, item in value.items()}
    if isinstance(value, list):
        return [all_visible(item) for item in value]
    return visible(value) if isinstance(value, str) else value
