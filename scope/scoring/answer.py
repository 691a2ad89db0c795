"""What is asked and what is found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """One question of a sample: its printed number and the answer that is right."""

    number: int
    expected: str


@dataclass(frozen=True)
class Answer:
    """What both scorers found for a question; None where they found nothing.

    `found` and `correct` are the aligned scorer's, and `given` says how many answers it saw to this question: those
    after the first are duplicates and do not count. `released_found` and `released_correct` are the paper's scorer's.
    """

    number: int
    expected: str
    found: str | None
    correct: bool
    given: int
    released_found: str | None
    released_correct: bool
