"""The aligned scorer: an answer belongs to the question whose number is printed beside it.

A skipped question costs one answer here; pairing the n-th answer with the n-th question would shift all that follow.
"""

import re
from collections.abc import Sequence

from scope.scoring.answer import Answer, Question

HEADER = re.compile(r"^Answer_(\d+)\b", re.MULTILINE)
CONCLUSION = re.compile(r"The answer is (-?\d+)")


def find(generation: str) -> dict[int, str]:
    """Number of the question -> what "The answer is ..." says under its header; the first one counts."""
    _, *blocks = HEADER.split(generation)  # number, text, number, text, ...
    found: dict[int, str] = {}
    for number, text in zip(blocks[::2], blocks[1::2], strict=True):
        if conclusion := CONCLUSION.search(text):
            found.setdefault(int(number), conclusion[1])
    return found


def score(questions: Sequence[Question], generation: str) -> list[Answer]:
    """Each question with what was found for it."""
    found = find(generation)
    return [Answer(q.number, q.expected, found.get(q.number), found.get(q.number) == q.expected) for q in questions]
