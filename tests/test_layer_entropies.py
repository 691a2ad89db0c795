"""method=entropy: what calibrate measures, the slots that each layer gets, and what stays of a prompt.

The oracles: the entropy in loops over lists of the model's own attention weights; the shares dealt out by halving
(the level at which they use up the budget is searched for), with no rule of rounding taken over; positions of a run.
"""

import math
from typing import Any

import pytest
import torch
from helpers.by_hand import LONG, TOKENS, WINDOW, C, D, naive_scores, prompt_pass, ran
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import HEADS, LAYERS, SLIDING_WINDOW, random_prompts, tiny

from scope import decoding, prefill
from scope.cache import Policy
from scope.cache.sizes import after_prefill, cache_bytes, windows_of
from scope.calibrate import calibrate
from scope.policy.layer_entropies import LayerEntropies
from scope.policy.plan import View, proportional
from scope.util.errors import ScopeError, SettingError

NATS = (2.5, 0.4, 1.1)
METHOD = prefill.Entropy(C, WINDOW, statistics=LayerEntropies(NATS))
LAST = 32  # queries of each text


def level(weights: tuple[float, ...], total: float, most: float) -> list[float]:
    """Real numbers min(most, 1 + level * weight) that add up to `total`: the level is found by halving."""
    low, high = 0.0, most / min(weights)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(min(most, 1 + middle * weight) for weight in weights) < total:
            low = middle
        else:
            high = middle
    return [min(most, 1 + high * weight) for weight in weights]


@given(
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=60).map(tuple),
    mean=st.integers(1, 3000),
    more=st.integers(0, 3000),
)
def test_slots_are_in_proportion_and_add_up_to_the_budget(weights: tuple[float, ...], mean: int, more: int) -> None:
    slots = proportional(weights, mean, mean + more)
    assert all(type(n) is int for n in slots)
    assert sum(slots) == len(weights) * mean
    assert all(1 <= n <= mean + more for n in slots)
    shares = level(weights, len(weights) * mean, mean + more)
    assert all(abs(n - share) < 1 + 1e-6 for n, share in zip(slots, shares, strict=True))
    up = [share % 1 for n, share in zip(slots, shares, strict=True) if n > share + 1e-6]
    down = [share % 1 for n, share in zip(slots, shares, strict=True) if n < share - 1e-6]
    assert not up or not down or min(up) >= max(down) - 1e-6


@pytest.mark.parametrize(
    ("weights", "mean", "most", "slots"),
    [
        ((1.0, 1.0, 1.0), 5, 9, (5, 5, 5)),
        ((2.0, 1.0, 1.0), 5, 9, (7, 4, 4)),  # 12 beside one each, of which 6, 3 and 3
        ((4.0, 1.0, 1.0), 5, 7, (7, 4, 4)),  # of 8 two are given back
        ((4.0, 2.0, 0.5), 5, 6, (6, 6, 3)),  # what the first gives back, the second cannot hold either
        ((1.0, 1.0), 1, 1, (1, 1)),
        ((1.0, 1.0, 2.0), 2, 9, (2, 2, 2)),  # 3 beside one each: 0.75, 0.75 and 1.5
        ((0.3,), 7, 7, (7,)),
    ],
)
def test_shares_written_down_by_hand(weights: tuple[float, ...], mean: int, most: int, slots: tuple[int, ...]) -> None:
    assert proportional(weights, mean, most) == slots


