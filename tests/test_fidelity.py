"""Every switch between the paper's meaning and the released code's, each alone and in the preset.

Oracles, from METHODS.md ("Where the released code departs from the paper"): sizes per step by formula; the released
counters of `discontinuous`, simulated call by call with the state that the released code keeps; the forward by hand of
test_policies.py under a rule that protects the first C places; a model whose key/value rows were repeated physically,
for slots per query head; transformers' own `min_new_tokens`. How `votes=released` scores is tested in test_policies.py.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from golden import composed
from helpers.by_hand import (
    CLIPPED,
    LONG,
    RECENT,
    SHORT,
    WINDOW,
    ByHand,
    C,
    D,
    Rule,
    falling,
    naive_scores,
    prompt_pass,
    ran,
)
from helpers.pairs import DECODING, PREFILL
from helpers.quick import slow
from helpers.stock import LENGTHS, TOKENS, stock_writes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_models import DIM, GROUP, HEADS, LAYERS, WORDS, Step, Trace, generate, random_prompts, tiny
from transformers import AutoModelForCausalLM, PreTrainedModel

from scope import decoding, prefill
from scope.cache import CompressedCache
from scope.cache.slots import Slots
from scope.cache.twin import Concatenated
from scope.decoding import DecodingStrategy
from scope.generation.rows import Generated
from scope.generation.sampling import Sampling
from scope.policy.plan import View
from scope.prefill import PrefillMethod
from scope.util.errors import ConfigError

T = 40
CONF = Path(__file__).parents[1] / "conf"
FLAT = range(C + 1, 2 * (C - WINDOW))  # prompts over the budget for which the released code has no pyramid

# the clocks of adaptive and discontinuous, in whole numbers


def followed(strategy: DecodingStrategy, prefilled: tuple[int, ...], budget: int, steps: int) -> list[list[int]]:
    """[step][layer]: slots stored after each step, following the plans by counting."""
    stored, history = list(prefilled), []
    for t in range(steps):
        for layer in range(len(stored)):
            stored[layer] += 1
            view = View(layer, len(stored), 99, stored[layer], budget, prefilled[layer], prefilled, t)
            plan = strategy.plan(view)
            if plan is not None:
                stored[layer] = min(stored[layer], plan.slots)
        history.append(list(stored))
    return history


def released_counters(
    prefilled: tuple[int, ...], budget: int, recent: int, delta: int, steps: int
) -> Iterator[list[int]]:
    """The released `discontinuous`: one counter, shared by the layers, of the calls that find their region full."""
    stored = list(prefilled)
    calls = cuts = 0
    for t in range(steps):
        size = recent + t // delta
        for layer in range(len(stored)):
            stored[layer] += 1
            if stored[layer] - budget < size:
                continue
            jump_step = calls // len(stored)
            calls += 1
            if jump_step == delta:
                stored[layer] = budget + size
                cuts += 1
                if cuts == len(stored):
                    calls = cuts = 0
        yield list(stored)


@st.composite
def clocks(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int, int, int]:
    """Slots that the prefill left in each layer, C, recent, D, T; equation 4's delta is 2 or more."""
    budget, recent = draw(st.integers(2, 60)), draw(st.integers(1, 12))
    prefilled = draw(st.lists(st.integers(1, 90), min_size=1, max_size=5).map(tuple))
    more, delta = draw(st.integers(1, 12)), draw(st.integers(2, 9))
    tokens = recent + delta * more + draw(st.integers(0, more - 1))
    return prefilled, budget, recent, recent + more, tokens


@settings(max_examples=150, deadline=None, derandomize=True)
@given(clocks())
@example(((55, 40, 25), 32, 8, 16, 128))
@example(((32, 32, 32), 32, 8, 16, 128))
def test_discontinuous_waits_by_the_released_counters(drawn: tuple[tuple[int, ...], int, int, int, int]) -> None:
    prefilled, budget, recent, most, tokens = drawn
    delta = (tokens - recent) // (most - recent)
    strategy = decoding.Discontinuous(
        most, recent, tokens=tokens, boundary="budget", growth="start", capped=False, wait="full"
    )
    expected = list(released_counters(prefilled, budget, recent, delta, tokens - 1))
    assert followed(strategy, prefilled, budget, tokens - 1) == expected


