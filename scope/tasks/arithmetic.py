"""The embedded model's task: LongGenBench's form in the small language of `scope.tasks.language`, made from a seed."""

import random
from dataclasses import dataclass, field
from functools import cached_property

from scope.scoring.answer import Question
from scope.tasks import language
from scope.tasks.language import Document, Kind, Mix
from scope.tasks.task import BuiltOnce, Reference, Sample
from scope.util.errors import SettingError, check_count

MOST_PROMPTS = 100_000  # all samples are in memory at once
RECALLED = (Kind.FACT, Kind.TURNED, Kind.REFERENCE)  # what an answer takes from its question or from an earlier answer


@dataclass(frozen=True)
class Arithmetic(BuiltOnce):
    """K sums in one prompt, listed in shuffled order. One generation answers them in order of number.

    questions: K. max_new_tokens: T.
    reference_share: average share of the questions that start from an earlier answer.
    second_step_share: average share of the questions with two steps.
    change_share: average share of the questions that change the weather. In wet weather gains are losses, and losses
    gains.
    most_filler: the most sentences after a question that no answer needs.
    start: the first number; None takes one at random. listing: seed of the order in which the questions are listed.
    Neither changes what is asked.
    seed: of the samples. Training drew from other seeds.
    prompts: the number of samples. The i-th sample does not depend on it.
    Raises SettingError for an invalid value.
    """

    questions: int = 24
    max_new_tokens: int = 640
    reference_share: float = 0.3
    second_step_share: float = 0.5
    change_share: float = 0.12
    most_filler: int = 5
    start: int | None = None
    listing: int = 0
    seed: int = 0
    prompts: int = field(default=16, metadata={"limit": True})

    shots = 2  # worked examples

    def __post_init__(self) -> None:
        most = language.MAX_NUMBER - self.shots
        check_count(self, "questions", low=1)
        if self.questions > most:
            raise SettingError(self, "questions", self.questions, f"a whole number from 1 to {most}")
        check_count(self, "max_new_tokens", low=1)
        check_count(self, "prompts", low=1, high=MOST_PROMPTS)
        for name in ("most_filler", "listing", "seed"):
            check_count(self, name)
        highest = most - self.questions + 1
        if self.start is not None and not (type(self.start) is int and 1 <= self.start <= highest):
            raise SettingError(self, "start", self.start, f"null or a whole number from 1 to {highest}")
        for name in ("reference_share", "second_step_share", "change_share"):
            share = getattr(self, name)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise SettingError(self, name, share, "a number from 0 to 1")

    @cached_property
    def _samples(self) -> tuple[Sample, ...]:
        return tuple(self._sample(i) for i in range(self.prompts))

    def document(self, index: int) -> Document:
        """The i-th prompt with all that is known of its questions, and the generation of a perfect model."""
        name = self._name(index)
        return language.make_document(
            random.Random(name),
            self.questions,
            Mix(self.reference_share, self.second_step_share, self.change_share, self.most_filler),
            self.shots,
            self.start,
            random.Random(f"{name}-{self.listing}"),
        )

    def _name(self, index: int) -> str:
        return f"arithmetic-{self.questions}-{self.seed}-{index}"

    def _sample(self, index: int) -> Sample:
        made = self.document(index)
        questions = tuple(Question(q.number, str(q.answer)) for q in made.questions)
        beyond = f"{language.ANSWER}{language.number(questions[-1].number + 1)}"
        gold = Reference.of((token, kind in RECALLED) for token, kind in made.generation if token != language.EOS)
        return Sample(self._name(index), language.text(made.prompt), questions, stop=(f"{beyond}:",), gold=gold)
