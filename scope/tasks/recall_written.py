"""Recall of what was written: the generation makes up facts first, and then says again those that are asked for."""

import random
from dataclasses import dataclass, field
from functools import cached_property

from scope.tasks import facts as english
from scope.tasks.task import BuiltOnce, Reference, Sample

AGAIN = "Once more:"
PROMPT = (
    "The members of a club have things to sell. Here is their list of {count} items. Below it, after the words "
    '"Once more:", follows again, word for word, what the list says of the items {numbers}, in this order.\n\n{listed}'
)


@dataclass(frozen=True)
class RecallWritten(BuiltOnce):
    """A generation writes a list of items, and below it says again those of them that the prompt names.

    The facts stand in no prompt: a cache that loses what was generated loses them. A generation of the model's own has
    other facts than the gold text. So there is no right answer, and its second part is held against its first.

    facts: K, without the two that begin the list in the prompt. The other fields are as in `Recall`.
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

    @cached_property
    def _samples(self) -> tuple[Sample, ...]:
        return tuple(self._sample(index) for index in range(self.prompts))

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        """words: of what it wrote of the items asked for, the share of the words that it says again in their place.

        An item that it has not written counts as one word that is not said.
        """
        assert sample.gold is not None
        asked = english.lines_in(sample.gold.text.partition(AGAIN)[2])
        listed, _, again = generation.partition(AGAIN)
        written, said = english.lines_in(listed), english.lines_in(again)
        expected = {number: written.get(number, "").split() or [""] for number in asked}
        return {"words": english.share_right(expected, {number: line.split() for number, line in said.items()})}

    def _sample(self, index: int) -> Sample:
        name = f"recall_written-{self.split}-{self.seed}-{index}"
        facts = english.make_facts(random.Random(name), english.SHOWN + self.facts)
        shown, made = facts[: english.SHOWN], facts[english.SHOWN :]
        asked = english.choose(random.Random(f"{name}-asked"), made, self.asked, self.order)
        listed, written = (english.plain(p for fact in part for p in fact.listed) for part in (shown, made))
        prompt = PROMPT.format(count=len(facts), numbers=", ".join(str(fact.number) for fact in asked), listed=listed)
        said = [piece for fact in asked for piece in fact.listed]
        return Sample(name, prompt, (), gold=Reference.of([(f"{written}\n{AGAIN}\n", False), *said]), as_text=True)
