"""diverse in the cache: what each head holds after every step. Oracle: the picks in loops over lists of numbers."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
from helpers.lives import Moment, best, check, cosine

from scope import decoding
from scope.decoding.eviction import Eviction

BUDGET, RECENT, EVERY, PENALTY = 9, 3, 4, 0.8


@dataclass(frozen=True)
class Longer(Eviction):
    """A base of the test's own: the length of the value's first numbers."""

    def score(self, attention: Any) -> Any:
        return attention.values[..., :2].square().sum(-1).float()


@pytest.mark.parametrize("protect", ["nothing", "prompt"])
def test_what_stays_is_picked_one_by_one(protect: str) -> None:
    others = 0

    def choose(_: dict[Any, float], m: Moment) -> set[int]:
        nonlocal others
        values = {x: m.life.values[x][m.head] for x in m.free}
        worth = {x: v[0] ** 2 + v[1] ** 2 for x, v in values.items()}
        mean = sum(worth.values()) / len(worth)
        spread = math.sqrt(sum((w - mean) ** 2 for w in worth.values()) / len(worth))
        alike = dict.fromkeys(m.free, 0.0)
        for _ in range(m.places):  # tokens repeat: of equal slots the newest
            pick = max(alike, key=lambda x: (round((worth[x] - mean) / spread - PENALTY * alike[x], 5), x))
            del alike[pick]
            alike = {x: max(a, cosine(values[x], values[pick])) for x, a in alike.items()}
        picked = set(m.free) - set(alike)
        others += picked != best(worth, m.places)
        return picked

    check(decoding.Diverse(BUDGET, RECENT, protect, every=EVERY, base=Longer(), penalty=PENALTY), choose)
    assert others > 20  # steps in which the base alone would have kept other slots
