"""Facts in plain English for the recall tasks: who sells what, of which colour, where it is, and what it costs."""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
    *("lantern", "piano", "pillow", "plate", "radio", "rope", "saddle", "shovel", "stove", "table", "tent", "towel"),
    *("trunk", "vase", "violin", "wagon", "wallet", "whistle", "wheel", "window"),
)
COLOURS = ("green", "red", "blue", "yellow", "brown", "black", "white", "grey", "pink", "purple", "silver", "golden")
OWNERS = (
    *("Alice", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Jack", "Karen", "Leon", "Maria", "Nina"),
    *("Oscar", "Paul", "Rose", "Simon", "Victor", "Wendy", "Adam", "Bella", "Carlos", "Diana", "Eric", "George"),
    *("Hannah", "Ivan", "Julia", "Kevin", "Laura", "Martin", "Oliver", "Peter", "Rachel", "Samuel", "Teresa", "Vera"),
    *("Walter", "Anna", "Brian", "Cecil", "Daisy", "Edgar", "Flora", "Helen", "Isaac", "Jenny", "Kurt", "Miles"),
)
PLACES = (
    *(
        "attic",
        "barn",
        "garage",
        "garden",
        "kitchen",
        "library",
        "office",
        "hall",
        "shed",
        "studio",
        "tower",
        "bedroom",
    ),
    *("chapel", "corridor", "factory", "harbour", "hotel", "market", "museum", "school", "stable", "theatre"),
    *("workshop", "yard", "station"),
)
LEAST_PRICE, MOST_PRICE = 11, 99  # in dollars
VALUES = ("owner", "colour", "kind", "place", "price")  # of a fact
WORDINGS = (  # no two begin alike: a small model finds a sentence again by how it begins
    "The {kind} is {colour}, and {owner} keeps it in the {place} until somebody pays {price} dollars.",
    "{owner} has put a price of {price} dollars on the {colour} {kind} that stands in the {place}.",
    "Look in the {place} for a {colour} {kind}; {owner} will sell it to you for {price} dollars.",
    "Whoever gives {price} dollars to {owner} may take the {colour} {kind} out of the {place}.",
    "A {kind} was left in the {place} by {owner}, painted {colour}, at {price} dollars.",
    "If you want something {colour}, {owner} offers a {kind} at {price} dollars, to be fetched from the {place}.",
    "Nobody has yet bought the {kind} of {owner}: it is {colour}, lies in the {place}, and costs {price} dollars.",
    "For just {price} dollars the {colour} {kind} can be yours, says {owner}, who stored it in the {place}.",
    "Under a cloth in the {place} is the {kind} that {owner} once painted {colour}; {price} dollars is what it takes.",
    "{owner}'s old {kind}, now {colour}, went to the {place} and is marked {price} dollars.",
    "Some {price} dollars would buy the {kind} seen last week in the {place}, a {colour} one, from {owner}.",
    "There is also the {colour} {kind}, which {owner} hopes to sell at {price} dollars; ask for it at the {place}.",
    "People say that {owner} would let the {kind} go for {price} dollars, as its {colour} paint fades in the {place}.",
    "Bring {price} dollars to the {place} and {owner} hands you a {kind} of {colour} wood.",
    "One more thing: a {colour} {kind}, {price} dollars, with {owner}, behind the door of the {place}.",
    "Because the {place} is full, {owner} must part with a {colour} {kind} and asks {price} dollars.",
    "Last winter {owner} carried a {kind} into the {place}; it is {colour} and worth {price} dollars.",
    "Not many know of the {colour} {kind} in the {place}, though {owner} asks only {price} dollars.",
    "Tell {owner} that {price} dollars is fair for a {colour} {kind} which has stood in the {place} for years.",
    "My neighbour {owner} no longer wants the {kind}, all {colour}, and would take {price} dollars at the {place}.",
    "Every visitor of the {place} sees the {colour} {kind} first; {owner} wrote {price} dollars on it.",
    "Wrapped in paper, the {kind} belonging to {owner} waits at the {place}: {colour}, {price} dollars.",
    "You could spend {price} dollars on worse than the {colour} {kind} from {owner}, kept dry in the {place}.",
    "At the {place} somebody found a {kind}, quite {colour}, that {owner} sells at {price} dollars.",
    "After the move {owner} had no room for a {colour} {kind}, so it sits in the {place} for {price} dollars.",
    "Early in spring the {kind} came to the {place} by train; {owner} has it in {colour} and wants {price} dollars.",
    "Should anybody need a {kind}, there is a {colour} one in the {place} for {price} dollars, thanks to {owner}.",
    "Once it was dull, but {owner} made the {kind} {colour} again, and now {price} dollars buys it at the {place}.",
    "Please do not touch the {colour} {kind} in the {place} before {owner} has got {price} dollars.",
    "In good order and {colour}, this {kind} costs {price} dollars; {owner} shows it in the {place} on Sundays.",
    "With {price} dollars in hand, ask {owner} about the {kind} at the {place}, the one in {colour}.",
    "Our friend {owner} would be glad to see the {colour} {kind} leave the {place}, even at {price} dollars.",
    "Hidden behind boxes at the {place}, a {kind} as {colour} as can be is sold by {owner} for {price} dollars.",
    "Twice already {owner} has lowered the price of the {kind} in the {place}, {colour} and light, to {price} dollars.",
    "Children like the {colour} {kind} best, which {owner} lends from the {place} or sells for {price} dollars.",
    "This year {owner} gives the {kind}, {colour} on both sides, to whoever brings {price} dollars to the {place}.",
    "Only {price} dollars, says a note in the {place}, for a {kind} that is {colour}; the note is signed by {owner}.",
    "Having bought another, {owner} offers the first {kind}, a {colour} model, at the {place} for {price} dollars.",
    "Between two shelves of the {place} stands a {colour} {kind} with a tag of {price} dollars, signed {owner}.",
    "Perhaps the {kind} is too big, since {owner} wants it out of the {place} for {price} dollars, {colour} as it is.",
)
IDLE = (  # sentences that no answer needs, of the same world
    "Nobody has asked about it today.",
    "A visitor looked at it for a long time.",
    "The label on it has to be written again.",
    "Two men wanted to know how old it is.",
    "It will be cleaned before the holidays.",
    "The rain has done it no harm.",
    "A stranger took a picture of it.",
    "It was moved twice in the same week.",
    "The varnish on one side is still wet.",
    "Someone tied a ribbon around it.",
    "It is heavier than it looks.",
    "Dust has settled on it again.",
)
SHOWN = 2  # facts, the first of a list, that a prompt shows said again
MOST_FACTS = min(len(OWNERS), len(KINDS), len(WORDINGS)) - SHOWN
ORDERS = ("listed", "reversed", "shuffled")
MOST_PROMPTS = 10_000  # all are held in memory at once

Words = Mapping[int, Sequence[str]]  # number of a fact -> what a line says of it


@dataclass(frozen=True)
class Fact:
    """One item of a list, and the sentence that says it: a text with {owner} and so on in it."""

    number: int
    owner: str
    colour: str
    kind: str
    place: str
    price: int
    wording: str

    @property
    def said(self) -> list[tuple[str, bool]]:
        """The sentence, each part with whether it is a value."""
        parts = re.split(r"\{(\w+)\}", self.wording)  # text, name, text, name, ... text
        return [(str(getattr(self, part)) if at % 2 else part, bool(at % 2)) for at, part in enumerate(parts)]

    @property
    def listed(self) -> list[tuple[str, bool]]:
        """The line that a list has for it."""
        return [(f"Item {self.number}: ", False), *self.said, ("\n", False)]


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


def make_facts(rng: random.Random, count: int, wordings: int = len(WORDINGS)) -> list[Fact]:
    """Facts numbered from 1, with as many different sentences as `wordings`.

    No owner, thing or price comes twice. No colour, place or sentence does before all others came as often.
    """
    owners, kinds = rng.sample(OWNERS, count), rng.sample(KINDS, count)
    prices = rng.sample(range(LEAST_PRICE, MOST_PRICE + 1), count)
    colours, places, chosen = (
        rng.sample(words, most)
        for words, most in ((COLOURS, len(COLOURS)), (PLACES, len(PLACES)), (WORDINGS, wordings))
    )
    return [
        Fact(
            at + 1,
            owners[at],
            colours[at % len(colours)],
            kinds[at],
            places[at % len(places)],
            prices[at],
            chosen[at % wordings],
        )
        for at in range(count)
    ]


def choose(rng: random.Random, made: Sequence[Fact], share: float, order: str) -> list[Fact]:
    """The facts that are asked for, at least one, in the order in which they are."""
    chosen = sorted(rng.sample(range(len(made)), max(1, round(share * len(made)))), reverse=order == "reversed")
    if order == "shuffled":
        rng.shuffle(chosen)
    return [made[at] for at in chosen]


def plain(pieces: Iterable[tuple[str, bool]]) -> str:
    return "".join(text for text, _ in pieces)


_WORDS = {"owner": OWNERS, "colour": COLOURS, "kind": KINDS, "place": PLACES}
_FIRST = {name: re.compile(rf"\b({'|'.join(words)})\b") for name, words in _WORDS.items()}
_FIRST["price"] = re.compile(r"(?<![\w.,])(\d+)(?![\w]|[.,]\d)")
_ITEM = re.compile(r"^\W*Item (\d{1,9}):([^\n]*)", re.MULTILINE)


def lines_in(text: str) -> dict[int, str]:
    """Number -> what a text says of the item, in a line of its own; of a number that comes twice the first."""
    return {int(number): line for number, line in reversed(_ITEM.findall(text))}


def values_in(lines: Mapping[int, str]) -> Words:
    """Of each kind of value the first that a line names; its first number is the price."""
    found = {n: [pattern.search(text) for pattern in _FIRST.values()] for n, text in lines.items()}
    return {n: [one[1] if one else "" for one in values] for n, values in found.items()}


def share_right(expected: Words, given: Words) -> float:
    """The share of the expected words that stand in the same place of the same number, in 0..1."""
    pairs = [(words[at], given.get(n, [])[at : at + 1]) for n, words in expected.items() for at in range(len(words))]
    return sum([word] == there for word, there in pairs) / len(pairs) if pairs else 0.0
