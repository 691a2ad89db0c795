"""The embedded task: LongGenBench's shape in the small language of `scope.tasks.language`, made on the fly."""

import random
from dataclasses import dataclass, field

from scope.errors import SettingError, check_count
from scope.scoring import score
from scope.scoring.answer import Answer, Question
from scope.tasks import language
from scope.tasks.task import Sample


@dataclass(frozen=True)
class Arithmetic:
    """`questions` sums in one prompt, listed in shuffled order, to be answered in one generation in order of number.

    About `reference_share` of them start from the answer to an earlier one. Each question is followed by up to
    `most_filler` sentences that no answer needs. `prompts` is how many samples to take; the i-th is the same whatever
    it is. Training draws from other seeds: samples are held out.

    Raises SettingError for values that cannot be.
    """

    questions: int = 24
    max_new_tokens: int = 480
    reference_share: float = 0.3
    most_filler: int = 3
    seed: int = 0
    prompts: int = field(default=16, metadata={"limit": True})

    shots = 2  # worked examples

    def __post_init__(self) -> None:
        most = language.MAX_NUMBER - self.shots
        check_count(self, "questions", low=1)
        if self.questions > most:
            raise SettingError(self, "questions", self.questions, f"a whole number from 1 to {most}")
        for name in ("max_new_tokens", "prompts"):
            check_count(self, name, low=1)
        for name in ("most_filler", "seed"):
            check_count(self, name)
        if not isinstance(self.reference_share, int | float) or not 0 <= self.reference_share <= 1:
            raise SettingError(self, "reference_share", self.reference_share, "a number from 0 to 1")

    def samples(self) -> list[Sample]:
        return [self._sample(i) for i in range(self.prompts)]

    def _sample(self, index: int) -> Sample:
        name = f"arithmetic-{self.questions}-{self.seed}-{index}"
        made = language.make_document(
            random.Random(name),
            self.questions,
            shots=self.shots,
            reference_share=self.reference_share,
            most_filler=self.most_filler,
        )
        questions = tuple(Question(q.number, str(q.answer)) for q in made.questions)
        beyond = f"{language.ANSWER}{language.number(questions[-1].number + 1)}:"
        return Sample(name, language.text(made.prompt), questions, stop=(beyond,))

    def answers(self, sample: Sample, generation: str) -> list[Answer]:
        return score(sample.questions, generation)

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        return {}