@given(prompt=st.integers(1, 3000), budget=st.integers(WINDOW + 1, 2000))
def test_no_layer_is_below_the_window_and_one_nor_above_the_prompt(prompt: int, budget: int) -> None:
    method = prefill.Entropy(budget, WINDOW, statistics=LayerEntropies(NATS))
    slots = [method.capacity(View(layer, LAYERS, prompt, prompt)) for layer in range(LAYERS)]
    if prompt <= budget:
        assert slots == [budget] * LAYERS
        assert method.plan(View(0, LAYERS, prompt, prompt)) is None
    else:
        assert sum(slots) == LAYERS * budget
        assert all(WINDOW + 1 <= n <= prompt for n in slots)
        assert slots[0] >= slots[2] >= slots[1]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_calibrating_measures_the_entropy_of_the_last_queries(family: str) -> None:
    model, prompts = tiny(family), random_prompts(50, 21)
    found = calibrate(model, [prompt.tokens for prompt in prompts]).entropies
    stock = tiny(family, "eager")
    for layer in range(LAYERS):
        nats = []
        for prompt in prompts:
            out = stock(torch.tensor([prompt.tokens]), output_attentions=True, use_cache=False)
            for head in out.attentions[layer][0].tolist():
                nats += [-sum(p * math.log(p) for p in query if p) for query in head[-LAST:]]
        assert found.nats[layer] == pytest.approx(sum(nats) / len(nats), rel=1e-3)
        assert found.nats[layer] == float(f"{found.nats[layer]:.3e}")  # four digits


def test_a_layer_keeps_its_own_number_of_the_slots_that_snapkv_scores_best() -> None:
    prompt = random_prompts(LONG)[0]
    seen = prompt_pass("llama", prompt.tokens)
    kept = ran(METHOD, decoding.KeepAll(), [prompt], 1)[1].of_row(0, 0)[0]
    shares = level(NATS, LAYERS * (C - WINDOW), LONG - WINDOW)
    assert sum(len(heads[0]) for heads in kept) == LAYERS * C
    for layer in range(LAYERS):
        for head in range(HEADS):
            scores = naive_scores("snapkv", seen, layer, head, None)
            others = kept[layer][head][:-WINDOW]
            assert abs(len(others) - shares[layer]) < 1
            assert kept[layer][head][-WINDOW:] == list(range(LONG - WINDOW, LONG))
            worst = min(scores[slot] for slot in others)
            assert all(scores[slot] <= worst + 1e-6 for slot in range(LONG - WINDOW) if slot not in others)


@pytest.mark.parametrize("heads", ["each", "shared"])
def test_bytes_are_known_before_the_prompt(heads: str) -> None:
    method = prefill.Entropy(C, WINDOW, statistics=LayerEntropies(NATS), heads=heads)
    strategy = decoding.Slide(D, 4)
    (row,), _ = ran(method, strategy, random_prompts(LONG), TOKENS)
    assert row.cache_bytes == cache_bytes(tiny().config, Policy(method, strategy), "float64", LONG, TOKENS)


def test_a_sliding_layer_keeps_no_more_than_its_window() -> None:
    views = after_prefill(Policy(METHOD), LONG, windows_of(tiny("gemma3").config))
    free = [METHOD.capacity(View(layer, LAYERS, LONG, LONG)) for layer in range(LAYERS)]
    sliding = [True, False, True]
    assert [view.kept for view in views] == [
        min(n, SLIDING_WINDOW - 1) if slides else n for n, slides in zip(free, sliding, strict=True)
    ]
    assert free[0] > SLIDING_WINDOW - 1  # else this could not fail


@pytest.mark.parametrize("nats", [(), (1.0, 0.0), (1.0, -0.1), (1.0, math.nan), (math.inf,)])
def test_entropies_that_cannot_be_are_refused(nats: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match=r"nats=.*must be a number above 0 for each layer"):
        LayerEntropies(nats)


@pytest.mark.parametrize("statistics", [None, NATS])
def test_what_is_not_statistics_is_refused(statistics: Any) -> None:
    with pytest.raises(SettingError, match=r"Entropy\.statistics=.*: must be what scope\.calibrate makes of the model"):
        prefill.Entropy(C, WINDOW, statistics=statistics)


def test_statistics_of_another_model_are_refused() -> None:
    method = prefill.Entropy(C, WINDOW, statistics=LayerEntropies((1.0, 2.0)))
    with pytest.raises(ScopeError, match=r"Entropy\.statistics: are of another model: 2 layers, here 3"):
        ran(method, decoding.KeepAll(), random_prompts(LONG), 1)
