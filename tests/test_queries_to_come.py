"""triattention and expected_attention. Oracle: their formulas in loops over rows, layers, heads and slots, in complex
numbers, on keys and queries that the cache was shown. The rotation's frequencies are those that the model itself has.
"""

import cmath
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from tiny_models import (
    DIM,
    FAMILIES,
    GROUP,
    HEADS,
    LAYERS,
    WORDS,
    Step,
    generate,
    made_up_statistics,
    random_prompts,
    stored,
    tiny,
)
from torch import Tensor, nn
from transformers import LlamaConfig, PretrainedConfig

from scope import decoding, prefill
from scope.cache import CompressedCache, Policy
from scope.cache.rotary import rotary_of
from scope.calibrate import calibrate
from scope.decoding.eviction import Eviction
from scope.policy.attention import Attention
from scope.policy.query_statistics import QueryStatistics
from scope.policy.rotary import Rotary
from scope.util.errors import ScopeError, SettingError

C, D, RECENT, EVERY, TOKENS = 16, 10, 3, 4, 22
LENGTHS = (30, 9, 21)
HORIZON, WINDOW, FUTURE, SINKS = 20, 5, 6, 2
HALF = DIM // 2
STATISTICS = made_up_statistics()
Pairs = list[complex]  # one vector: coordinates f and f + HALF as a complex number


def pairs(vector: Tensor) -> Pairs:
    values = vector.tolist()
    return [complex(values[f], values[f + HALF]) for f in range(HALF)]


def frequencies(layer: int) -> list[float]:
    del layer  # Llama turns all layers alike
    found: list[float] = tiny().model.rotary_emb.inv_freq.tolist()
    return found


class Shown:
    """What one row of one layer was shown: the rotated queries and keys, and the values, by token."""

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.queries: dict[int, Tensor] = {}  # [Hq, DIM]
        self.keys: list[dict[int, Tensor]] = [{} for _ in range(HEADS)]
        self.values: list[dict[int, Tensor]] = [{} for _ in range(HEADS)]

    def add(self, a: Attention, row: int) -> None:
        for at, token in enumerate(a.query_positions[row].tolist()):
            if token >= 0:
                self.queries[token] = a.queries[row, :, at].clone()
        for head in range(HEADS):
            for at, token in enumerate(a.positions[row, head].tolist()):
                if token >= 0:
                    self.keys[head][token] = a.keys[row, head, at].clone()
                    self.values[head][token] = a.values[row, head, at].clone()


def promise(shown: Shown, policy: Eviction, head: int, tokens: list[int], now: int, region: list[int]) -> list[float]:
    """TriAttention's score of each token."""
    best = [-math.inf] * len(tokens)
    offsets = [2**n for n in range(20) if 2**n <= HORIZON]
    turn = frequencies(shown.layer)
    for query_head in range(head * GROUP, (head + 1) * GROUP):
        mean = pairs(STATISTICS.means[shown.layer, query_head])
        length = STATISTICS.magnitudes[shown.layer, query_head].tolist()
        found = {}
        for token in tokens:
            key = pairs(shown.keys[head][token])
            total = 0.0
            for f in range(HALF):
                size = abs(mean[f]) * abs(key[f])
                angle = cmath.phase(mean[f]) - cmath.phase(key[f])
                waves = [math.cos((now + 1 + o) * turn[f] + angle) for o in offsets]
                total += size * sum(waves) / len(offsets) + (length[f] - abs(mean[f])) * abs(key[f])
            found[token] = total
        middle = sum(found[token] for token in region) / len(region)
        deviation = math.sqrt(sum((found[token] - middle) ** 2 for token in region) / len(region))
        best = [max(b, (found[token] - middle) / deviation) for b, token in zip(best, tokens, strict=True)]
    return best


