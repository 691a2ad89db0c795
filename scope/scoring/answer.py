"""What is asked and what is found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """One question of a sample: its printed number and the answer that is right."""

    number: int
    expected: str


@dataclass(frozen=True)
class Answer:
    """What was found for a question; None where the generation has no answer to it."""

    number: int
    expected: str
    found: str | None
    correct: bool
