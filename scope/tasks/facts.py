"""Facts in plain English for the recall tasks: who owns what, of which colour, where it is, and what it costs."""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scope.scoring.aligned import under_headers
from scope.scoring.answer import Question
from scope.tasks.task import SPLITS
from scope.util.errors import SettingError, check_choice, check_count

KINDS = (
    *(
        "lamp",
        "chair",
        "clock",
        "drum",
        "kettle",
        "ladder",
        "mirror",
        "basket",
        "bicycle",
        "blanket",
        "bottle",
        "bucket",
    ),
    *("camera", "carpet", "coat", "desk", "flute", "guitar", "hammer", "hat", "helmet", "jacket", "jar", "kite"),
    *("lantern", "mug", "piano", "pillow", "plate", "radio", "rope", "saddle", "scarf", "shovel", "sofa", "stove"),
    *("suitcase", "table", "tent", "towel", "trunk", "vase", "violin", "wagon", "wallet", "whistle", "wheel", "window"),
)
COLOURS = ("green", "red", "blue", "yellow", "brown", "black", "white", "grey", "pink", "purple", "silver", "golden")
OWNERS = (
    *("Alice", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Irene", "Jack", "Karen", "Leon", "Maria"),
    *("Nina", "Oscar", "Paul", "Quentin", "Rose", "Simon", "Tina", "Victor", "Wendy", "Xavier", "Yara", "Zack", "Adam"),
    *("Bella", "Carlos", "Diana", "Eric", "Fiona", "George", "Hannah", "Ivan", "Julia", "Kevin", "Laura", "Martin"),
    *("Nora", "Oliver", "Peter", "Rachel", "Samuel", "Teresa", "Ursula", "Vera", "Walter", "Yusuf", "Anna", "Brian"),
    *("Cecil", "Daisy", "Edgar", "Flora", "Gavin", "Helen", "Isaac", "Jenny", "Kurt", "Lydia", "Miles", "Olga"),
)
PLACES = (
    *("attic", "barn", "cellar", "garage", "garden", "kitchen", "library", "office", "hall", "shed", "studio", "tower"),
    *(
        "bedroom",
        "chapel",
        "corridor",
        "factory",
        "harbour",
        "hotel",
        "market",
        "museum",
        "school",
        "stable",
        "theatre",
    ),
    *("workshop", "yard", "station"),
)
LEAST_PRICE, MOST_PRICE = 11, 99  # in dollars; no two facts of a prompt have the same
VALUES = ("owner", "colour", "kind", "place", "price")  # of a fact, in the order of an answer
WORDINGS = (
    "{owner} has a {colour} {kind} in the {place}, and its price is {price} dollars.",
    "In the {place} is a {colour} {kind}, which {owner} sells for {price} dollars.",
    "A {colour} {kind} costs {price} dollars. It belongs to {owner} and is in the {place}.",
    "The {kind} in the {place} is {colour}. {owner} wants {price} dollars for it.",
    "For {price} dollars there is the {colour} {kind} that {owner} left in the {place}.",
    "{owner} asks {price} dollars for a {kind}. It is {colour}, and it stands in the {place}.",
)
IDLE = (  # sentences that no answer needs, about the same world
    "Nobody has asked about it today.",
    "A visitor looked at it for a long time.",
    "It came here by train last spring.",
    "The label on it has to be written again.",
    "Two children wanted to know how old it is.",
    "It will be cleaned before the holidays.",
    "The rain has done it no harm.",
    "A neighbour took a picture of it.",
    "It was moved twice in the same week.",
    "The paint on one side is still wet.",
    "Someone tied a paper ribbon around it.",
    "It is heavier than it looks.",
)


@dataclass(frozen=True)
class Fact:
    """One item of a list."""

    number: int
    owner: str
    colour: str
    kind: str
    place: str
    price: int

    @property
    def values(self) -> dict[str, str]:
        return {name: str(getattr(self, name)) for name in VALUES}

    def listed(self, wording: str) -> list[tuple[str, bool]]:
        """The fact as the list has it, each part with whether it is a value."""
        parts = re.split(r"\{(\w+)\}", wording)  # text, name, text, name, ... text
        said = [(self.values[part] if at % 2 else part, bool(at % 2)) for at, part in enumerate(parts)]
        return [(f"Item {self.number}: ", False), *said]

    def answered(self) -> list[tuple[str, bool]]:
        """The fact as an answer has it, each part with whether it is a value. The scorers read the price."""
        return [
            (f"Answer_{self.number}: ", False),
            (self.owner, True),
            ("'s ", False),
            (self.colour, True),
            (" ", False),
            (self.kind, True),
            (" is in the ", False),
            (self.place, True),
            (". The answer is ", False),
            (str(self.price), True),
            (".", False),
        ]


SHOTS = 2  # facts that a prompt shows with their answers; they bear the first numbers
MOST_FACTS = min(len(OWNERS), MOST_PRICE - LEAST_PRICE + 1) - SHOTS
ORDERS = ("listed", "reversed", "shuffled")
MOST_PROMPTS = 10_000  # all are held in memory at once


def check_fields(task: object) -> None:
    """Refuse what cannot be of the fields that all tasks of facts have. Raises SettingError."""
    check_count(task, "facts", low=1, high=MOST_FACTS)
    share = getattr(task, "asked", None)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise SettingError(task, "asked", share, "a number above 0 and at most 1: the share of the facts")
    check_choice(task, "order", ORDERS)
    check_count(task, "max_new_tokens", low=1)
    check_choice(task, "split", SPLITS)
    check_count(task, "seed")
    check_count(task, "prompts", low=1, high=MOST_PROMPTS)


def make_facts(rng: random.Random, count: int) -> tuple[list[Fact], list[Fact]]:
    """-> `SHOTS` facts to show, and `count` others, numbered from 1.

    No owner, price, or colour of a kind comes twice; kinds, colours and places may.
    """
    count += SHOTS
    owners = rng.sample(OWNERS, count)
    things = rng.sample([(colour, kind) for colour in COLOURS for kind in KINDS], count)
    prices = rng.sample(range(LEAST_PRICE, MOST_PRICE + 1), count)
    made = [
        Fact(number, owner, colour, kind, rng.choice(PLACES), price)
        for number, (owner, (colour, kind), price) in enumerate(zip(owners, things, prices, strict=True), start=1)
    ]
    return made[:SHOTS], made[SHOTS:]


def choose(rng: random.Random, made: Sequence[Fact], share: float, order: str) -> list[Fact]:
    """The facts that are asked for, at least one, in the order in which they are."""
    chosen = sorted(rng.sample(range(len(made)), max(1, round(share * len(made)))), reverse=order == "reversed")
    if order == "shuffled":
        rng.shuffle(chosen)
    return [made[at] for at in chosen]


def plain(pieces: Iterable[tuple[str, bool]]) -> str:
    return "".join(text for text, _ in pieces)


WORDS: Mapping[str, Sequence[str]] = {"owner": OWNERS, "colour": COLOURS, "kind": KINDS, "place": PLACES}
_FIRST = {name: re.compile(rf"\b({'|'.join(words)})\b") for name, words in WORDS.items()}
_FIRST["price"] = re.compile(r"(?<![\w.,])(\d+)(?![\w]|[.,]\d)")
_ITEM = re.compile(r"^\W*Item (\d{1,9}):", re.MULTILINE)


def values_in(text: str) -> dict[str, str]:
    """Of each kind of value the first that is named in a text; the first number is the price."""
    return {name: found[1] for name, pattern in _FIRST.items() if (found := pattern.search(text))}


def listed_in(text: str) -> dict[int, dict[str, str]]:
    """Number -> values of the items that a text lists, each in its own line; of a number that comes twice the first."""
    found: dict[int, dict[str, str]] = {}
    for header in _ITEM.finditer(text):
        line = text[header.end() :].partition("\n")[0]
        found.setdefault(int(header[1]), values_in(line))
    return found


def answered_in(text: str, numbers: Iterable[int]) -> dict[int, dict[str, str]]:
    """Number -> values of the answers that a text gives; of a number that comes twice the first."""
    blocks = under_headers([Question(number, "") for number in numbers], text)
    return {number: values_in(parts[0]) for number, parts in blocks.items() if parts}


def share_right(asked: Mapping[int, Mapping[str, str]], given: Mapping[int, Mapping[str, str]]) -> float:
    """Of all values of the facts asked, the share that the facts given have too, in 0..1. What is missing is wrong."""
    right = [
        given.get(n, {}).get(name) == values.get(name) is not None for n, values in asked.items() for name in VALUES
    ]
    return sum(right) / len(right) if right else 0.0
