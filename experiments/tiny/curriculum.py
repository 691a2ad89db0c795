"""What the embedded model is trained on: batches of copies, sums, look-ups and whole documents, stage by stage."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scope.tasks import language
from scope.tasks.language import Kind, Piece

INDEX = {token: i for i, token in enumerate(language.VOCABULARY)}
LENGTHS = 32  # of a batch's rows come in multiples of this
CONTENT = language.VOCABULARY[INDEX[language.quantity(1)] :]  # whatever a question's facts and fillers are made of


@dataclass(frozen=True)
class Stage:
    """One step of the curriculum: the mix of batches, their lengths, and when to move on."""

    name: str
    tokens: int
    mix: dict[str, float]
    copy_questions: tuple[int, int]
    document_questions: tuple[int, int] = (0, 0)
    document: dict[str, float] = field(default_factory=dict)
    latest: float = 1.0
    until: list[str] = field(default_factory=list)


def copy(rng: random.Random, questions: int) -> list[Piece]:
    """Pure look-up by number: random content under random numbers, asked for in another order."""
    numbers = rng.sample(range(1, language.MAX_NUMBER + 1), questions)
    content = {n: rng.choices(CONTENT, k=rng.randint(3, 6)) for n in numbers}
    pieces: list[Piece] = [(language.BOS, Kind.GIVEN), (language.OPENING, Kind.GIVEN)]
    for n in numbers:
        tokens = (language.QUESTION, language.number(n), *content[n], language.STOP)
        pieces += [(token, Kind.GIVEN) for token in tokens]
    for n in rng.sample(numbers, questions):
        pieces += [(language.ANSWER, Kind.GIVEN), (language.number(n), Kind.GIVEN)]
        pieces += [(token, Kind.FACT) for token in content[n]]
        pieces += [(language.STOP, Kind.OTHER)]
    return pieces


def turn(rng: random.Random, questions: int) -> list[Piece]:
    """Verbs turned by the weather, densely."""
    numbers = rng.sample(range(1, language.MAX_NUMBER + 1), questions)
    verbs = {n: rng.choices(language.GAINS + language.LOSSES, k=3) for n in numbers}
    pieces: list[Piece] = [(language.BOS, Kind.GIVEN), (language.OPENING, Kind.GIVEN)]
    for n in numbers:
        tokens = (language.QUESTION, language.number(n), *verbs[n], language.STOP)
        pieces += [(token, Kind.GIVEN) for token in tokens]
    weather = ""
    for n in rng.sample(numbers, questions):
        pieces += [(language.ANSWER, Kind.GIVEN), (language.number(n), Kind.GIVEN)]
        if not weather or rng.random() < 0.4:
            weather = rng.choice(language.WEATHERS)
            pieces += [(weather, Kind.GIVEN)]
        meant = [language.turned(verb) if weather == language.WET else verb for verb in verbs[n]]
        pieces += [(verb, Kind.TURNED) for verb in meant]
        pieces += [(language.STOP, Kind.OTHER)]
    return pieces


def lookup(rng: random.Random, questions: int) -> list[Piece]:
    """Earlier answers' values, asked for again and again."""
    numbers = rng.sample(range(1, language.MAX_NUMBER + 1), questions)
    value = {n: language.equals(rng.randint(1, language.MAX_VALUE)) for n in numbers}
    pieces: list[Piece] = [(language.BOS, Kind.GIVEN), (language.OPENING, Kind.GIVEN)]
    for n in numbers:
        tokens = (language.THEREFORE, language.number(n), value[n], language.STOP)
        pieces += [(token, Kind.GIVEN) for token in tokens]
    for n in rng.choices(numbers, k=questions):
        asked = (language.has_as_many(rng.choice(language.NAMES)), language.number(n))
        pieces += [(token, Kind.GIVEN) for token in asked]
        pieces += [(value[n], Kind.REFERENCE), (language.STOP, Kind.OTHER)]
    return pieces


def equations(rng: random.Random, questions: int) -> list[Piece]:
    """The table of sums, densely."""
    pieces: list[Piece] = [(language.BOS, Kind.GIVEN), (language.OPENING, Kind.GIVEN)]
    for _ in range(4 * questions):
        value = rng.randint(1, language.MAX_VALUE)
        step = language.make_step(rng, value, language.DRY)
        *operands, result = language.worked(value, [step])
        pieces += [(token, Kind.GIVEN) for token, _ in operands]
        pieces += [result, (language.STOP, Kind.OTHER)]
    return pieces


def batch(rng: random.Random, kind: str, questions: int, stage: Stage, tokens: int) -> tuple[Tensor, Tensor]:
    """As many rows as fit in `tokens` -> token ids [B, T] (right-padded) and kinds [B, T] int64.

    T is a multiple of LENGTHS: torch keeps memory for every shape that it meets.
    """

    def document(rng: random.Random, questions: int) -> list[Piece]:
        made = language.make_document(rng, questions, language.Mix(**stage.document))
        return [*made.prompt, *made.generation]

    make: dict[str, Callable[[random.Random, int], list[Piece]]] = {
        "copy": copy,
        "turn": turn,
        "lookup": lookup,
        "equations": equations,
        "document": document,
    }
    rows: list[list[Piece]] = []
    longest = 0
    while True:
        row = make[kind](rng, questions)
        length = max(longest, LENGTHS * math.ceil(len(row) / LENGTHS))
        if rows and length * (len(rows) + 1) > tokens:
            break
        rows.append(row)
        longest = length
    ids = torch.full((len(rows), longest), INDEX[language.PAD])
    kinds = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor([INDEX[token] for token, _ in row])
        kinds[i, : len(row)] = torch.tensor([kind for _, kind in row])
    return ids, kinds