def evictions(history: list[list[int]], start: Sequence[int], layer: int) -> list[int]:
    before = [start[layer], *(stored[layer] for stored in history)]
    return [t for t, (was, now) in enumerate(pairwise(before)) if now <= was]


def test_the_counters_are_those_of_the_recorded_traces() -> None:
    """delta 15; a pyramid whose last layer fills late makes the others late."""
    strategy = decoding.Discontinuous(
        16, 8, tokens=128, delta=15, boundary="budget", growth="start", capped=False, wait="full"
    )
    for start, first in (((55, 40, 25), (20, 20, 19)), ((32, 32, 32), (22, 22, 22))):
        history = followed(strategy, start, 32, 100)
        assert [evictions(history, start, layer) for layer in range(3)] == [list(range(t, 100, 16)) for t in first]


def test_a_region_that_waits_until_it_is_full_peaks_delta_above_its_size() -> None:
    strategy = decoding.Discontinuous(
        512, 256, tokens=4096, boundary="budget", growth="start", capped=False, wait="full"
    )
    region = [0, *(stored[0] - 100 for stored in followed(strategy, (100,), 100, 4095))]
    assert max(left + 1 - (256 + t // 15) for t, left in enumerate(region[:-1])) == 15  # with this step's own token
    by_steps = decoding.Discontinuous(512, 256, tokens=4096)
    cut = evictions(followed(by_steps, (100,), 100, 4095), (100,), 0)
    waited = evictions(followed(strategy, (100,), 100, 4095), (100,), 0)
    assert {b - a for a, b in pairwise(cut)} == {15}
    assert {b - a for a, b in pairwise(waited)} == {16}


ADAPTIVE = [(512, 256, 4096, 15, 528), (1024, 256, 4096, 5, 1074), (10, 4, 40, 6, 10), (10, 4, 17, 2, 11)]


@pytest.mark.parametrize(("size", "recent", "tokens", "delta", "last"), ADAPTIVE)
def test_adaptive_grows_from_the_first_step_and_past_its_budget(
    size: int, recent: int, tokens: int, delta: int, last: int
) -> None:
    strategy = decoding.Adaptive(size, recent, tokens=tokens, growth="start", capped=False)
    history = followed(strategy, (7,), 7, tokens - 1)
    assert [stored - 7 for (stored,) in history] == [min(t + 1, recent + t // delta) for t in range(tokens - 1)]
    assert history[-1] == [7 + last]  # by hand from the paper's settings: D is passed where its T is long enough
    capped = followed(replace(strategy, capped=True), (7,), 7, tokens - 1)
    assert capped == [[min(stored, 7 + size)] for (stored,) in history]


def test_a_growth_that_nobody_caps_has_no_most() -> None:
    view = View(0, 1, 99, 50, 50, 50, (50,))
    free = decoding.Adaptive(10, 4, tokens=40, growth="start", capped=False)
    assert free.most(view) is None
    assert replace(free, capped=True).most(view) == 50 + 10 + 1


@pytest.mark.parametrize("given_delta", [1, 3, 15, 100])
def test_delta_may_be_given(given_delta: int) -> None:
    adaptive = decoding.Adaptive(10, 4, tokens=60, delta=given_delta, growth="start", capped=False)
    assert [n for (n,) in followed(adaptive, (7,), 7, 59)] == [7 + min(t + 1, 4 + t // given_delta) for t in range(59)]
    jumps = decoding.Discontinuous(10, 4, tokens=60, delta=given_delta)
    cut = evictions(followed(jumps, (7,), 7, 59), (7,), 0)
    assert all(t % given_delta == 0 for t in cut)
    assert (len(cut) > 0) == (given_delta < 59)


@pytest.mark.parametrize("make", [decoding.Adaptive, decoding.Discontinuous])
def test_the_papers_meaning_is_the_default(make: type[decoding.Adaptive]) -> None:
    strategy = make(10, 4, tokens=60)
    assert strategy == make(10, 4, tokens=60, growth="recent", capped=True, delta=None, boundary="kept")
    period = 9 if make is decoding.Discontinuous else 1  # equation 4: 56 // 6
    expected, stored = [], 7
    for t in range(120):
        stored += 1
        if t % period == 0:
            stored = min(stored, 7 + min(10, 4 + max(0, t - 4) // 9))
        expected.append([stored])
    assert followed(strategy, (7,), 99, 120) == expected


# what is protected


def layout(method: PrefillMethod, prompt: Any) -> list[list[list[int]]]:
    """[layer][head]: the positions that the prefill leaves, as they lie."""
    seen: list[list[list[list[int]]]] = []

    def watch(cache: CompressedCache) -> None:
        seen.append([cache.positions(layer)[0].tolist() for layer in range(LAYERS)])

    generate(tiny(), WORDS, [prompt], method, decoding.KeepAll(), 1, observe=watch)
    return seen[0]


def first_c_protected(size: Callable[[int, int, int], int | None]) -> Rule:
    """METHODS.md 3: the first C slots stay; `size` (t, layer, slots stored) is the region's, None where it waits."""

    def rule(t: int, layer: int, head: int, positions: list[int], scores: list[float]) -> list[int]:
        places = list(range(len(positions)))
        region, most = places[C:], size(t, layer, len(positions))
        if most is None or len(region) <= most:
            return places
        last, rest = region[len(region) - RECENT :], region[: len(region) - RECENT]
        return places[:C] + sorted(sorted(rest, key=lambda place: -scores[place])[: most - RECENT]) + last

    return rule


RELEASED = {"boundary": "budget", "growth": "start", "capped": False}
LAYOUTS: dict[str, PrefillMethod] = {
    "snapkv": prefill.SnapKV(C, WINDOW),
    "by position": prefill.PyramidKV(C, WINDOW),
    "by score": prefill.PyramidInfer(C, WINDOW, order="score"),
}


@pytest.mark.parametrize("strategy", ["slide", "adaptive", "discontinuous"])
@pytest.mark.parametrize(("method", "length"), [("snapkv", SHORT), ("by position", LONG), ("by score", LONG)])
def test_the_first_c_places_are_protected_whatever_lies_there(method: str, length: int, strategy: str) -> None:
    prompt = random_prompts(length)[0]
    start = layout(LAYOUTS[method], prompt)
    left = tuple(len(layer[0]) for layer in start)
    delta = (T - RECENT) // (D - RECENT)
    released = list(released_counters(left, C, RECENT, delta, T))

    def size(t: int, layer: int, stored: int) -> int | None:
        if strategy == "slide":
            return D
        if strategy == "adaptive":
            return RECENT + t // delta
        return released[t][layer] - C if released[t][layer] < stored else None

    made: dict[str, DecodingStrategy] = {
        "slide": decoding.Slide(D, RECENT, boundary="budget"),
        "adaptive": decoding.Adaptive(D, RECENT, tokens=T, **RELEASED),
        "discontinuous": decoding.Discontinuous(D, RECENT, tokens=T, wait="full", **RELEASED),
    }
    (row,), trace = ran(LAYOUTS[method], made[strategy], [prompt], T)
    tokens, history = ByHand("llama", prompt, start).write(T, first_c_protected(size))
    assert list(row.tokens) == tokens
    assert trace.of_row(0, T)[1:] == [[[sorted(head) for head in layer] for layer in step] for step in history]


@pytest.mark.parametrize("boundary", ["budget", "kept"])
def test_the_first_tokens_of_a_short_prompt_freeze_in_the_budget(boundary: str) -> None:
    strategy = decoding.Slide(D, RECENT, boundary=boundary)
    steps = ran(LAYOUTS["snapkv"], strategy, random_prompts(SHORT), T)[1].of_row(0, T)
    ends = [head for layer in steps[-1] for head in layer]
    if boundary == "budget":
        assert all(head[:C] == list(range(C)) and len(head) == C + D for head in ends)
    else:
        assert all(head[:SHORT] == list(range(SHORT)) and len(head) == SHORT + D for head in ends)
        assert not any(set(range(SHORT, C)) <= set(head) for head in ends)


def test_what_a_layer_kept_beyond_the_budget_may_go() -> None:
    prompt = random_prompts(LONG)[0]
    for method in ("by position", "by score"):
        start = layout(LAYOUTS[method], prompt)
        assert len(start[0][0]) > C > len(start[-1][0])
        last = ran(LAYOUTS[method], decoding.Slide(D, RECENT, boundary="budget"), [prompt], T)[1].of_row(0, T)[-1]
        for head in range(HEADS):
            assert set(start[0][head][:C]) <= set(last[0][head])
            assert not set(start[0][head][C:]) <= set(last[0][head])
            frozen = range(LONG, LONG + C - len(start[-1][head]))
            assert {*start[-1][head], *frozen} <= set(last[-1][head])


@pytest.mark.parametrize("make", [decoding.H2O, decoding.StreamingLLM])
def test_where_the_prompt_is_not_protected_the_released_budget_is_the_same_in_all_layers(
    make: type[decoding.H2O],
) -> None:
    for boundary in ("kept", "budget"):
        trace = ran(LAYOUTS["by position"], make(D, RECENT, boundary=boundary), random_prompts(LONG), T)[1]
        own = [WINDOW + falling(layer, C - WINDOW, LONG - WINDOW) for layer in range(LAYERS)]
        shared = own if boundary == "kept" else [C] * LAYERS
        assert [len(layer[0]) for layer in trace.of_row(0, T)[-1]] == [n + D for n in shared]


# pyramids


def slots_left(method: PrefillMethod, length: int) -> list[int]:
    return [len(layer[0]) for layer in layout(method, random_prompts(length)[0])]


@pytest.mark.parametrize("length", [C, FLAT[0], FLAT[-1], FLAT[-1] + 1, LONG])
@pytest.mark.parametrize("make", [prefill.PyramidKV, prefill.PyramidInfer])
def test_a_short_prompts_pyramid_is_flat(make: type[prefill.PyramidKV], length: int) -> None:
    pyramid = [min(length, WINDOW + falling(i, C - WINDOW, length - WINDOW)) for i in range(LAYERS)]
    assert slots_left(make(C, WINDOW, short="flat"), length) == (pyramid if length not in FLAT else [C] * LAYERS)
    if length in FLAT[1:]:
        assert slots_left(make(C, WINDOW), length) == pyramid != [C] * LAYERS


def test_a_flat_pyramidkv_is_snapkv() -> None:
    prompt = random_prompts(FLAT[-1])
    flat = ran(prefill.PyramidKV(C, WINDOW, short="flat"), decoding.Slide(D, RECENT), prompt, T)[1]
    assert flat.steps == ran(prefill.SnapKV(C, WINDOW), decoding.Slide(D, RECENT), prompt, T)[1].steps
    assert flat.steps != ran(prefill.PyramidKV(C, WINDOW), decoding.Slide(D, RECENT), prompt, T)[1].steps


@pytest.mark.parametrize("length", range(C - 1, FLAT[-1] + 3))
def test_pyramidinfers_window_lies_beside_its_budget_where_it_is_flat(length: int) -> None:
    method = prefill.PyramidInfer(C, WINDOW, short="flat", beside=True)
    if length in FLAT:  # up to C + window nothing goes; the released code fails there
        expected = [min(length, C + WINDOW)] * LAYERS
    else:
        expected = [min(length, WINDOW + falling(i, C - WINDOW, length - WINDOW)) for i in range(LAYERS)]
    (row,), trace = ran(method, decoding.Slide(D, RECENT), random_prompts(length), T)
    assert row.prefill_kept == tuple(expected)
    assert len(row.tokens) == T
    tail = list(range(length - WINDOW, length))
    assert all(head[-WINDOW:] == tail for layer in trace.of_row(0, 0)[0] for head in layer)


@pytest.mark.parametrize("method", ["pyramidkv", "pyramidinfer-sum"])
@pytest.mark.parametrize("length", [CLIPPED, LONG])
def test_kept_slots_may_lie_by_score(method: str, length: int) -> None:
    make = prefill.PyramidKV if method == "pyramidkv" else prefill.PyramidInfer
    prompt = random_prompts(length)[0]
    by_score, by_position = layout(make(C, WINDOW, order="score"), prompt), layout(make(C, WINDOW), prompt)
    moved = 0
    for layer in range(LAYERS):
        for head in range(HEADS):
            best, window = by_score[layer][head][:-WINDOW], by_score[layer][head][-WINDOW:]
            worth = naive_scores(method, prompt_pass("llama", prompt.tokens), layer, head, None)
            order = [worth[position] for position in best]
            assert all(a >= b - 1e-6 for a, b in pairwise(order))  # pooled scores tie
            assert window == list(range(length - WINDOW, length))
            assert sorted(best) + window == by_position[layer][head]
            moved += best != sorted(best)
    assert moved > 1


@pytest.mark.parametrize("method", ["full", "snapkv", "pyramidkv"])
def test_pyramidinfer_without_its_spread_is_h2o(method: str) -> None:
    def steps(strategy: DecodingStrategy) -> list[Step]:
        return ran(PREFILL[method], strategy, random_prompts(LONG, SHORT), T)[1].steps

    h2o = steps(decoding.H2O(D, RECENT))
    assert steps(decoding.PyramidInfer(D, RECENT, spread="flat")) == h2o
    assert steps(decoding.PyramidInfer(D, RECENT)) != h2o


# the first token


def eos_first(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make the token that the first prompt would begin with the end of the sequence."""
    first = generate(tiny(), WORDS, random_prompts(*LENGTHS), *FULL, 1)[0].tokens[0]
    monkeypatch.setattr(tiny().generation_config, "eos_token_id", first)
    return first


FULL = (prefill.Full(), decoding.KeepAll())


@pytest.mark.parametrize("least", [0, 1, 5])
def test_the_end_cannot_come_before_min_new_tokens(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    eos = eos_first(monkeypatch)
    prompts = random_prompts(*LENGTHS)
    rows = generate(tiny(), WORDS, prompts, *FULL, TOKENS, Sampling(min_new_tokens=least))
    assert all(eos not in row.tokens[:least] for row in rows)
    assert (rows[0].finish == "eos" and len(rows[0].tokens) == 1) == (least == 0)
    stock = stock_writes("llama", prompts, torch.float64, eos_token_id=eos, min_new_tokens=least)
    assert [row.tokens for row in rows] == [
        written[: len(row.tokens)] for row, written in zip(rows, stock, strict=True)
    ]
    assert all(row.tokens[-1] == eos or len(row.tokens) == TOKENS for row in rows)


def test_the_chances_of_the_other_tokens_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an end of sequence the switch draws the same lots."""
    prompts = random_prompts(*LENGTHS)
    hot = Sampling(temperature=1.5, seed=3)
    free = [row.tokens for row in generate(tiny(), WORDS, prompts, *FULL, TOKENS, hot)]
    held = [row.tokens for row in generate(tiny(), WORDS, prompts, *FULL, TOKENS, replace(hot, min_new_tokens=9))]
    assert free == held
    unused = next(token for token in range(97) if all(token not in row for row in free))
    monkeypatch.setattr(tiny().generation_config, "eos_token_id", unused)
    assert free == [row.tokens for row in generate(tiny(), WORDS, prompts, *FULL, TOKENS, hot)]


# slots per query head


def repeated(family: str) -> PreTrainedModel:
    """The same model with each key/value head's rows written out for every query head that shares it."""
    grouped = tiny(family)
    config = copy.deepcopy(grouped.config)
    config.num_key_value_heads = config.num_attention_heads
    wide = AutoModelForCausalLM.from_config(config, attn_implementation=config._attn_implementation)
    weights = {}
    for name, weight in grouped.state_dict().items():
        if "k_proj" in name or "v_proj" in name:
            weights[name] = weight.unflatten(0, (HEADS, DIM)).repeat_interleave(GROUP, 0).flatten(0, 1)
        else:
            weights[name] = weight
    wide = wide.to(torch.float64)
    wide.load_state_dict(weights)
    return wide.eval()


def watched(
    model: PreTrainedModel, pair: tuple[str, str], lengths: Sequence[int], granularity: str, **more: Any
) -> tuple[list[Generated], Trace, list[int]]:
    """Rows, what is held at every step, and the bytes allocated."""
    trace, nbytes = Trace(), []

    def watch(cache: CompressedCache) -> None:
        trace(cache)
        nbytes.append(cache.nbytes)

    prompts = random_prompts(*lengths)
    chosen = PREFILL[pair[0]], DECODING[pair[1]]
    return (
        generate(model, WORDS, prompts, *chosen, TOKENS, granularity=granularity, observe=watch, **more),
        trace,
        nbytes,
    )


BY_QUERY_HEAD = [
    ("full", "slide"),
    ("snapkv", "slide"),
    ("h2o", "h2o"),
    ("pyramidkv", "discontinuous"),
    ("pyramidinfer", "pyramidinfer"),
    ("random", "random"),
    ("streamingllm", "adaptive"),
]
by_query_head = pytest.mark.parametrize("pair", BY_QUERY_HEAD, ids="-".join)


@pytest.mark.parametrize("family", ["llama", slow("mistral_sliding"), slow("qwen2"), slow("qwen3"), "gemma3"])
@by_query_head
@pytest.mark.slow
def test_slots_per_query_head_are_those_of_repeated_heads(pair: tuple[str, str], family: str) -> None:
    rows, trace, nbytes = watched(tiny(family), pair, LENGTHS, "query_head")
    wide_rows, wide, _ = watched(repeated(family), pair, LENGTHS, "kv_head")
    assert [row.tokens for row in rows] == [row.tokens for row in wide_rows]
    assert trace.steps == wide.steps
    assert len(trace.steps[0][0][0]) == HEADS * GROUP
    narrow_rows, narrow, narrow_bytes = watched(tiny(family), pair, LENGTHS, "kv_head")
    assert nbytes == [GROUP * n for n in narrow_bytes]
    assert [row.cache_bytes for row in rows] == [GROUP * row.cache_bytes for row in narrow_rows]
    if (
        pair == ("snapkv", "slide") and family != "mistral_sliding"
    ):  # whose windows hold no more than C; the heads of a group do choose for themselves
        assert any(row[0] != row[1] for step in trace.steps for layer in step for row in layer)
        assert len(narrow.steps[0][0][0]) == HEADS


@by_query_head
def test_granularity_says_nothing_where_heads_are_not_grouped(pair: tuple[str, str]) -> None:
    wide = repeated("llama")
    one, two = (watched(wide, pair, LENGTHS, granularity) for granularity in ("kv_head", "query_head"))
    assert [row.tokens for row in one[0]] == [row.tokens for row in two[0]]
    assert one[1].steps == two[1].steps
    assert one[2] == two[2]


@by_query_head
def test_slots_per_query_head_alone_in_a_batch_in_place_and_plain(pair: tuple[str, str]) -> None:
    rows, trace, _ = watched(tiny(), pair, LENGTHS, "query_head", storage=Slots)
    plain_rows, plain, _ = watched(tiny(), pair, LENGTHS, "query_head", storage=Concatenated)
    assert [row.tokens for row in rows] == [row.tokens for row in plain_rows]
    assert trace.steps == plain.steps
    prompts = random_prompts(*LENGTHS)
    for i, prompt in enumerate(prompts):
        own = Trace()
        chosen = PREFILL[pair[0]], DECODING[pair[1]]
        (alone,) = generate(tiny(), WORDS, [prompt], *chosen, TOKENS, granularity="query_head", observe=own)
        assert alone.tokens == rows[i].tokens
        assert own.of_row(0, TOKENS) == trace.of_row(i, TOKENS)


# the preset

PAPER, PRESET = (yaml.safe_load((CONF / "fidelity" / f"{name}.yaml").read_text()) for name in ("paper", "released"))
METHODS: dict[str, set[str]] = {  # the switches that each has
    "full": set(),
    "streamingllm": set(),
    "h2o": {"votes"},
    "snapkv": set(),
    "pyramidkv": {"short", "order", "pyramid"},
    "pyramidinfer": {"votes", "short", "order", "beside", "pyramid"},
    "recent": set(),
    "random": set(),
}
STRATEGIES: dict[str, set[str]] = {
    "none": set(),
    "slide": {"boundary"},
    "adaptive": {"boundary", "delta", "growth", "capped"},
    "discontinuous": {"boundary", "delta", "growth", "capped", "wait"},
    "h2o": {"boundary"},
    "streamingllm": {"boundary"},
    "pyramidinfer": {"boundary", "spread", "pyramid"},
    "recent": {"boundary"},
    "random": {"boundary"},
}
WITH = {"spread": "pyramidinfer"}  # the strategy that has the switch; discontinuous has all the others


def switches(*overrides: str) -> dict[str, Any]:
    """Every setting of the built objects that a switch's name stands for, by part."""
    made = composed(*overrides)
    parts = {"method": made.method, "decoding": made.decoding, "sampling": made.sampling}
    found = {f"{part}.{key}": value for part, thing in parts.items() for key, value in asdict(thing).items()}
    return found | {"granularity": made.granularity}


def test_the_presets_have_the_same_keys_and_no_other_is_missing() -> None:
    assert (
        set(PAPER)
        == set(PRESET)
        == {"granularity", "min_new_tokens", *METHODS["pyramidinfer"]}
        | {
            *STRATEGIES["discontinuous"],
            *STRATEGIES["pyramidinfer"],
        }
    )
    assert {key for key in PAPER if PAPER[key] == PRESET[key]} == {"delta"}


PAIRED = list(zip([*METHODS, "snapkv", "pyramidkv"], [*STRATEGIES, "adaptive"], strict=True))
PAIRED += [("pyramidkv", "discontinuous"), ("h2o", "adaptive"), ("pyramidinfer", "discontinuous")]


@pytest.mark.parametrize(("method", "strategy"), PAIRED)
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_preset_sets_every_switch(preset: str, method: str, strategy: str) -> None:
    wanted = PAPER if preset == "paper" else dict(PRESET)
    if preset == "released" and method in ("snapkv", "pyramidkv"):
        wanted["delta"] = 15
    found = switches(f"method={method}", f"decoding={strategy}", f"fidelity={preset}")
    there = {f"method.{key}" for key in METHODS[method]} | {f"decoding.{key}" for key in STRATEGIES[strategy]}
    expected = {name: wanted[name.partition(".")[2]] for name in there}
    expected |= {"granularity": wanted["granularity"], "sampling.min_new_tokens": wanted["min_new_tokens"]}
    assert {name: value for name, value in found.items() if name.rpartition(".")[2] in PAPER} == expected


@pytest.mark.parametrize("key", PAPER)
def test_each_switch_can_be_set_alone(key: str) -> None:
    pair = ["method=pyramidinfer", f"decoding={WITH.get(key, 'discontinuous')}"]
    value = 7 if key == "delta" else PRESET[key]
    plain, alone = switches(*pair), switches(*pair, f"fidelity.{key}={value}")
    assert {name.rpartition(".")[2]: alone[name] for name in plain if plain[name] != alone[name]} == {key: value}


def test_the_preset_gives_way_to_a_switch() -> None:
    found = switches("method=snapkv", "decoding=adaptive", "fidelity=released", "fidelity.delta=4")
    assert found["decoding.delta"] == 4


@pytest.mark.parametrize("value", ["nonsense", "0.5"])
@pytest.mark.parametrize("key", PAPER)
def test_a_value_that_cannot_be_is_refused_by_its_key(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        composed("method=pyramidinfer", f"decoding={WITH.get(key, 'discontinuous')}", f"fidelity.{key}={value}")
    assert str(refused.value).startswith(f"fidelity.{key}={value}: must be ")
    assert "\n" not in str(refused.value)


def test_a_delta_of_nothing_is_refused() -> None:
    """The released code divides by it."""
    with pytest.raises(ConfigError, match=r"fidelity\.delta=0: must be a whole number of at least 1"):
        composed("decoding=adaptive", "fidelity.delta=0")
