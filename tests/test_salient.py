"""salient in the cache: what each head holds after every step, and what is left of a prompt. Oracle: the formula in
loops over lists of numbers."""

import math
from statistics import fmean, pstdev
from typing import Any

import pytest
from helpers.lives import C, Life, Moment, best, check, cosine, lives

from scope import decoding, prefill

BUDGET, RECENT, EVERY, WINDOW, KERNEL = 8, 5, 4, 3, 3


def standard(numbers: dict[int, float]) -> dict[int, float]:
    mean, spread = fmean(numbers.values()), pstdev(numbers.values())
    return {x: (number - mean) / max(spread, 1e-6) for x, number in numbers.items()}


def unlike(states: dict[int, list[float]]) -> dict[int, float]:
    """Minus the cosine of each to the mean direction of all."""
    directions = [[x / math.hypot(*state) for x in state] for state in states.values()]
    mean = [sum(column) for column in zip(*directions, strict=True)]
    return {x: -cosine(state, mean) for x, state in states.items()}


def expected(
    votes: dict[int, float],
    keys: dict[int, list[float]],
    values: dict[int, list[float]],
    free: list[int],
    weight: float,
) -> dict[int, float]:
    """The score of the free tokens; votes: of all tokens, in the order of position, 0 in the window."""
    order = sorted(votes)
    pooled = {
        x: max(votes[y] for y in order[max(0, i - KERNEL // 2) : i + KERNEL // 2 + 1]) for i, x in enumerate(order)
    }
    apart = {x: one + other for (x, one), other in zip(unlike(keys).items(), unlike(values).values(), strict=True)}
    attended = standard({x: math.log(pooled[x] + 1e-6) for x in free})
    alone = standard({x: apart[x] for x in free})
    return {x: attended[x] + weight * alone[x] for x in free}


def votes_of(life: Life, head: int, tokens: list[int], now: int) -> dict[int, float]:
    """What the last queries give each token, the mean over the query heads; 0 in their own window."""
    votes = dict.fromkeys(tokens, 0.0)
    for query in range(max(0, now - WINDOW + 1), now + 1):
        shares = life.shares(head, query, tokens)
        for x in tokens:
            if x <= now - WINDOW:
                votes[x] += sum(share.get(x, 0.0) for share in shares) / len(shares)
    return votes


@pytest.mark.parametrize(
    ("protect", "weight", "prompt"),
    [("nothing", 1.0, 0.0), ("nothing", 0.5, 0.8), pytest.param("prompt", 2.0, 0.8, marks=pytest.mark.slow)],
)
def test_what_stays_is_what_the_formula_says(protect: str, weight: float, prompt: float) -> None:
    def choose(memory: dict[Any, float], m: Moment) -> set[int]:
        votes = votes_of(m.life, m.head, m.tokens, m.now)
        keys, values = ({x: states[x][m.head] for x in m.tokens} for states in (m.life.keys, m.life.values))
        score = expected(votes, keys, values, list(m.free), weight)
        ahead = prompt if protect == "nothing" else 0.0
        return best({x: score[x] + ahead * (x < m.life.prompt) for x in m.free}, m.places)

    policy = decoding.Salient(
        BUDGET, RECENT, protect=protect, every=EVERY, window=WINDOW, kernel=KERNEL, weight=weight, prompt=prompt
    )
    check(policy, choose)


def test_what_is_left_of_a_prompt_is_what_the_formula_says() -> None:
    method = prefill.Salient(C, WINDOW, kernel=KERNEL, weight=0.7)
    seen = 0
    for life in lives(decoding.SnapKVD(BUDGET, RECENT, every=EVERY, window=WINDOW), method):
        for head, held in enumerate(life.held[0]):
            tokens = list(range(life.prompt))
            free = tokens[:-WINDOW]
            keys, values = ({x: states[x][head] for x in tokens} for states in (life.keys, life.values))
            votes = votes_of(life, head, tokens, life.prompt - 1)
            score = expected(votes, keys, values, free, 0.7)
            kept = set(sorted(free, key=lambda x: -score[x])[: C - WINDOW]) if life.prompt > C else set(free)
            assert set(held) == kept | set(tokens[-WINDOW:])
            seen += life.prompt > C
    assert seen


def test_without_likeness_it_keeps_what_the_votes_keep() -> None:
    sizes = {"every": EVERY, "window": WINDOW, "kernel": KERNEL}
    ours, theirs = (
        [life.held for life in lives(policy)]
        for policy in (
            decoding.Salient(BUDGET, RECENT, weight=0.0, **sizes),
            decoding.SnapKVD(BUDGET, RECENT, **sizes),
        )
    )
    assert ours == theirs
