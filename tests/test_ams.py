"""ams in the cache: what each head holds after every step. Oracle: the formula in loops over lists of numbers."""

import random
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers.lives import Moment, check

from scope import decoding
from scope.decoding.eviction import Eviction
from scope.policy.segments import quotas, segments

BUDGET, RECENT, EVERY, WINDOW, KERNEL, SINKS = 14, 5, 6, 4, 3, 1
SHARE, SHORTEST, LONGEST, LEAST, MIX, DECAY = 0.09, 3, 6, 2, 0.6, 0.7


@dataclass(frozen=True)
class Longer(Eviction):
    """A base of the test's own: the length of the value's first numbers."""

    def score(self, attention: Any) -> Any:
        return attention.values[..., :2].square().sum(-1).float()


def normal(weights: dict[int, float]) -> dict[int, float]:
    return {x: (w + 1e-12) / sum(v + 1e-12 for v in weights.values()) for x, w in weights.items()}


def looked_at(m: Moment, head: int) -> dict[int, float]:
    """What the window's queries give each token outside the window, averaged over queries, neighbours and group."""
    asking = range(max(0, m.now - WINDOW + 1), m.now + 1)
    tokens = m.stored[head]
    older = [x for x in tokens if x <= m.now - WINDOW]
    votes = dict.fromkeys(older, 0.0)
    for query in asking:
        for share in m.life.shares(head, query, tokens):
            for x in older:
                votes[x] += share.get(x, 0.0)
    half = KERNEL // 2
    return {x: sum(votes[y] for y in older[max(0, i - half) : i + half + 1]) / KERNEL for i, x in enumerate(older)}


def cut(mass: list[float]) -> list[list[int]]:
    """Places in segments."""
    cuts, total, target = [], 0.0, SHARE
    for place, weight in enumerate(mass):
        total += weight
        while target < 1 and total >= target:
            cuts.append(min(max(place, 1), len(mass) - 1))
            target += SHARE
    borders = sorted({0, *cuts, len(mass)})
    pieces = []
    for a, b in pairwise(borders):
        while b - a > LONGEST:
            pieces.append(list(range(a, a + LONGEST)))
            a += LONGEST
        pieces.append(list(range(a, b)))
    joined: list[list[int]] = []
    for piece in pieces:
        if joined and len(joined[-1]) < SHORTEST:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def quota(pieces: list[list[int]], mass: list[float], places: int) -> list[int]:
    lengths = [len(piece) for piece in pieces]
    given = [min(LEAST, n) for n in lengths]
    least = list(given)
    if sum(given) >= places:
        least = [min(1, n) for n in lengths]
    else:
        rest = places - sum(given)
        given = [
            min(n, g + round(rest * sum(mass[i] for i in piece) / sum(mass)))
            for n, g, piece in zip(lengths, given, pieces, strict=True)
        ]
    turn = 0
    while sum(given) != places and (sum(given) < places or any(g > n for g, n in zip(given, least, strict=True))):
        i = turn % len(given)
        if sum(given) < places and given[i] < lengths[i]:
            given[i] += 1
        elif sum(given) > places and given[i] > least[i]:
            given[i] -= 1
        turn += 1
    return given


def test_segments_and_quotas_are_those_of_the_loops() -> None:
    lots = random.Random(0)
    for _ in range(300):
        count = lots.randint(2, 40)
        slots = count + lots.randint(0, 6)  # some places hold nothing
        weights = [lots.random() ** 4 + 1e-6 for _ in range(count)]
        weights = [w / sum(weights) for w in weights]
        mass = torch.tensor([*weights, *[0.0] * (slots - count)])[None, None]
        pieces = cut(weights)
        found = segments(mass, torch.tensor([[[count]]]), SHARE, SHORTEST, LONGEST)[0, 0, :count].tolist()
        assert found == [i for i, piece in enumerate(pieces) for _ in piece]
        missing = [0] * (slots // SHORTEST + 1 - len(pieces))
        lengths = torch.tensor([[[*map(len, pieces), *missing]]])
        masses = torch.tensor([[[*[sum(weights[i] for i in piece) for piece in pieces], *missing]]])
        places = lots.randint(len(pieces), count)
        given = quotas(lengths, masses, torch.tensor([[[places]]]), LEAST)[0, 0].tolist()
        assert given == [*quota(pieces, weights, places), *missing]
        assert sum(given) == places


@pytest.mark.parametrize("protect", ["nothing", "prompt"])
@pytest.mark.parametrize("budget", [BUDGET, pytest.param(6, marks=pytest.mark.slow)])  # 6: no room for `least`
def test_what_stays_is_what_the_formula_says(protect: str, budget: int) -> None:
    seen: set[int] = set()

    def choose(credit: dict[Any, float], m: Moment) -> set[int]:
        region = [x for x in m.tokens if protect == "nothing" or x >= m.life.prompt]
        votes = {h: looked_at(m, h) for h in (0, 1)}
        inside = [w for v in votes.values() for x, w in v.items() if protect == "nothing" or x >= m.life.prompt]
        most = max(inside, default=0.0)
        u = normal({x: votes[m.head].get(x, most) for x in region})
        for x in region:
            credit[x] = DECAY * credit.get(x, 0.0) + (1 - DECAY) * u[x]
        c = normal({x: credit[x] for x in region})
        mass = normal({x: MIX * u[x] + (1 - MIX) * c[x] for x in region})
        weights = [mass[x] for x in region]
        pieces = cut(weights)
        seen.add(len(pieces))
        worth = {x: sum(v * v for v in m.life.values[x][m.head][:2]) for x in region}
        within: set[int] = set()  # tokens repeat: of equal worth the newer
        places = m.places + len(region) - len(m.free)
        for piece, n in zip(pieces, quota(pieces, weights, places), strict=True):
            within |= set(sorted((region[i] for i in piece), key=lambda x: (-worth[x], -x))[:n])
        order = sorted(m.free, key=lambda x: (x < SINKS, x in within, worth[x], x), reverse=True)
        return set(order[: m.places])

    policy = decoding.AMS(
        budget, RECENT, protect, every=EVERY, base=Longer(), window=WINDOW, kernel=KERNEL, share=SHARE,
        shortest=SHORTEST, longest=LONGEST, least=LEAST, mix=MIX, decay=DECAY, sinks=SINKS,
    )  # fmt: skip
    check(policy, choose)
    assert len(seen) > 1
