"""Recall of what was written: the generation makes up facts first, and then says again those that are asked for."""

import random
import re
from dataclasses import dataclass, field

from scope.tasks import facts as english
from scope.tasks.task import Reference, Sample

ANSWER = re.compile(r"^Answer_(\d+):", re.MULTILINE)
AGAIN = "\nOnce more:\n"
PROMPT = (
    "The members of a club have things to sell. Here is their list of {count} items. Below it, after the words "
    '"Once more:", follows again, word for word, what the list says of the items {numbers}, in this order. Each line '
    "ends with the price, as in:\n\n{shown}\n\n"
    "The list:\n{listed}\n"
)


@dataclass(frozen=True)
class RecallWritten:
    """A generation writes a list of items, and below it says again those of them that the prompt names.

    The facts stand in no prompt: a cache that loses what was generated loses them. A generation of the model's own has
    other facts than the gold text. So there is no right answer, and its second part is held against its first.

    facts: K, without the one that begins the list in the prompt. The other fields are as in `Recall`.
    Raises SettingError for values that cannot be.
    """

    facts: int
    asked: float
    order: str
    max_new_tokens: int
    split: str = "report"
    seed: int = 0
    prompts: int = field(default=24, metadata={"limit": True})

    def __post_init__(self) -> None:
        english.check_fields(self)

    def samples(self) -> list[Sample]:
        return [self._sample(index) for index in range(self.prompts)]

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        """words: of what it wrote of the items asked for, the share of the words that it says again in their place.

        An item that it has not written counts as one word that is not said.
        """
        assert sample.gold is not None
        asked = [int(number) for number in ANSWER.findall(sample.gold.text)]
        listed, answers = english.items_in(generation), english.answers_in(generation, asked)
        written = {number: listed.get(number) or [""] for number in asked}
        return {"words": english.share_right(written, {number: text.split() for number, text in answers.items()})}

    def _sample(self, index: int) -> Sample:
        name = f"recall_written-{self.split}-{self.seed}-{index}"
        shown, *made = english.make_facts(random.Random(name), self.facts + 1)
        asked = english.choose(random.Random(f"{name}-asked"), made, self.asked, self.order)
        prompt = PROMPT.format(
            count=self.facts + 1,
            numbers=", ".join(str(fact.number) for fact in asked),
            listed=shown.listed,
            shown=english.plain(shown.answered),
        )
        written = "".join(f"{fact.listed}\n" for fact in made)
        said = [piece for fact in asked for piece in (*fact.answered, ("\n", False))]
        return Sample(name, prompt, (), gold=Reference.of([(f"{written}{AGAIN}", False), *said]), as_text=True)
