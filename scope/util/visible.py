"""Text from elsewhere, made safe to print: characters that move the cursor, hide or turn text around become escapes."""

import unicodedata
from typing import Any

_ACT = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode's categories of characters that do something instead of being seen


def visible(text: str, keep: str = "") -> str:
    """`\\x1b` for the character that begins a terminal's commands, `\\u202e` for one that turns text around.

    keep: characters to leave, such as line breaks.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or unicodedata.category(c) not in _ACT else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def all_visible(value: Any) -> Any:
    """The same for every string of plain data, the names of settings too."""
    if isinstance(value, dict):
        return {all_visible(key): all_visible(item) for key, item in value.items()}
    if isinstance(value, list):
        return [all_visible(item) for item in value]
    return visible(value) if isinstance(value, str) else value
