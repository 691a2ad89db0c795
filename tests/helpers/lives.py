"""What a compressed cache was shown and what it held, in plain numbers: for oracles that decide by hand what stays."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from tiny_models import HEADS, LAYERS, WORDS, generate, random_prompts, stored, tiny

from scope.decoding.periodic import Periodic
from scope.policy.attention import Attention
from scope.prefill import PrefillMethod, SnapKV

C, TOKENS = 16, 40
LENGTHS = (30, 9, 21)

Vector = list[float]


@dataclass
class Life:
    """One row of one layer, by token: queries of every query head, keys and values of every head that is stored."""

    layer: int
    prompt: int
    scaling: float
    queries: list[list[Vector]] = field(default_factory=list)  # [token][query head]
    keys: list[list[Vector]] = field(default_factory=list)  # [token][head]
    values: list[list[Vector]] = field(default_factory=list)
    held: list[list[list[int]]] = field(default_factory=list)  # [after the prompt, after each step][head]: tokens

    @property
    def group(self) -> int:
        return len(self.queries[0]) // len(self.keys[0])

    def weights(self, asking: int, query_head: int, tokens: list[int]) -> dict[int, float]:
        """The attention of the query of a token to these tokens, as far as it sees them."""
        key_head = query_head // self.group
        seen = [x for x in tokens if x <= asking]
        raised = {
            x: math.exp(self.scaling * dot(self.queries[asking][query_head], self.keys[x][key_head])) for x in seen
        }
        return {x: weight / sum(raised.values()) for x, weight in raised.items()}

    def shares(self, head: int, asking: int, tokens: list[int]) -> list[dict[int, float]]:
        """`weights` of each query head that shares a head."""
        return [self.weights(asking, g, tokens) for g in range(head * self.group, (head + 1) * self.group)]


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: Vector, b: Vector) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def lives(policy: Periodic, method: PrefillMethod | None = None) -> list[Life]:
    """What three prompts of different lengths went through in a tiny model whose cache holds 16 slots of each."""
    found = [[Life(layer, length, 0.0) for length in LENGTHS] for layer in range(LAYERS)]

    def look(a: Attention) -> None:
        for row, life in enumerate(found[a.layer]):
            life.scaling = a.scaling
            new = range(life.prompt) if not a.decoding else [int(a.query_positions[row].max())]
            for token in new:
                asking = a.query_positions[row].tolist().index(token)
                at = [a.positions[row, h].tolist().index(token) for h in range(HEADS)]
                life.queries.append(a.queries[row, :, asking].tolist())
                life.keys.append([a.keys[row, h, s].tolist() for h, s in enumerate(at)])
                life.values.append([a.values[row, h, s].tolist() for h, s in enumerate(at)])

    def hold(cache: object) -> None:
        for layer, rows in enumerate(found):
            for life, heads in zip(rows, stored(cache, layer), strict=True):  # type: ignore[arg-type]
                life.held.append(heads)

    with torch.inference_mode():
        prompts = random_prompts(*LENGTHS)
        generate(tiny(), WORDS, prompts, method or SnapKV(C, 4), policy, TOKENS, watch=look, observe=hold)
    return [life for rows in found for life in rows]


@dataclass
class Moment:
    """A step that evicts, in one head of one layer and row."""

    life: Life
    head: int
    now: int  # the step's own token
    stored: list[list[int]]  # by head: all tokens, ascending
    free: list[int]  # those of this head that may go
    places: int  # how many of them stay

    @property
    def tokens(self) -> list[int]:
        return self.stored[self.head]


def check(policy: Periodic, choose: Callable[[dict[Any, float], Moment], set[int]]) -> None:
    """After every step each head holds what it should.

    choose(noted, moment) -> which of the free tokens stay. noted: starts empty, and is that head's own.
    """
    evicted = 0
    recent = policy.newest
    for life in lives(policy):
        for head in range(HEADS):
            noted: dict[Any, float] = {}
            for t, (before, after) in enumerate(pairwise(life.held)):
                now = life.prompt + t
                stored_now = [[*tokens, now] for tokens in before]
                tokens = stored_now[head]
                protected = [x for x in tokens if policy.protect == "prompt" and x < life.prompt]
                size = policy.budget + (0 if policy.protect == "prompt" else C)
                region = tokens[len(protected) :]
                if t % policy.every == 0 and len(region) > size:
                    moment = Moment(life, head, now, stored_now, region[:-recent], size - recent)
                    chosen = choose(noted, moment)
                    assert len(chosen) == size - recent
                    evicted += len(region) - size
                    tokens = sorted([*protected, *chosen, *region[-recent:]])
                assert after[head] == tokens, (life.layer, life.prompt, head, t)
    assert evicted > 200


def best(worth: dict[int, float], places: int) -> set[int]:
    """The tokens worth most; of equal worth the newer."""
    return set(sorted(worth, key=lambda x: (worth[x], x))[len(worth) - places :])
