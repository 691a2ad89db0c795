"""The released scorer: the paper's, as in the authors' code (SCOPE, arXiv 2412.13649, eval_longgenbench.py).

The n-th answer is compared with the n-th question, whatever number is printed beside it. Answers beyond the last
question are ignored. An answer starts at a header, `Answer_12:`, and ends at the next "answer is" before a bare
integer. "17.2" is read as 17. "$18" is not read, so the header takes the answer of a later header. A choice is the text
in the brackets after "answer is (", in the line after the header. Only the leading digits of an expected number count,
so a negative one is never right.

This scorer reads the whole text, thinking parts included (scope.scoring.thinking), since the authors' code does not
remove them.

The authors' patterns go back over the text. Here the same is done in one pass."""

import re
from collections.abc import Callable, Iterator, Sequence

from scope.scoring.answer import Question, Score
from scope.scoring.scorers import Scorer
from scope.scoring.values import equal

NUMBERS = re.compile(r"Answer_\d+:|answer is (\d+)")
HEADER = re.compile(r"Answer_\d+:\s*")
EXPECTED = re.compile(r"\s*(\d+)")
OPEN, CLOSE = "answer is (", ")"


def score(questions: Sequence[Question], text: str, form: str) -> list[Score]:
    """One `Score` for each question: the answer at the same place. form: "number" or "choice"."""
    found: list[str | None] = [*find(form, text)]
    found += [None] * (len(questions) - len(found))
    return [
        Score(value, value is not None and value == expected(form, question.expected), int(value is not None))
        for question, value in zip(questions, found, strict=False)
    ]


def find(form: str, generation: str) -> list[str]:
    """All answers that this scorer reads, in the order of the text."""
    return list(_choices(generation) if form == "choice" else _numbers(generation))


def expected(form: str, answer: str) -> str | None:
    """The text that an answer must equal; None if no answer can be right."""
    if form == "choice":
        return answer
    leading = EXPECTED.match(answer)
    return leading[1] if leading else None


def misread(questions: Sequence[Question], form: str) -> list[str]:
    """The expected answers that this scorer takes for another value, or for none: no answer to them is ever right."""
    return [q.expected for q in questions if not equal(form, expected(form, q.expected), q.expected)]


def _numbers(text: str) -> Iterator[str]:
    begun = False
    for part in NUMBERS.finditer(text):
        if part[1] is None:
            begun = True
        elif begun:
            yield part[1]
            begun = False


def _choices(text: str) -> Iterator[str]:
    opening, closing, line_end = _seeker(text, OPEN), _seeker(text, CLOSE), _seeker(text, "\n")
    used = 0
    for header in HEADER.finditer(text):
        if header.start() < used:
            continue
        begin = opening(header.end())
        end = closing(begin + len(OPEN))
        if end < line_end(header.end()):
            yield text[begin + len(OPEN) : end]
            used = end + 1


def _seeker(text: str, wanted: str) -> Callable[[int], int]:
    """A function from a position to that of the next `wanted`, or to the end of the text.

    If the positions rise from call to call, it reads the text once.
    """
    there = -1

    def seek(position: int) -> int:
        nonlocal there
        if there < position:
            there = text.find(wanted, position)
            there = len(text) if there < 0 else there
        return there

    return seek


SCORER = Scorer("the paper's scorer, by position", score, reads_thinking=True)
