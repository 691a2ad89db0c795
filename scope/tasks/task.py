"""What a task is: samples with the questions that scorers look for, and measures of a whole text."""

from dataclasses import dataclass
from typing import Protocol

from scope.scoring.answer import Question


@dataclass(frozen=True)
class Sample:
    """One prompt of a task. The names of a task's samples are unique.

    questions: what the scorers look for, in the order of the prompt; empty for a summary.
    stop: strings that end the generation.
    references: texts that a summary is compared with.
    asked: the text of each question, if the task has them.
    subject: what the questions are about, if the data set says so.
    instruction: the text that goes before the prompt. The model's layout says where.
    most_tokens: a longer prompt is cut in its middle to this many tokens; None cuts nothing.
    origin: a hash of the set that the sample belongs to. Empty if the task's settings already say all that is in it.
    """

    name: str
    prompt: str
    questions: tuple[Question, ...]
    stop: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    subject: str = ""
    instruction: str = ""
    most_tokens: int | None = None
    origin: str = ""


class Task(Protocol):
    """A frozen settings class. Equal settings give equal samples."""

    @property
    def max_new_tokens(self) -> int:
        """T: the most tokens that a sample may generate."""
        ...

    def samples(self) -> list[Sample]:
        """All samples, in a fixed order.

        Raises ConfigError if the data are malformed, ScopeError if they cannot be had.
        """
        ...

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        """Scores of the whole text by name, each in 0..1 (ROUGE). Empty for a task that asks questions."""
        ...