def expectation(
    shown: Shown, policy: decoding.ExpectedAttention, head: int, tokens: list[int], now: int, region: list[int]
) -> list[float]:
    """Expected attention's score of each token: the formula itself, not its logarithm."""
    turn, last = frequencies(shown.layer), sorted(token for token in shown.queries if token <= now)[-WINDOW:]
    others = [token for token in tokens if token >= SINKS]
    total = dict.fromkeys(others, 0.0)
    for query_head in range(head * GROUP, (head + 1) * GROUP):
        coming = []
        for token in last:
            rotated = pairs(shown.queries[token][query_head])
            before = [z * cmath.exp(-1j * token * w) for z, w in zip(rotated, turn, strict=True)]
            ahead = [sum(cmath.exp(1j * (now + j) * w) for j in range(1, FUTURE + 1)) / FUTURE for w in turn]
            turned = [z * a for z, a in zip(before, ahead, strict=True)]
            coming.append([z.real for z in turned] + [z.imag for z in turned])
        mean = [sum(column) / len(coming) for column in zip(*coming, strict=True)]
        apart = [[x - m for x, m in zip(row, mean, strict=True)] for row in coming]
        logits = {}
        for token in others:
            key = shown.keys[head][token].tolist()
            along = sum(m * k for m, k in zip(mean, key, strict=True)) / math.sqrt(DIM)
            spread = sum(sum(x * k for x, k in zip(row, key, strict=True)) ** 2 for row in apart) / len(apart)
            logits[token] = along + spread / DIM / 2
        highest = max(logits.values())
        whole = sum(math.exp(x - highest) for x in logits.values())
        for token in others:
            total[token] += math.exp(logits[token] - highest) / whole / GROUP
    sized = {token: (x + policy.epsilon) * shown.values[head][token].norm().item() for token, x in total.items()}
    return [sized.get(token, math.inf) for token in tokens]


POLICIES: dict[str, tuple[Any, Callable[..., list[float]]]] = {
    "triattention": (
        decoding.TriAttention(D, RECENT, every=EVERY, statistics=STATISTICS, horizon=HORIZON),
        promise,
    ),
    "expected_attention": (
        decoding.ExpectedAttention(D, RECENT, every=EVERY, window=WINDOW, future=FUTURE, sinks=SINKS),
        expectation,
    ),
    "with epsilon": (
        decoding.ExpectedAttention(D, RECENT, every=EVERY, window=WINDOW, future=FUTURE, sinks=SINKS, epsilon=0.1),
        expectation,
    ),
}


@cache
def watched(name: str, protect: str) -> tuple[list[list[list[Attention]]], list[Step]]:
    """-> the attentions [layer][time], of the prompt first, and what was held after each [time][layer][row][head]."""
    seen: list[list[Attention]] = [[] for _ in range(LAYERS)]
    held: list[Step] = []

    def copied(a: Attention) -> None:
        names = ("queries", "keys", "values", "positions", "query_positions")
        seen[a.layer].append(replace(a, **{name: getattr(a, name).clone() for name in names}))

    generate(
        tiny(),
        WORDS,
        random_prompts(*LENGTHS),
        prefill.SnapKV(C, 4),
        replace(POLICIES[name][0], protect=protect),
        TOKENS,
        watch=copied,
        observe=lambda made: held.append([stored(made, layer) for layer in range(LAYERS)]),
    )
    return seen, held


@pytest.mark.parametrize("protect", ["prompt", "nothing"])
@pytest.mark.parametrize("name", POLICIES)
def test_the_formula_says_what_is_kept_at_every_step(name: str, protect: str) -> None:
    """Two query heads share a key/value head, and rows are ragged: one prompt is shorter than C."""
    seen, held = watched(name, protect)
    policy, score = POLICIES[name]
    evicted = 0
    for layer in range(LAYERS):
        for row, length in enumerate(LENGTHS):
            shown = Shown(layer)
            shown.add(seen[layer][0], row)
            kept = held[0][layer][row]
            size = D if protect == "prompt" else C + D
            for t, attention in enumerate(seen[layer][1:]):
                shown.add(attention, row)
                now, after = length + t, []
                for head in range(HEADS):
                    tokens = [*kept[head], now]
                    region = [token for token in tokens if protect == "nothing" or token >= length]
                    if t % EVERY == 0 and len(region) > size:
                        found = dict(zip(tokens, score(shown, policy, head, tokens, now, region), strict=True))
                        ranked = sorted(region[:-RECENT], key=lambda token, found=found: -found[token])
                        stays = {*ranked[: size - RECENT], *region[-RECENT:]}
                        evicted += len(region) - len(stays)
                        tokens = [token for token in tokens if token in stays or token not in region]
                    after.append(tokens)
                kept = held[t + 1][layer][row]
                assert kept == after, (layer, row, t)
    assert evicted > 50


# the rotation


