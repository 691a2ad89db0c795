"""The embedded task's language: sums about apples, asked in shuffled order, answered in order of number.

    Question_27: Bob has as many as Answer_25 and sells 2. The sky looks grey.
    Answer_27: Bob has as many as Answer_25 = 55 and sells 2. 55 - 2 = 53, so Answer_27 = 53. The answer is 53.

A document is a list of tokens whose plain concatenation is its text. The vocabulary is made so that no constant
token stands between a question's number and what has to be retrieved with it (constant words are part of their
neighbours: ": Bob has", " = 55"): a small model learns look-up by number only then.
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
OPENING = "Work out every question, showing the step."
QUESTION, ANSWER = "\nQuestion", "\nAnswer"
RANGE_FROM, RANGE_TO = "\nNow give Answer", " to Answer"
THEREFORE, CONCLUSION, STOP = ", so Answer", ". The answer is", "."
PLUS, MINUS = " +", " -"
NAMES = ("Ann", "Bob", "Dan", "Eve", "Ian", "Kim", "Leo", "Max", "Mia", "Sam", "Tom", "Zoe")
GAINS = (" and finds", " and buys", " and wins", " and picks")
LOSSES = (" and sells", " and loses", " and eats", " and gives")
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
    *chain.from_iterable((has(name), has_as_many(name)) for name in NAMES),
    *GAINS,
    *LOSSES,
    *SCENES,
    *LOOKS,
    *MOODS,
)


class Kind(IntEnum):
    """What a token asks of the model; training weighs and reports each kind apart."""

    GIVEN = 0  # part of the prompt: no loss
    FACT = 1  # copied from the question
    NUMBER = 2  # the next question's number
    REFERENCE = 3  # the value of an earlier answer
    OPERAND = 4  # copied from within the answer
    RESULT = 5  # the sum itself
    OTHER = 6  # constant, or the end


Piece = tuple[str, Kind]


@dataclass(frozen=True)
class Question:
    """One question: `name` has `start` (or as many as answer `refers_to`) and gains or loses `step`."""

    number: int
    name: str
    start: int
    refers_to: int | None
    verb: str
    step: int
    filler: tuple[str, ...]

    @property
    def answer(self) -> int:
        return self.start + self.step if self.verb in GAINS else self.start - self.step

    def asked(self) -> list[Piece]:
        start = (has(self.name), quantity(self.start))
        if self.refers_to is not None:
            start = (has_as_many(self.name), number(self.refers_to))
        tokens = (QUESTION, number(self.number), *start, self.verb, quantity(self.step), STOP, *self.filler)
        return [(token, Kind.GIVEN) for token in tokens]

    def sum(self) -> list[Piece]:
        return [
            (quantity(self.start), Kind.OPERAND),
            (PLUS if self.verb in GAINS else MINUS, Kind.OPERAND),
            (quantity(self.step), Kind.OPERAND),
            (equals(self.answer), Kind.RESULT),
        ]

    def answered(self) -> list[Piece]:
        facts: list[Piece] = [(has(self.name), Kind.FACT), (quantity(self.start), Kind.FACT)]
        if self.refers_to is not None:
            facts = [
                (has_as_many(self.name), Kind.FACT),
                (number(self.refers_to), Kind.FACT),
                (equals(self.start), Kind.REFERENCE),
            ]
        return [
            (ANSWER, Kind.OTHER),
            (number(self.number), Kind.NUMBER),
            *facts,
            (self.verb, Kind.FACT),
            (quantity(self.step), Kind.FACT),
            (STOP, Kind.OTHER),
            *self.sum(),
            (THEREFORE, Kind.OTHER),
            (number(self.number), Kind.OPERAND),
            (equals(self.answer), Kind.OPERAND),
            (CONCLUSION, Kind.OTHER),
            (quantity(self.answer), Kind.OPERAND),
            (STOP, Kind.OTHER),
        ]


@dataclass(frozen=True)
class Document:
    """One prompt with its questions in order of number, and the generation a perfect model would give."""

    questions: tuple[Question, ...]
    prompt: tuple[Piece, ...]
    generation: tuple[Piece, ...]


def text(pieces: Sequence[Piece]) -> str:
    """The pieces as a reader sees them."""
    return "".join(token for token, _ in pieces if token not in (PAD, BOS, EOS))


def make_filler(rng: random.Random, most_sentences: int) -> tuple[str, ...]:
    count = rng.randint(0, most_sentences)
    return tuple(
        chain.from_iterable((rng.choice(SCENES), rng.choice(LOOKS), rng.choice(MOODS), STOP) for _ in range(count))
    )


def make_question(
    rng: random.Random, at: int, earlier: Sequence[Question], reference_share: float, most_filler: int
) -> Question:
    """A question numbered `at`; with probability `reference_share` it starts from an `earlier` answer."""
    source = rng.choice(earlier) if earlier and rng.random() < reference_share else None
    start = source.answer if source else rng.randint(1, MAX_VALUE)
    while True:
        verb, step = rng.choice(GAINS + LOSSES), rng.randint(1, MAX_STEP)
        if 1 <= (start + step if verb in GAINS else start - step) <= MAX_VALUE:
            break
    filler = make_filler(rng, most_filler)
    return Question(at, rng.choice(NAMES), start, source.number if source else None, verb, step, filler)


def make_document(
    rng: random.Random,
    questions: int,
    shots: int = 2,
    start: int | None = None,
    reference_share: float = 0.3,
    most_filler: int = 3,
) -> Document:
    """Worked examples numbered on from `start` (random if None), then `questions` listed in shuffled order.

    Raises ValueError where the numbers would run past MAX_NUMBER.
    """
    highest_start = MAX_NUMBER - questions - shots + 1
    if highest_start < 1 or (start is not None and not 1 <= start <= highest_start):
        raise ValueError(f"{questions} questions after {shots} examples from number {start} run past {MAX_NUMBER}")
    first = start if start is not None else rng.randint(1, highest_start)
    made: list[Question] = []
    for at in range(first, first + shots + questions):
        made.append(make_question(rng, at, made, reference_share, most_filler))
    examples, asked = made[:shots], made[shots:]
    listed = rng.sample(asked, len(asked))
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
