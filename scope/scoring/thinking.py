"""What a reasoning model thinks aloud before it answers is not its answer.

Markers stand around the thinking part, such as `<think>` and `</think>`. What is between them is removed, as often as
there is such a part; parts may stand inside each other. A part that is not closed goes on to the end of the text. A
closing marker without an opening one closes a part that began before the text, where the prompt ends in the opening
marker: all that stands before it is removed. An opening marker that is written twice in a row, as by models that repeat
the one that ends their prompt, opens one part.
"""

import re

Markers = tuple[str, str]  # what opens a thinking part, and what closes it
THINK: Markers = ("<think>", "</think>")


def without_thinking(text: str, markers: Markers | None, opened: bool = False) -> str:
    """The text without its thinking parts, in linear time. opened: whether the text begins inside of one.

    A model without markers (None) does not think aloud: its text is returned as it is.
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
    return "\n".join(filter(None, kept))  # what stood apart stays apart: 1<think></think>2 is not 12