def queries_before(model: nn.Module, ids: Tensor) -> list[Tensor]:
    """[B, Hq, P, D] of each layer: what the model itself has before it rotates."""
    found: list[Tensor] = []

    def note(_: nn.Module, given: Any, out: Tensor) -> None:
        if out.ndim == 4 and out.shape[1] == HEADS * GROUP:  # Gemma3 has put the heads in front already
            found.append(out)
        else:
            found.append(out[..., : HEADS * GROUP * DIM].reshape(*ids.shape, HEADS * GROUP, DIM).transpose(1, 2))

    of_layer = [layer.self_attn for layer in model.model.layers]
    names = ("q_norm", "qkv_proj", "q_proj")
    hooked = [next(getattr(a, name) for name in names if hasattr(a, name)) for a in of_layer]
    hooks = [module.register_forward_hook(note) for module in hooked]
    with torch.inference_mode():
        model(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_calibrating_averages_the_queries_before_their_rotation(family: str) -> None:
    model, texts = tiny(family), [prompt.tokens for prompt in random_prompts(40, 25)]
    told: list[int] = []
    found = calibrate(model, texts, told.append).queries
    by_text = [queries_before(model, torch.tensor([tokens])) for tokens in texts]
    for layer in range(LAYERS):
        queries = torch.cat([text[layer][0] for text in by_text], 1).float()
        lengths = (queries[..., :HALF].square() + queries[..., HALF:].square()).sqrt()
        torch.testing.assert_close(found.means[layer], queries.mean(1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.magnitudes[layer], lengths.mean(1), atol=1e-5, rtol=1e-5)
    assert told == [40, 25]
    assert found.sha256 == calibrate(model, texts).queries.sha256
    assert found.sha256 != calibrate(model, texts[:1]).queries.sha256


def test_coordinates_past_the_rotary_width_stay() -> None:
    config = tiny("phi3").config.to_dict() | {"partial_rotary_factor": 0.5, "rope_parameters": None}
    rotary = rotary_of(type(tiny("phi3").config)(**config), 0, "x")
    assert rotary.width == DIM // 2
    states = torch.randn(3, DIM)
    turned = rotary.turned(states, torch.tensor([0, 5, 900]))
    assert turned[:, rotary.width :].equal(states[:, rotary.width :])
    assert not turned[1:, : rotary.width].allclose(states[1:, : rotary.width])


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_scaled_frequencies_are_the_models_own(kind: str) -> None:
    more = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    scaled = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64, **more}
    config = LlamaConfig(**tiny().config.to_dict() | {"rope_parameters": scaled})
    own = type(tiny().model.rotary_emb)(config)
    assert rotary_of(config, 0, "x").frequencies.tolist() == own.inv_freq.tolist()


# what is refused


def other(**more: Any) -> PretrainedConfig:
    return LlamaConfig(**tiny().config.to_dict() | more, attn_implementation="sdpa")


def test_a_model_whose_rotation_is_not_known_is_refused_before_it_runs() -> None:
    strategy = decoding.ExpectedAttention(D, RECENT)
    scaled = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(ScopeError, match=r"ExpectedAttention: takes a rope_type of .*, not dynamic"):
        CompressedCache(other(rope_parameters=scaled), decoding=strategy)
    foreign = other()
    foreign.model_type = "cohere"
    with pytest.raises(ScopeError, match=r"ExpectedAttention: knows the rotary embedding of gemma, .*not of coh"):
        CompressedCache(foreign, decoding=strategy)
    with pytest.raises(ScopeError, match="calibrate: there is no token"):
        calibrate(tiny(), [[]])
    CompressedCache(foreign, decoding=decoding.Slide(D, RECENT))  # which asks for none


def test_statistics_of_another_model_are_refused() -> None:
    few = QueryStatistics(STATISTICS.means[:, :2], STATISTICS.magnitudes[:, :2])
    policy = decoding.TriAttention(D, RECENT, every=EVERY, statistics=few)
    with pytest.raises(ScopeError, match=r"statistics: are of another model: \[2, 16\] a layer, here \[4, 16\]"):
        generate(tiny(), WORDS, random_prompts(20), prefill.Full(), policy, 30)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: decoding.TriAttention(8, 3), r"statistics=null: must be what scope\.calibrate"),
        (lambda: decoding.TriAttention(8, 3, statistics=STATISTICS, horizon=0), "horizon=0"),
        (lambda: decoding.ExpectedAttention(8, 3, window=0), "window=0"),
        (lambda: decoding.ExpectedAttention(8, 3, future=0), "future=0"),
        (lambda: decoding.ExpectedAttention(8, 3, sinks=-1), "sinks=-1"),
        (lambda: decoding.ExpectedAttention(8, 3, epsilon=-0.1), r"epsilon=-0\.1"),
        (lambda: QueryStatistics(STATISTICS.means, STATISTICS.means), "means="),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        make()


def test_equal_statistics_are_one_policy_and_others_another() -> None:
    again = decoding.TriAttention(D, RECENT, statistics=made_up_statistics())
    other_ones = QueryStatistics(STATISTICS.means, STATISTICS.magnitudes + 1)
    assert Policy(decoding=again) == Policy(decoding=decoding.TriAttention(D, RECENT, statistics=STATISTICS))
    assert again != decoding.TriAttention(D, RECENT, statistics=other_ones)
    assert Rotary(torch.ones(4)).width == 8
