"""What is asked, what a scorer finds, and what all scorers found together."""

from collections.abc import Mapping
from dataclasses import dataclass

PRIMARY = "aligned"  # the scorer that accuracies, differences and figures go by


@dataclass(frozen=True)
class Question:
    """One question of a sample: its printed number and the answer that is right."""

    number: int
    expected: str


@dataclass(frozen=True)
class Score:
    """What one scorer says of one question.

    found: the answer as it reads it; None where it finds none. given: how many answers to this question it saw; those
    after the first are duplicates and do not count.
    """

    found: str | None
    correct: bool
    given: int


@dataclass(frozen=True)
class Answer:
    """A question and its scores, by the name of the scorer. `found`, `correct` and `given` are those of `PRIMARY`."""

    number: int
    expected: str
    scores: Mapping[str, Score]

    @property
    def found(self) -> str | None:
        return self.scores[PRIMARY].found

    @property
    def correct(self) -> bool:
        return self.scores[PRIMARY].correct

    @property
    def given(self) -> int:
        return self.scores[PRIMARY].given
