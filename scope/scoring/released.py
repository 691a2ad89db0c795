"""The paper's scorer, as the authors' released code has it (SCOPE, arXiv 2412.13649, eval_longgenbench.py).

The n-th answer found is held against the n-th question, whatever number is printed beside it; answers beyond the last
question are ignored. An answer starts at a header, `Answer_12:`, and ends at the next "answer is" that a bare integer
follows ("17.2" is 17; "$18" is none, and the header then takes the answer of a later one). A choice is what stands in
the brackets after "answer is (", in the line that follows the header. Of an expected number only the leading digits
count, so that a negative one is never right.

It is given the whole text of a generation, with what a reasoning model thinks aloud before it answers
(scope.scoring.thinking), since the authors' code knows nothing of that.

What that code does with patterns that go back over the text is done here in one pass.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from scope.scoring.answer import Question, Score
from scope.scoring.scorers import Scorer

NUMBERS = re.compile(r"Answer_\d+:|answer is (\d+)")
HEADER = re.compile(r"Answer_\d+:\s*")
EXPECTED = re.compile(r"\s*(\d+)")
OPEN, CLOSE = "answer is (", ")"


def score(questions: Sequence[Question], text: str, form: str) -> list[Score]:
    """One for each question: by the answer that stands at its place."""
    found: list[str | None] = [*find(form, text)]
    found += [None] * (len(questions) - len(found))
    return [
        Score(value, value is not None and value == expected(form, question.expected), int(value is not None))
        for question, value in zip(questions, found, strict=False)
    ]


def find(form: str, generation: str) -> list[str]:
    """What this scorer reads, in the order of the text."""
    return list(_choices(generation) if form == "choice" else _numbers(generation))


def expected(form: str, answer: str) -> str | None:
    """What an answer must be equal to; None: nothing is."""
    if form == "choice":
        return answer
    leading = EXPECTED.match(answer)
    return leading[1] if leading else None


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
    """A function from a position to that of the next `wanted`, or to the end; asked in rising order it reads once."""
    there = -1

    def seek(position: int) -> int:
        nonlocal there
        if there < position:
            there = text.find(wanted, position)
            there = len(text) if there < 0 else there
        return there

    return seek


SCORER = Scorer("the paper's scorer, by position", score, reads_thinking=True)
