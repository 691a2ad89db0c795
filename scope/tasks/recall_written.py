"""Recall of what was written: the generation makes up facts first, and then says again those that are asked for."""

import random
import re
from dataclasses import dataclass, field

from scope.tasks import facts as english
from scope.tasks.task import Reference, Sample

ANSWER = re.compile(r"^Answer_(\d+):", re.MULTILINE)
OPENING = (
    "The members of a club have things to sell. Make up a list of them, one line for each, with an owner, a colour, a thing, "
    "a place and a price. No two of them have the same owner or the same price. The list begins so:\n"
)


@dataclass(frozen=True)
class RecallWritten:
    """A generation writes a list of `facts` items, and below it says again those of them that the prompt names.

    The facts stand in no prompt: a cache that loses what was generated loses them. A generation of the model's own has
    other facts than the gold one, so its answers are held against its own list, by the measure `values`.

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

    def samples(self) -> list[Sample]:
        return [self._sample(index) for index in range(self.prompts)]

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        """values: of owner, colour, thing, place and price of all items asked for, the share said as first written."""
        assert sample.gold is not None
        asked = [int(number) for number in ANSWER.findall(sample.gold.text)]
        listed = english.listed_in(generation)
        written = {number: listed.get(number, {}) for number in asked}
        return {"values": english.share_right(written, english.answered_in(generation, asked))}

    def _sample(self, index: int) -> Sample:
        name = f"recall_written-{self.split}-{self.seed}-{index}"
        shown, made = english.make_facts(random.Random(name), self.facts)
        asked = english.choose(random.Random(f"{name}-asked"), made, self.asked, self.order)
        listed, told = (
            "".join(f"{english.plain(line)}\n" for line in lines)
            for lines in ([fact.listed(english.WORDINGS[0]) for fact in shown], [fact.answered() for fact in shown])
        )
        order = ", ".join(str(fact.number) for fact in asked)
        prompt = (
            f"{OPENING}{listed}\nGo on from Item {made[0].number} to Item {made[-1].number}. Leave a line empty then, and "
            f"say what your list tells of these items, in this order: {order}. Write one line for each, as in:\n{told}"
        )
        written = "".join(f"{english.plain(fact.listed(english.WORDINGS[0]))}\n" for fact in made)
        said = [piece for fact in asked for piece in (*fact.answered(), ("\n", False))]
        return Sample(name, prompt, (), gold=Reference.of([(f"{written}\n", False), *said]))
