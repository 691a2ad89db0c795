"""The math_verify scorer: the headers of `aligned`, with the parser and the comparison of the package math-verify.

The package (Kydlíček and Gandenberger, Apache-2.0) reads LaTeX and plain expressions, and compares them as mathematics:
sqrt(4) is 2. It gets only the end of an answer, since its time grows with the text. It stops after 5 seconds by an
alarm signal, so it must run in the main thread."""

import re
from collections.abc import Sequence
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, StringExtractionConfig, parse, verify

from scope.scoring.aligned import under_headers
from scope.scoring.answer import Question, Score
from scope.scoring.scorers import Scorer

BRACKETS = re.compile(r"\(([A-J])\)")
REACH = 400  # characters at the end of an answer that it gets
FORMS: dict[str, tuple[Any, ...]] = {
    "number": (LatexExtractionConfig(), ExprExtractionConfig()),
    "choice": (StringExtractionConfig(strings=tuple("ABCDEFGHIJ")),),
}


def score(questions: Sequence[Question], text: str, form: str) -> list[Score]:
    """One `Score` for each question: the first text under its header in which math-verify reads a value.

    form: "number" or "choice".
    """
    parts = under_headers(questions, text)
    scores = []
    for question in questions:
        read = [value for part in parts[question.number] if (value := _parsed(part.strip()[-REACH:], form))]
        right = bool(read) and bool(verify(_parsed(question.expected, form), read[0]))
        scores.append(Score(str(read[0][0]).upper() if read else None, right, len(read)))
    return scores


def _parsed(text: str, form: str) -> list[Any]:
    """What math-verify reads in a text. It reads the letter of a choice only without brackets."""
    return list(parse(BRACKETS.sub(r"\1", text) if form == "choice" else text, FORMS[form]))


SCORER = Scorer("as math-verify reads and compares them", score)
