"""Recall: facts in plain English stand in the prompt, and the generation says those again that are asked for."""

import random
from dataclasses import dataclass, field

from scope.scoring.answer import Question
from scope.tasks import facts as english
from scope.tasks.facts import Fact
from scope.tasks.task import Reference, Sample
from scope.util.errors import check_count

MOST_IDLE = 1000
OPENING = "The members of a club have things to sell. This is their list.\n\n"
ASKING = (
    "\nNow say what the list tells of some of its items, one line for each. A line begins with the number of the item, "
    "names its owner, its colour, the thing and its place, and ends with the price. Two lines are done already:\n"
)


@dataclass(frozen=True)
class Recall:
    """A prompt lists `facts` items, and has those that are asked for said again, in one wording for all.

    facts: K, without the two that the prompt shows the answers to. asked: the share of them that is asked for; the
    others are distractors. order: of the asking: as listed, reversed, or shuffled. wordings: how many of the six
    wordings the list uses. idle: the most sentences after a fact that no answer needs; distance: the count of such
    sentences between the list and the asking. split: what the samples are for; no sample of one split is in another.
    prompts: how many samples; the i-th is the same whatever it is.
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

    def samples(self) -> list[Sample]:
        return [self._sample(index) for index in range(self.prompts)]

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        """values: the share of all values that are asked for (owner, colour, thing, place, price) that are right."""
        assert sample.gold is not None
        numbers = [question.number for question in sample.questions]
        right, given = (english.answered_in(text, numbers) for text in (sample.gold.text, generation))
        return {"values": english.share_right(right, given)}

    def _sample(self, index: int) -> Sample:
        name = f"recall-{self.split}-{self.seed}-{index}"
        shown, made = english.make_facts(random.Random(name), self.facts)
        asked = english.choose(random.Random(f"{name}-asked"), made, self.asked, self.order)
        told = "".join(f"{english.plain(fact.answered())}\n" for fact in shown)
        order = ", ".join(str(fact.number) for fact in asked)
        prompt = f"{OPENING}{self._listed(name, [*shown, *made])}{ASKING}{told}Go on with these items, in this order: {order}."
        return Sample(
            name,
            prompt,
            tuple(Question(fact.number, str(fact.price)) for fact in asked),
            stop=("\n\n",),
            gold=Reference.of(piece for fact in asked for piece in (*fact.answered(), ("\n", False))),
        )

    def _listed(self, name: str, made: list[Fact]) -> str:
        """The list with its idle sentences. Other settings of these leave the facts as they are."""
        rng = random.Random(f"{name}-listed")
        lines = []
        for fact in made:
            said = english.plain(fact.listed(rng.choice(english.WORDINGS[: self.wordings])))
            lines.append(" ".join([said, *rng.choices(english.IDLE, k=rng.randint(0, self.idle))]) + "\n")
        between = " ".join(rng.choices(english.IDLE, k=self.distance))
        return "".join(lines) + (f"\n{between}\n" if between else "")
