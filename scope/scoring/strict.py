"""The strict scorer: an answer counts only in the form that the prompt asks for and the worked examples have.

The header is exactly `Answer_12:` at the start of a line. The answer under it ends in "The answer is 18.", and says so
once. The value is bare. A number has digits, and may have a sign, a decimal point and groups of three. A choice is a
letter, with or without brackets. These do not count, though a person understands them: `**Answer_12:**`, "The answer
is $18.", a remark after the answer. The difference to `aligned` shows what a method costs in form alone."""

import re
from collections.abc import Sequence

from scope.scoring.answer import Question, Score
from scope.scoring.scorers import Scorer
from scope.scoring.values import equal

HEADER = re.compile(r"^Answer_([1-9]\d{0,8}):", re.MULTILINE | re.ASCII)
CONCLUSION = "The answer is "
VALUES = {
    "number": re.compile(r"-?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?", re.ASCII),
    "choice": re.compile(r"[A-J]|\([A-J]\)"),
}
SAYS_SO = re.compile(r"\banswer is\b", re.IGNORECASE)


def score(questions: Sequence[Question], text: str, form: str) -> list[Score]:
    """One `Score` for each question: the first answer under its header. form: "number" or "choice"."""
    _, *parts = HEADER.split(text)  # number, text, number, text, ...
    given: dict[int, list[str | None]] = {question.number: [] for question in questions}
    for number, part in zip(parts[::2], parts[1::2], strict=True):
        if int(number) in given:
            given[int(number)].append(_value(part, form))
    scores = []
    for question in questions:
        values = given[question.number]
        first = values[0] if values else None
        right = equal(form, first, question.expected)
        scores.append(Score(first, right, sum(value is not None for value in values)))
    return scores


def _value(part: str, form: str) -> str | None:
    """The value in which the text under a header ends; None if the text has another form."""
    before, said, rest = part.rpartition(CONCLUSION)
    value = rest.rstrip()
    well_placed = said and before[-1:].isspace() and value.endswith(".") and len(SAYS_SO.findall(part)) == 1
    return value[:-1].strip("()").replace(",", "") if well_placed and VALUES[form].fullmatch(value[:-1]) else None


SCORER = Scorer("only answers in the very form that was asked for", score)
