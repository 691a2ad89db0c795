"""What a task is: samples with the questions that scorers look for, and measures of a whole text."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from scope.scoring.answer import Question
from scope.util.errors import ImpossibleError

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


def require_offsets(tokenizer: Any, key: str = "") -> None:
    """Raises ImpossibleError, which begins with `key`, for a tokenizer that does not say where its tokens lie."""
    if not tokenizer.is_fast:
        raise ImpossibleError(f"{key}the tokenizer does not say where its tokens lie in a text: take a fast one")


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
    gold: a right answer, which replay forces; None: the task has none. It changes no generation, so it is not part of
    `origin`.
    as_text: the prompt is a text to continue, so no chat template is put around it.
    cluster: samples of one cluster are alike, such as windows of one file, and intervals allow for it; empty: none.
    turns: texts of later turns: each goes on with the answer to what came before, and is answered in its turn. The
    prompt is then `as_text`.
    asking: the end of the prompt's text, which the model reads when the rest of the prompt has been compressed. The
    prompt is then `as_text`. Empty: all of the prompt is compressed.
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
    gold: Reference | None = field(default=None, repr=False)  # `origin` is a hash of the repr
    as_text: bool = field(default=False, repr=False)
    cluster: str = field(default="", repr=False)
    turns: tuple[str, ...] = field(default=(), repr=False)
    asking: str = field(default="", repr=False)


class BuiltOnce(ABC):
    """A task whose samples are built once, when they are first asked for. By itself it measures no whole text."""

    @property
    @abstractmethod
    def _samples(self) -> tuple[Sample, ...]:
        """The samples; a `cached_property`. Raises as `Task.samples` does."""

    def samples(self) -> list[Sample]:
        """All samples, in a fixed order. Raises as `Task.samples` does."""
        return list(self._samples)

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        """Empty: what is read of a generation, the scorers read."""
        return {}


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
