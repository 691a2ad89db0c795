"""Checks of what a `ModelSource` is given. Each raises an error of one line, with the key and what is allowed."""

import math
from collections.abc import Mapping
from datetime import date

from scope.generation import devices
from scope.generation.prompts import RESERVED, TEMPLATED
from scope.util.errors import CombinationError, SettingError


def check_device(source: object, name: str, words: tuple[str, ...]) -> None:
    """Check that the field `name` is one of `words` or a torch device."""
    value = getattr(source, name)
    try:
        if value not in words:
            devices.parse(value)
    except (RuntimeError, TypeError, AttributeError) as error:
        null = "null, " if name == "device_map" else ""
        allowed = f"{null}{', '.join(words)} or a torch device such as cpu or cuda:0"
        raise SettingError(source, name, value, allowed) from error


def check_template(source: object, template: object, template_date: object, layout: str) -> None:
    """Check the arguments and the day of a chat template, and that the layout uses a template."""
    if not isinstance(template, Mapping):
        raise SettingError(source, "template", template, "arguments of the chat template, as name: value")
    for name, value in template.items():
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
            allowed = "an argument of the chat template" + (", and scope itself gives this one" * (name in RESERVED))
            raise SettingError(source, f"template.{name}", value, allowed)
        if not all(map(_is_plain, value if isinstance(value, list | tuple) else [value])):
            raise SettingError(source, f"template.{name}", value, "text, a number, true, false, null, or a list")
    if template_date is not None and not _is_date(template_date):
        raise SettingError(source, "template_date", template_date, "null or a day such as 2024-07-26")
    given = {f"template.{name}": value for name, value in template.items()}
    given |= {"template_date": template_date} if template_date else {}
    for name, value in given.items():
        if layout not in TEMPLATED:
            allowed = f"left out with model.layout={layout}, which uses no chat template"
            raise CombinationError(source, name, value, allowed)


def thinking_pair(source: object, thinking: object) -> tuple[str, str] | None:
    """Check the two marks -> them as a tuple, since YAML gives a list; None stays None."""
    if thinking is None:
        return None
    pair = tuple(thinking) if isinstance(thinking, list | tuple) else ()
    if len(pair) != 2 or not all(isinstance(mark, str) and mark.strip() for mark in pair) or pair[0] == pair[1]:
        allowed = "null or two texts, what a model writes before and after its thinking, such as [<think>,</think>]"
        raise SettingError(source, "thinking", thinking, allowed)
    return pair[0], pair[1]


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


def _is_date(value: object) -> bool:
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False
