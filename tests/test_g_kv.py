"""g_kv in the cache: what each head holds after every step. Oracle: the formula in loops over lists of numbers."""

import math
from typing import Any

import pytest
from helpers.lives import Life, Moment, best, check, cosine

from scope import decoding

BUDGET, RECENT, EVERY, WINDOW = 8, 5, 4, 4


def redundancy(life: Life, head: int, tokens: list[int]) -> dict[int, float]:
    """R-KV's redundancy, but for the exponential's constant factor: it is divided by the largest."""
    mean = dict.fromkeys(tokens, 0.0)
    for i in tokens:
        alike = {j: cosine(life.keys[i][head], life.keys[j][head]) for j in tokens if j != i}
        alike = {j: x for j, x in alike.items() if x > 0.5}
        if alike:
            del alike[max(alike)]
        for j, x in alike.items():
            mean[j] += x / len(tokens)
    return {j: math.exp(x) for j, x in mean.items()}


@pytest.mark.parametrize("protect", ["nothing", pytest.param("prompt", marks=pytest.mark.slow)])
def test_what_stays_is_what_the_formula_says(protect: str) -> None:
    def choose(memory: dict[Any, float], m: Moment) -> set[int]:
        older = [x for x in m.tokens if x <= m.now - WINDOW]
        asking = range(max(0, m.now - WINDOW + 1), m.now + 1)
        attention = dict.fromkeys(older, 0.0)
        for query in asking:
            shares = m.life.shares(m.head, query, m.tokens)
            for x in older:
                attention[x] += max(share.get(x, 0.0) for share in shares) / len(asking)
        most = max(attention.values())
        for x in older:
            memory[x] = max(0.7 * memory.get(x, 0.0), attention[x] / most)
        alike = redundancy(m.life, m.head, m.tokens)
        largest = max(alike[x] for x in older)
        return best({x: 0.4 * memory[x] - 0.6 * alike[x] / largest for x in m.free}, m.places)

    policy = decoding.GKV(BUDGET, RECENT, protect=protect, every=EVERY, window=WINDOW, decay=0.7, balance=0.4)
    check(policy, choose)
