"""What a task is: samples to answer, with the questions that scorers look for, and measures of a whole text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from scope.scoring.answer import Question

SPLITS = ("search", "choice", "report")  # what made samples are for; none of one split is in another
Pieces = Iterable[tuple[str, bool]]  # parts of a text, each with whether it is a value that has to be recalled


@dataclass(frozen=True)
class Reference:
    """A right continuation of a prompt, and where in it the values stand that have to be recalled.

    spans: begin and end of each value, in characters of the text.
    """

    text: str
    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, pieces: Pieces) -> "Reference":
        """The pieces as one text. Blanks around a value are no part of it."""
        text, spans = "", []
        for piece, is_value in pieces:
            if is_value and piece.strip():
                begin = len(text) + len(piece) - len(piece.lstrip())
                spans.append((begin, len(text) + len(piece.rstrip())))
            text += piece
        return cls(text, tuple(spans))

    def answer_tokens(self, offsets: Sequence[tuple[int, int]]) -> list[bool]:
        """Of each token, whether it overlaps a value. offsets: its begin and end, in characters of the text."""
        return [any(begin < last and first < end for first, last in self.spans) for begin, end in offsets]


@dataclass(frozen=True)
class Sample:
    """One prompt. `stop` holds the strings that end its generation.

    asked: the questions as they are printed, where the task has their texts. instruction: what goes before the prompt,
    where the model's layout puts it. most_tokens: a longer prompt is cut in its middle to that many. origin: a hash of
    the set that the sample belongs to, empty where the task's settings say all that is in it.
    gold: a right answer, which replay forces; None where the task knows none. It changes no generation, so it is no
    part of `origin`. as_text: the prompt is a text to continue, so no chat template goes around it. cluster: samples of
    the same one are alike, which intervals allow for, as windows of one file; empty for one that is like no other.
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
    gold: Reference | None = field(default=None, repr=False)  # `origin` is a hash of the repr
    as_text: bool = field(default=False, repr=False)
    cluster: str = field(default="", repr=False)


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
