"""A question, what one scorer finds for it, and what all scorers find."""

from collections.abc import Mapping
from dataclasses import dataclass

PRIMARY = "aligned"  # the scorer of the accuracies, differences and figures


@dataclass(frozen=True)
class Question:
    """One question of a sample: its printed number and its right answer."""

    number: int
    expected: str


@dataclass(frozen=True)
class Score:
    """What one scorer finds for one question.

    found: the answer as the scorer reads it; None if it finds none. correct: whether it is right.
    given: the number of answers that it saw. Only the first counts; the others are duplicates.
    """

    found: str | None
    correct: bool
    given: int


@dataclass(frozen=True)
class Answer:
    """A question with its scores by scorer name. `found`, `correct` and `given` are those of `PRIMARY`."""

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
