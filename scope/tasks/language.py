"""The language of the embedded task: sums about apples, asked in shuffled order and answered in order of number.

    Question_27: Bob has as many as Answer_25 and sells 6 and finds 4. The sky looks grey.
    Answer_27: Bob has as many as Answer_25 = 55 and buys 6 and loses 4. 55 + 6 = 61. 61 - 4 = 57, so Answer_27 = 57.
    The answer is 57.

An answer needs three things from the context:
- The facts of its question. They are in the prompt, under the question's number.
- An earlier answer, if the question refers to one. It is in the generation, under that answer's number.
- The weather. In wet weather every gain is a loss, and every loss is a gain. Some questions change the weather
  ("Question_31: now wet: Leo has ..."). It then holds until the next change. In the generation only the answer to that
  question says so.

A document is a list of tokens. Its text is their plain concatenation. Constant words are joined to their neighbours
(": Bob has", " = 55"), so that no constant token stands between a question's number and the facts that belong to it. A
small model does not learn to look up by number otherwise.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain

MAX_NUMBER = 60  # questions are numbered 1..MAX_NUMBER
MAX_VALUE = 79  # every quantity is 1..MAX_VALUE
MAX_STEP = 9  # what one question adds or takes away is 1..MAX_STEP

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
OPENING = "Work out every question, showing the steps. In wet weather every gain is a loss and every loss is a gain."
QUESTION, ANSWER = "\nQuestion", "\nAnswer"
RANGE_FROM, RANGE_TO = "\nNow give Answer", " to Answer"
THEREFORE, CONCLUSION, STOP = ", so Answer", ". The answer is", "."
PLUS, MINUS = " +", " -"
NAMES = ("Ann", "Bob", "Dan", "Eve", "Ian", "Kim", "Leo", "Max", "Mia", "Sam", "Tom", "Zoe")
GAINS = (" and finds", " and buys", " and gets", " and picks")
LOSSES = (" and loses", " and sells", " and gives", " and drops")  # the opposites, in the same order
WEATHERS = DRY, WET = (": now dry", ": now wet")
SCENES = (" The sky", " The road", " A clock", " A river", " The hall", " A kite", " The shop", " A lamp")
LOOKS = (" looks", " stays", " seems", " was")
MOODS = (" grey", " quiet", " wide", " old", " bright", " cold", " small", " calm")


def number(n: int) -> str:
    return f"_{n}"


def quantity(n: int) -> str:
    return f" {n}"


def equals(n: int) -> str:
    return f" = {n}"


def has(name: str) -> str:
    return f": {name} has"


def has_as_many(name: str) -> str:
    return f": {name} has as many as Answer"


VOCABULARY: tuple[str, ...] = (
    *(PAD, BOS, EOS, OPENING, QUESTION, ANSWER, RANGE_FROM, RANGE_TO, THEREFORE, CONCLUSION, STOP, PLUS, MINUS),
    *(number(n) for n in range(1, MAX_NUMBER + 1)),
    *(quantity(n) for n in range(1, MAX_VALUE + 1)),
    *(equals(n) for n in range(1, MAX_VALUE + 1)),
    *WEATHERS,
    *chain.from_iterable((has(name), has_as_many(name)) for name in NAMES),
    *GAINS,
    *LOSSES,
    *SCENES,
    *LOOKS,
    *MOODS,
)


class Kind(IntEnum):
    """What the model has to do to predict a token. Training weighs and reports each kind separately."""

    GIVEN = 0  # part of the prompt: no loss
    FACT = 1  # copied from the question
    NUMBER = 2  # the next question's number
    REFERENCE = 3  # the value of an earlier answer
    OPERAND = 4  # copied from the same answer
    RESULT = 5  # the result of a sum
    OTHER = 6  # constant, or the end
    TURNED = 7  # a verb, copied from the question in dry weather, its opposite in wet weather


Piece = tuple[str, Kind]


def turned(verb: str) -> str:
    """The opposite of a verb, which is its meaning in wet weather."""
    return LOSSES[GAINS.index(verb)] if verb in GAINS else GAINS[LOSSES.index(verb)]


@dataclass(frozen=True)
class Step:
    """A gain or a loss.

    verb: the verb in the question. meant: the verb that it stands for in the question's weather. amount: of apples.
    """

    verb: str
    meant: str
    amount: int

    def after(self, before: int) -> int:
        return before + self.amount if self.meant in GAINS else before - self.amount


def worked(value: int, steps: Sequence[Step]) -> list[Piece]:
    """The sums of an answer, one for each step. The first starts from `value`."""
    pieces: list[Piece] = []
    for step in steps:
        if pieces:
            pieces.append((STOP, Kind.OTHER))
        pieces += [
            (quantity(value), Kind.OPERAND),
            (PLUS if step.meant in GAINS else MINUS, Kind.OPERAND),
            (quantity(step.amount), Kind.OPERAND),
            (equals(value := step.after(value)), Kind.RESULT),
        ]
    return pieces


@dataclass(frozen=True)
class Question:
    """One question: a person has some apples, and then gains or loses some.

    number: of the question. change: the weather that the question announces; None if it announces none.
    name: of the person. start: how many apples the person has at first.
    refers_to: the number of the earlier answer that `start` comes from; None if the question states it.
    steps: one or two gains or losses. filler: the tokens of sentences that no answer needs.
    """

    number: int
    change: str | None
    name: str
    start: int
    refers_to: int | None
    steps: tuple[Step, ...]
    filler: tuple[str, ...]

    @property
    def answer(self) -> int:
        value = self.start
        for step in self.steps:
            value = step.after(value)
        return value

    @property
    def heading(self) -> tuple[str, ...]:
        return (number(self.number), self.change) if self.change else (number(self.number),)

    def asked(self) -> list[Piece]:
        start: tuple[str, ...] = (has(self.name), quantity(self.start))
        if self.refers_to is not None:
            start = (has_as_many(self.name), number(self.refers_to))
        steps = chain.from_iterable((step.verb, quantity(step.amount)) for step in self.steps)
        return [(token, Kind.GIVEN) for token in (QUESTION, *self.heading, *start, *steps, STOP, *self.filler)]

    def answered(self) -> list[Piece]:
        facts: list[Piece] = [(has(self.name), Kind.FACT), (quantity(self.start), Kind.FACT)]
        if self.refers_to is not None:
            facts = [
                (has_as_many(self.name), Kind.FACT),
                (number(self.refers_to), Kind.FACT),
                (equals(self.start), Kind.REFERENCE),
            ]
        for step in self.steps:
            facts += [(step.meant, Kind.TURNED), (quantity(step.amount), Kind.FACT)]
        return [
            (ANSWER, Kind.OTHER),
            (number(self.number), Kind.NUMBER),
            *((token, Kind.FACT) for token in self.heading[1:]),
            *facts,
            (STOP, Kind.OTHER),
            *worked(self.start, self.steps),
            (THEREFORE, Kind.OTHER),
            (number(self.number), Kind.OPERAND),
            (equals(self.answer), Kind.OPERAND),
            (CONCLUSION, Kind.OTHER),
            (quantity(self.answer), Kind.OPERAND),
            (STOP, Kind.OTHER),
        ]


@dataclass(frozen=True)
class Document:
    """One prompt, its questions in order of number, and the generation of a perfect model."""

    questions: tuple[Question, ...]
    prompt: tuple[Piece, ...]
    generation: tuple[Piece, ...]


def text(pieces: Sequence[Piece]) -> str:
    """The text of the pieces, without padding and the marks of begin and end."""
    return "".join(token for token, _ in pieces if token not in (PAD, BOS, EOS))


def make_filler(rng: random.Random, most_sentences: int) -> tuple[str, ...]:
    count = rng.randint(0, most_sentences)
    return tuple(
        chain.from_iterable((rng.choice(SCENES), rng.choice(LOOKS), rng.choice(MOODS), STOP) for _ in range(count))
    )


def make_step(rng: random.Random, before: int, weather: str) -> Step:
    """A random step from `before` apples. The result stays within 1..MAX_VALUE."""
    while True:
        verb = rng.choice(GAINS + LOSSES)
        step = Step(verb, turned(verb) if weather == WET else verb, rng.randint(1, MAX_STEP))
        if 1 <= step.after(before) <= MAX_VALUE:
            return step


def make_question(
    rng: random.Random,
    at: int,
    weather: str,
    change: bool,
    earlier: Sequence[Question],
    mix: "Mix",
) -> Question:
    """A random question with the number `at`.

    weather: of the question. change: whether the question announces it.
    earlier: the questions before this one. A share of the questions, `mix.reference`, starts from an answer to one of
    them.
    """
    source = rng.choice(earlier) if earlier and rng.random() < mix.reference else None
    start = source.answer if source else rng.randint(1, MAX_VALUE)
    steps = [make_step(rng, start, weather)]
    if rng.random() < mix.second_step:
        steps.append(make_step(rng, steps[0].after(start), weather))
    return Question(
        at,
        weather if change else None,
        rng.choice(NAMES),
        start,
        source.number if source else None,
        tuple(steps),
        make_filler(rng, mix.most_filler),
    )


@dataclass(frozen=True)
class Mix:
    """How documents are composed: three shares of the questions, in 0..1, and a number of sentences."""

    reference: float = 0.3  # the questions that start from an earlier answer
    second_step: float = 0.5  # the questions with two steps
    change: float = 0.12  # the questions that change the weather
    most_filler: int = 5  # the most sentences after a question that no answer needs


def make_document(
    rng: random.Random,
    questions: int,
    mix: Mix | None = None,
    shots: int = 2,
    start: int | None = None,
    listing: random.Random | None = None,
) -> Document:
    """A random document: worked examples, then questions in shuffled order.

    questions: how many questions are asked. shots: how many worked examples stand before them.
    start: the number of the first example; None takes a random one. The questions are numbered after the examples.
    listing: the source of the shuffled order; None takes `rng`. Neither `start` nor `listing` changes the questions.
    The first example and the first question announce the weather.
    Raises ValueError if a number would exceed MAX_NUMBER.
    """
    mix = mix or Mix()
    highest_start = MAX_NUMBER - questions - shots + 1
    if highest_start < 1 or (start is not None and not 1 <= start <= highest_start):
        raise ValueError(f"{questions} questions after {shots} examples from number {start} run past {MAX_NUMBER}")
    drawn = rng.randint(1, highest_start)
    first = drawn if start is None else start
    made: list[Question] = []
    weather = rng.choice(WEATHERS)
    for i in range(shots + questions):
        change = i in (0, shots)
        if change:
            weather = rng.choice(WEATHERS)
        elif rng.random() < mix.change:
            change, weather = True, DRY if weather == WET else WET
        made.append(make_question(rng, first + i, weather, change, made, mix))
    examples, asked = made[:shots], made[shots:]
    listed = (listing or rng).sample(asked, len(asked))
    prompt: list[Piece] = [(BOS, Kind.GIVEN), (OPENING, Kind.GIVEN)]
    for question in examples:
        prompt += question.asked()
    for question in examples:
        prompt += question.answered()
    for question in listed:
        prompt += question.asked()
    bounds = (RANGE_FROM, number(asked[0].number), RANGE_TO, number(asked[-1].number), STOP)
    prompt += [(token, Kind.GIVEN) for token in bounds]
    generation = [piece for question in asked for piece in question.answered()]
    generation.append((EOS, Kind.OTHER))
    return Document(tuple(asked), tuple(prompt), tuple(generation))
