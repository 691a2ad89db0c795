"""The aligned scorer: an answer belongs to the question whose number is printed beside it.

A skipped question costs one answer here; pairing the n-th answer with the n-th question would shift all that follow.
"""

import re
from collections.abc import Sequence

from scope.scoring.answer import Answer, Question

HEADER = re.compile(r"^Answer_(\d+):", re.MULTILINE)
CONCLUSION = re.compile(r"The answer is (-?\d+)")


def find(generation: str) -> dict[int, str]:
    """Number of the question -> what "The answer is ..." says under its header; the first one counts."""
    headers = list(HEADER.finditer(generation))
    ends = [header.start() for header in headers[1:]] + [len(generation)]
    found: dict[int, str] = {}
    for header, end in zip(headers, ends, strict=True):
        conclusion = CONCLUSION.search(generation, header.end(), end)
        if conclusion:
            found.setdefault(int(header[1]), conclusion[1])
    return found


def score(questions: Sequence[Question], generation: str) -> list[Answer]:
    """Each question with what was found for it."""
    found = find(generation)
    return [Answer(q.number, q.expected, found.get(q.number), found.get(q.number) == q.expected) for q in questions]
