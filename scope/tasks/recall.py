"""Recall: facts in plain English stand in the prompt, and the generation says those again that are asked for."""

import random
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

from scope.tasks import facts as english
from scope.tasks.facts import Fact
from scope.tasks.task import BuiltOnce, Reference, Sample
from scope.util.errors import check_choice, check_count

MOST_IDLE = 1000
IN_PROMPT, LATER = "in_prompt", "later"  # when a question comes
OPENING = "The members of a club have things to sell. This is their list.\n\n"
MORE = "Here is more of the list, word for word, in the order "  # an answer ends with an empty line
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
    samples are for; no sample of one split is in another. prompts: how many lists; the i-th is the same whatever it
    is. turns: in how many turns the facts are asked for, each after the answer before; as many facts in each turn, or
    one more in the first of them. question: `in_prompt`: it stands at the prompt's end. `later`: the list alone is the
    prompt, and the question comes when that has been compressed. questions: how many samples ask about one list, each
    for another part of the facts, divided as those of turns are. No question knows of another.
    Source of `later`: SCBench (arXiv 2412.10319), KVzip (arXiv 2505.23416).
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
    turns: int = field(default=1, metadata={"later": True})
    question: str = field(default=IN_PROMPT, metadata={"later": True})
    questions: int = field(default=1, metadata={"later": True})

    def __post_init__(self) -> None:
        english.check_fields(self)
        check_count(self, "wordings", low=1, high=len(english.WORDINGS))
        check_count(self, "idle", high=MOST_IDLE)
        check_count(self, "distance", high=MOST_IDLE)
        check_choice(self, "question", (IN_PROMPT, LATER))
        check_count(self, "questions", low=1, high=max(1, round(self.asked * self.facts)))
        check_count(self, "turns", low=1, high=max(1, round(self.asked * self.facts)) // self.questions)

    @cached_property
    def _samples(self) -> tuple[Sample, ...]:
        return tuple(sample for index in range(self.prompts) for sample in self._about(index))

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        """values: the share of all values that are asked for (owner, colour, thing, place, price) that are right.

        values_1 and so on: of those that the first turn asks for, if there are several turns.
        """
        assert sample.gold is not None
        given = english.values_in(english.lines_in(generation))
        texts = {"values": sample.gold.text}
        if sample.turns:
            texts |= {f"values_{at}": text for at, text in enumerate(sample.gold.text.split(MORE), 1)}
        right = {name: english.values_in(english.lines_in(text)) for name, text in texts.items()}
        return {name: english.share_right(values, given) for name, values in right.items()}

    def _about(self, index: int) -> list[Sample]:
        """All samples that ask about one list."""
        name = f"recall-{self.split}-{self.seed}-{index}"
        facts = english.make_facts(random.Random(name), english.SHOWN + self.facts, self.wordings)
        shown, made = facts[: english.SHOWN], facts[english.SHOWN :]
        asked = english.choose(random.Random(f"{name}-asked"), made, self.asked, self.order)
        context = f"{OPENING}{self._listed(name, facts)}"
        if self.questions == 1:
            return [self._sample(name, context, shown, asked)]
        parts = _parts(asked, self.questions)
        return [
            replace(self._sample(f"{name}-{at}", context, shown, part), cluster=name) for at, part in enumerate(parts)
        ]

    def _sample(self, name: str, context: str, shown: list[Fact], asked: list[Fact]) -> Sample:
        """Of a list, its text so far, and the facts that are asked for."""
        again = english.plain(piece for fact in shown for piece in fact.listed)
        first, *later = _parts(asked, self.turns)
        asking = ASKING.format(numbers=_numbers([*shown, *first]), shown=again)
        turns = tuple(f"{MORE}{_numbers(part)}.\n\n" for part in later)
        gold = [piece for fact in first for piece in fact.listed]
        for turn, part in zip(turns, later, strict=True):
            gold += [(f"\n{turn}", False), *(piece for fact in part for piece in fact.listed)]
        return Sample(
            name,
            context if self.question == LATER else context + asking,
            (),
            stop=("\n\n",),
            gold=Reference.of(gold),
            as_text=True,
            turns=turns,
            asking=asking if self.question == LATER else "",
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


def _parts(asked: list[Fact], count: int) -> list[list[Fact]]:
    """The facts in so many parts; the first of them have one more where they cannot be divided evenly."""
    each, over = divmod(len(asked), count)
    ends = [each * at + min(at, over) for at in range(count + 1)]
    return [asked[begin:end] for begin, end in pairwise(ends)]


def _numbers(facts: list[Fact]) -> str:
    return ", ".join(str(fact.number) for fact in facts)
