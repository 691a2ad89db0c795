"""The aligned scorer: an answer belongs to the question whose number is printed beside it.

So a skipped question costs one answer. If the n-th answer went to the n-th question, all later answers would be wrong.

A header is `Answer_12:` at the start of a line or after the end of a sentence. It may have markdown, a remark in
brackets, and any script's digits. Under a header the first "answer is" with a value counts. If there is none, the first
boxed value counts. If there is none either, the text counts if it is nothing but a value. The first answer to a
question counts.

Some models number their answers from 1 although the questions start later. If the first number is 1 and the numbers
rise to at most the number of questions, they are shifted to the first question. If they rise further, the model has
answered the worked examples too, and its numbers are not shifted."""

import re
from collections.abc import Sequence

from scope.scoring.answer import Question, Score
from scope.scoring.scorers import Scorer
from scope.scoring.values import alone, equal, read

HEADER = re.compile(
    r"(?:^|(?<=[.!?)\]]))[ \t>*#`_-]*Answer(?: |\\?_|#)?(\d{1,9})"
    r"(?: ?\([^()\n]{0,80}\))?(?:[*_` ]{0,8}[:：]|(?:\*\*|__) *$)",
    re.MULTILINE | re.IGNORECASE,
)
CONCLUSION = re.compile(r"\banswer(?:[*_]{0,2}\s{1,4}is\b|[*_]{0,2} ?[:：])", re.IGNORECASE)
BOXED = re.compile(r"\\boxed(?=\{)")
ECHO = re.compile(r"^[ \t>*#]*Question[ _]?\d[^\n]*", re.MULTILINE | re.IGNORECASE)


def score(questions: Sequence[Question], text: str, form: str) -> list[Score]:
    """One `Score` for each question, in their order: the first value under its header. Raises nothing.

    form: "number" or "choice".
    """
    parts = under_headers(questions, text)
    scores = []
    for question in questions:
        given = [value for part in parts[question.number] if (value := _value(form, part))]
        first = given[0] if given else None
        scores.append(Score(first, equal(form, first, question.expected), len(given)))
    return scores


def under_headers(questions: Sequence[Question], text: str) -> dict[int, list[str]]:
    """For each question's number, the texts under its headers, in the order of the text; empty where it has none.

    A text ends at the next header, whatever its number. Numbers that restart at 1 are moved to the first question.
    """
    _, *blocks = HEADER.split(text)  # number, text, number, text, ...
    printed = [int(number) for number in blocks[::2]]
    first = min((q.number for q in questions), default=1)
    moved = first - 1 if _restarted(printed, first, len(questions)) else 0
    found: dict[int, list[str]] = {q.number: [] for q in questions}
    for number, block in zip(printed, blocks[1::2], strict=True):
        if number + moved in found:
            found[number + moved].append(block)
    return found


def _restarted(printed: Sequence[int], first: int, asked: int) -> bool:
    if first == 1 or printed[:1] != [1]:
        return False
    highest = 0
    for number in printed:
        if number <= highest:
            break
        highest = number
    return highest <= asked


def _value(form: str, text: str) -> str | None:
    text = ECHO.sub("", text)
    for said in CONCLUSION.finditer(text):
        if value := read(form, text[said.end() : said.end() + 400]):
            return value
    for boxed in BOXED.finditer(text):
        if value := read(form, text[boxed.start() : boxed.start() + 400]):
            return value
    return alone(form, text)


SCORER = Scorer("answers by their printed number", score)
