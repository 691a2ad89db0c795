"""What a task is: samples to answer, with the questions that scorers look for, and measures of a whole text."""

from dataclasses import dataclass
from typing import Protocol

from scope.scoring.answer import Question


@dataclass(frozen=True)
class Sample:
    """One prompt. `stop` holds the strings that end its generation.

    asked: the questions as they are printed, where the task has their texts. instruction: what goes before the prompt,
    where the model's layout puts it. most_tokens: a longer prompt is cut in its middle to that many. origin: a hash of
    the set that the sample belongs to, empty where the task's settings say all that is in it.
    """

    name: str
    prompt: str
    questions: tuple[Question, ...]
    stop: tuple[str, ...] = ()
    references: tuple[str, ...] = ()  # texts that a summary is held against
    asked: tuple[str, ...] = ()
    subject: str = ""
    instruction: str = ""
    most_tokens: int | None = None
    origin: str = ""


class Task(Protocol):
    """A frozen settings class; samples are the same for the same settings."""

    @property
    def max_new_tokens(self) -> int:
        """T: the most tokens a sample may generate."""
        ...

    def samples(self) -> list[Sample]: ...

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        """Named scores of the whole text, each in 0..1 (ROUGE); empty for a task that asks questions."""
        ...
