"""Recall: facts in plain English stand in the prompt, and the generation says those again that are asked for."""

import random
from dataclasses import dataclass, field
from functools import cached_property

from scope.tasks import facts as english
from scope.tasks.facts import Fact
from scope.tasks.task import BuiltOnce, Reference, Sample
from scope.util.errors import check_count

MOST_IDLE = 1000
OPENING = "The members of a club have things to sell. This is their list.\n\n"
ASKING = "\nHere is the list once more, word for word, in the order {numbers}.\n\n{shown}"


@dataclass(frozen=True)
class Recall(BuiltOnce):
    """A prompt lists `facts` items, and the generation says again those that are asked for.

    The prompt is a text that ends after the first facts that are said again. The generation goes on with it, so a model
    needs no chat template.

    facts: K, without the two that the prompt itself says again. asked: the share of them that is asked for; the
    others are distractors. order: of the asking: as listed, reversed, or shuffled. wordings: how many different
    sentences the list has; where facts share one, a small model takes one for another. idle: the most sentences after
    a fact that no answer needs; distance: the count of such sentences between the list and the asking. split: what the
    samples are for; no sample of one split is in another. prompts: how many samples; the i-th is the same whatever it
    is.
    Raises SettingError for values that cannot be.
    """

    facts: int
    asked: float
    order: str
    wordings: int
    idle: int
    distance: int
    max_new_tokens: int
    split: str = "report"
    seed: int = 0
    prompts: int = field(default=24, metadata={"limit": True})

    def __post_init__(self) -> None:
        english.check_fields(self)
        check_count(self, "wordings", low=1, high=len(english.WORDINGS))
        check_count(self, "idle", high=MOST_IDLE)
        check_count(self, "distance", high=MOST_IDLE)

    @cached_property
    def _samples(self) -> tuple[Sample, ...]:
        return tuple(self._sample(index) for index in range(self.prompts))

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        """values: the share of all values that are asked for (owner, colour, thing, place, price) that are right."""
        assert sample.gold is not None
        right, given = (english.values_in(english.lines_in(text)) for text in (sample.gold.text, generation))
        return {"values": english.share_right(right, given)}

    def _sample(self, index: int) -> Sample:
        name = f"recall-{self.split}-{self.seed}-{index}"
        facts = english.make_facts(random.Random(name), english.SHOWN + self.facts, self.wordings)
        shown, made = facts[: english.SHOWN], facts[english.SHOWN :]
        asked = english.choose(random.Random(f"{name}-asked"), made, self.asked, self.order)
        again = english.plain(piece for fact in shown for piece in fact.listed)
        numbers = ", ".join(str(fact.number) for fact in (*shown, *asked))
        return Sample(
            name,
            f"{OPENING}{self._listed(name, facts)}{ASKING.format(numbers=numbers, shown=again)}",
            (),
            stop=("\n\n",),
            gold=Reference.of(piece for fact in asked for piece in fact.listed),
            as_text=True,
        )

    def _listed(self, name: str, made: list[Fact]) -> str:
        """The list with its idle sentences. Other settings of these leave the facts as they are."""
        rng = random.Random(f"{name}-idle")
        lines = [
            " ".join([english.plain(fact.listed).rstrip(), *rng.choices(english.IDLE, k=rng.randint(0, self.idle))])
            for fact in made
        ]
        between = [" ".join(["", *rng.choices(english.IDLE, k=self.distance)]).strip()] if self.distance else []
        return "\n".join([*lines, *between, ""])
