"""Removes what a reasoning model thinks aloud before it answers. It is not part of the answer.

Markers such as `<think>` and `</think>` surround a thinking part. A text may have several parts, also inside each
other. An unclosed part goes on to the end of the text. A closing marker without an opening one ends a part that began
in the prompt, so all text before it is removed. Some models repeat the opening marker that ends their prompt: two
opening markers in a row open one part."""

import re

Markers = tuple[str, str]  # the opening and the closing marker of a thinking part
THINK: Markers = ("<think>", "</think>")


def without_thinking(text: str, markers: Markers | None, opened: bool = False) -> str:
    """The text without its thinking parts, in linear time.

    markers: opening and closing; None returns the text as it is. opened: whether the text begins inside a thinking
    part.
    """
    if markers is None:
        return text
    opening, closing = markers
    kept: list[str] = []
    depth, begin, just_opened = int(opened), 0, opened
    for marker in re.finditer(f"{re.escape(opening)}|{re.escape(closing)}", text):
        before = text[begin : marker.start()]
        if not depth:
            kept.append(before)
        if marker[0] == opening:
            depth += not (just_opened and not before.strip())
        elif depth:
            depth -= 1
        else:
            kept.clear()
        begin, just_opened = marker.end(), marker[0] == opening
    if not depth:
        kept.append(text[begin:])
    return "\n".join(filter(None, kept))  # separate texts stay separate: 1<think></think>2 is not 12
