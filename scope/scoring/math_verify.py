"""math-verify's reading of the answers, beside ours: under the same headers, another parser and another comparison.

The package math-verify (Kydlíček and Gandenberger, Apache-2.0) reads LaTeX and plain expressions, and compares them as
mathematics: sqrt(4) is 2. Only the end of an answer is shown to it, since its time grows with the text. What takes more
than 5 seconds it ends by an alarm of the system, which needs the main thread.
"""

import re
from collections.abc import Sequence
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, StringExtractionConfig, parse, verify

from scope.scoring.aligned import under_headers
from scope.scoring.answer import Question, Score
from scope.scoring.scorers import Scorer

BRACKETS = re.compile(r"\(([A-J])\)")
REACH = 400  # characters at the end of an answer that it is shown
FORMS: dict[str, tuple[Any, ...]] = {
    "number": (LatexExtractionConfig(), ExprExtractionConfig()),
    "choice": (StringExtractionConfig(strings=tuple("ABCDEFGHIJ")),),
}


def score(questions: Sequence[Question], text: str, form: str) -> list[Score]:
    """One for each question: by the first text under its header that math-verify reads something in."""
    parts = under_headers(questions, text)
    scores = []
    for question in questions:
        read = [value for part in parts[question.number] if (value := _parsed(part.strip()[-REACH:], form))]
        right = bool(read) and bool(verify(_parsed(question.expected, form), read[0]))
        scores.append(Score(str(read[0][0]).upper() if read else None, right, len(read)))
    return scores


def _parsed(text: str, form: str) -> list[Any]:
    """What math-verify reads in a text; it knows a choice's letter only without brackets."""
    return list(parse(BRACKETS.sub(r"\1", text) if form == "choice" else text, FORMS[form]))


SCORER = Scorer("as math-verify reads and compares them", score)
