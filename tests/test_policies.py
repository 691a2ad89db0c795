"""Which tokens every prefill method and decoding strategy keeps: against METHODS.md, spelt out in loops.

Prefill oracle: the probabilities of a stock model's eager attention over the whole prompt (`output_attentions`); scores
and sizes are python loops over them. Decoding oracle: a forward pass by hand, one token at a time, over one python list
of (position, key, value) per layer and key/value head: append, attend, evict by the table. It starts from what the
prefill was seen to keep, so that each half is judged on its own.
"""

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from helpers.by_hand import (
    BETA,
    CLIPPED,
    LONG,
    RECENT,
    SHORT,
    TOKENS,
    WINDOW,
    ByHand,
    C,
    D,
    Rule,
    falling,
    naive_scores,
    prompt_pass,
    ran,
    released_weights,
    sums,
)
from helpers.quick import every
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import (
    DIM,
    FAMILIES,
    HEADS,
    LAYERS,
    SLIDING_WINDOW,
    WORDS,
    Trace,
    generate,
    random_prompts,
    strategies,
    tiny,
)
from torch import Tensor

from scope import decoding, prefill
from scope.cache.sizes import prefilled
from scope.cache.twin import Concatenated
from scope.decoding import DecodingStrategy
from scope.generation.rows import Prompt
from scope.policy.plan import View, pyramid
from scope.policy.rule import Rule as LayerRule
from scope.policy.scores import Attention
from scope.prefill import PrefillMethod

# METHODS.md's prefill table

PREFILL: dict[str, PrefillMethod] = {
    "full": prefill.Full(),
    "streamingllm": prefill.StreamingLLM(C),
    "h2o-sum": prefill.H2O(C, WINDOW),
    "h2o-mean": prefill.H2O(C, WINDOW, votes="mean", block=7),
    "h2o-released": prefill.H2O(C, WINDOW, votes="released"),
    "snapkv": prefill.SnapKV(C, WINDOW),
    "pyramidkv": prefill.PyramidKV(C, WINDOW),
    "pyramidinfer-sum": prefill.PyramidInfer(C, WINDOW),
    "pyramidinfer-mean": prefill.PyramidInfer(C, WINDOW, votes="mean"),
    "pyramidinfer-released": prefill.PyramidInfer(C, WINDOW, votes="released", block=3),
    "recent": prefill.Recent(C, WINDOW),
    "random": prefill.Random(C, WINDOW),
}
SCORED = [name for name in PREFILL if name not in ("full", "streamingllm", "random")]
POOLED = ("snapkv", "pyramidkv")


def budget(method: str, layer: int, prompt: int) -> int:
    """C of that layer: what METHODS.md's table lets the method leave."""
    if method == "full":
        return prompt
    if method.startswith("pyramid") and prompt > C:
        return WINDOW + falling(layer, C - WINDOW, prompt - WINDOW)
    return C


def kept_of(method: PrefillMethod, prompt: Prompt, family: str = "llama") -> list[list[list[int]]]:
    """[layer][head] of one prompt: the positions that the prefill leaves."""
    return ran(method, decoding.KeepAll(), [prompt], 1, family)[1].of_row(0, 0)[0]


def check_best(kept: list[int], scores: list[float], number: int, ties: bool) -> None:
    """`kept` is the window and the `number` best-scored others; where scores tie, METHODS.md leaves the choice open."""
    length = len(scores)
    others = kept[: len(kept) - WINDOW]
    assert kept[len(kept) - WINDOW :] == list(range(length - WINDOW, length))
    assert len(others) == number
    if not number:  # a pyramid's last layer may have nothing beside the window
        return
    ranking = sorted(range(length - WINDOW), key=lambda slot: -scores[slot])
    last, tolerance = scores[ranking[number - 1]], 1e-6
    if ties:
        assert {slot for slot in ranking if scores[slot] > last + tolerance} <= set(others)
        assert all(scores[slot] >= last - tolerance for slot in others)
    else:
        if number < len(ranking):
            assert last - scores[ranking[number]] > tolerance  # else this seed cannot tell
        assert others == sorted(ranking[:number])


@pytest.mark.parametrize("length", [LONG, CLIPPED])
@pytest.mark.parametrize("method", SCORED)
def test_prefill_keeps_the_window_and_the_best_of_the_others(method: str, length: int) -> None:
    prompt = random_prompts(length)[0]
    seen = prompt_pass("llama", prompt.tokens)
    kept = kept_of(PREFILL[method], prompt)
    for layer in range(LAYERS):
        for head in range(HEADS):
            scores = naive_scores(method, seen, layer, head, None)
            check_best(kept[layer][head], scores, budget(method, layer, length) - WINDOW, method in POOLED)


@pytest.mark.parametrize("method", ["h2o-sum", "h2o-mean", "snapkv", "pyramidkv"])
def test_prefill_scores_by_the_models_own_attention(method: str) -> None:
    prompt = random_prompts(LONG)[0]
    seen = prompt_pass("qwen3", prompt.tokens)
    kept = kept_of(PREFILL[method], prompt, "qwen3")
    for layer in range(LAYERS):
        for head in range(HEADS):
            scores = naive_scores(method, seen, layer, head, None)
            check_best(kept[layer][head], scores, budget(method, layer, LONG) - WINDOW, method in POOLED)


@pytest.mark.parametrize("method", ["h2o-sum", "h2o-mean", "snapkv"])
def test_prefill_chooses_among_what_a_window_will_show(method: str) -> None:
    """The next token sees 16 others: of these the best, by the attention of the whole prompt within its windows."""
    prompt, reach, number = random_prompts(LONG)[0], SLIDING_WINDOW - 1, 6
    seen = prompt_pass("mistral_sliding", prompt.tokens)
    kept = kept_of(replace(PREFILL[method], budget=WINDOW + number), prompt, "mistral_sliding")
    for layer in range(LAYERS):
        for head in range(HEADS):
            scores = naive_scores(method, seen, layer, head, SLIDING_WINDOW)[-reach:]
            near = [position - (LONG - reach) for position in kept[layer][head]]
            check_best(near, scores, number, method in POOLED)


def test_the_scores_that_are_compared_do_choose_differently() -> None:
    prompt = random_prompts(LONG)[0]
    chosen = [str(kept_of(PREFILL[method], prompt)) for method in PREFILL]
    assert len(set(chosen)) == len(chosen)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_keeps_the_whole_prompt(family: str) -> None:
    lengths = (LONG, SHORT, CLIPPED)
    _, trace = ran(PREFILL["full"], decoding.KeepAll(), random_prompts(*lengths), 1, family)
    for row, length in enumerate(lengths):
        sliding = {"mistral_sliding": range(LAYERS), "gemma3": range(0, LAYERS, 2)}.get(family, ())
        firsts = [max(0, length - (SLIDING_WINDOW - 1)) if layer in sliding else 0 for layer in range(LAYERS)]
        assert trace.of_row(row, 0)[0] == [[list(range(first, length))] * HEADS for first in firsts]
        assert kept_of(PREFILL["full"], random_prompts(*lengths)[row], family) == trace.of_row(row, 0)[0]


@pytest.mark.parametrize(("window", "first"), [(None, C // 2), (3, C - 3), (C - 1, 1)])
def test_streamingllm_keeps_both_ends_of_the_prompt(window: int | None, first: int) -> None:
    kept = kept_of(prefill.StreamingLLM(C, window), random_prompts(LONG)[0])
    ends = [*range(first), *range(LONG - C + first, LONG)]
    assert kept == [[ends] * HEADS] * LAYERS


@pytest.mark.parametrize(("prompt", "flat"), [(2 * (C - WINDOW) - 1, True), (2 * (C - WINDOW), False)])
def test_a_flat_pyramid_is_for_prompts_under_twice_the_budget(prompt: int, flat: bool) -> None:
    method = prefill.PyramidKV(C, WINDOW, short="flat")
    left = [method.capacity(View(layer, LAYERS, prompt, stored=prompt)) for layer in range(LAYERS)]
    assert (left == [C] * LAYERS) == flat


def test_the_released_votes_hide_the_future_within_the_window_alone() -> None:
    prompt = random_prompts(LONG)[0]
    seen = prompt_pass("llama", prompt.tokens)
    at = torch.arange(LONG, dtype=torch.int32)[None]
    for layer in range(LAYERS):
        queries, keys, values = (states[layer][None] for states in (seen.queries, seen.keys, seen.values))
        whole = Attention(queries, keys, values, at[:, None].expand(-1, HEADS, -1), at, LayerRule(DIM**-0.5), layer)
        found = PREFILL["h2o-released"].score(whole)
        for head in range(HEADS):
            assert found[0, head].tolist() == pytest.approx(sums(released_weights(seen, layer, head), LONG), rel=1e-5)


@pytest.mark.parametrize("budget", [2, 3, 7, 15])
def test_of_an_odd_number_of_slots_streamingllm_gives_the_first_one_more(budget: int) -> None:
    kept = kept_of(prefill.StreamingLLM(budget), random_prompts(LONG)[0])
    last = budget // 2
    assert kept == [[[*range(budget - last), *range(LONG - last, LONG)]] * HEADS] * LAYERS


@pytest.mark.parametrize("length", [SHORT, C - 1, C])
@pytest.mark.parametrize("method", [name for name in PREFILL if name != "full"])
def test_a_prompt_within_the_budget_stays_whole(method: str, length: int) -> None:
    assert kept_of(PREFILL[method], random_prompts(length)[0]) == [[list(range(length))] * HEADS] * LAYERS


def test_random_keeps_the_window_and_as_many_others_by_lot() -> None:
    prompt = random_prompts(LONG)[0]
    chosen = set()
    for seed in range(20):
        for layer in kept_of(prefill.Random(C, WINDOW, seed), prompt):
            for head in layer:
                assert head[-WINDOW:] == list(range(LONG - WINDOW, LONG))
                assert len(set(head)) == len(head) == C
                chosen.add(tuple(head))
    assert len(chosen) == 20 * LAYERS * HEADS  # another lot for each seed, layer and head
    times = [sum(slot in head for head in chosen) for slot in range(LONG - WINDOW)]
    expected = len(chosen) * (C - WINDOW) / (LONG - WINDOW)
    assert min(times) > expected / 2  # nothing is favoured: 5 standard deviations
    assert max(times) < expected * 1.7


def test_random_draws_the_same_alone_and_in_a_batch() -> None:
    prompts = random_prompts(SHORT, LONG, CLIPPED)
    _, together = ran(PREFILL["random"], decoding.Random(D, RECENT), prompts, TOKENS)
    for row, prompt in enumerate(prompts):
        _, alone = ran(PREFILL["random"], decoding.Random(D, RECENT), [prompt], TOKENS)
        assert together.of_row(row, TOKENS) == alone.of_row(0, TOKENS)


# decoding, by hand


# (t, layer, head, positions held, this query's attention to each) -> the places that stay


# METHODS.md's decoding table


def region_size(strategy: str, t: int, layer: int, prefill_budget: int) -> int | None:
    """The most slots of the strategy's region after step t; None: the region is not cut at this step."""
    delta = max(1, (TOKENS - RECENT) // (D - RECENT))
    growing = min(D, RECENT + max(0, t - RECENT) // delta)
    if strategy in ("slide", "recent", "random"):
        return D
    if strategy == "adaptive":
        return growing
    if strategy == "discontinuous":
        return growing if t % delta == 0 else None
    if strategy in ("h2o", "streamingllm", "slide-unprotected"):
        return prefill_budget + D
    if strategy == "pyramidinfer":
        return prefill_budget + RECENT + falling(layer, D - RECENT, None)
    assert strategy == "none"
    return None


WHOLE = ("h2o", "streamingllm", "pyramidinfer", "slide-unprotected")  # their region is all slots


def rule_of(strategy: str, method: str, start: list[list[list[int]]], prompt: int) -> Rule:
    def rule(t: int, layer: int, head: int, positions: list[int], scores: list[float]) -> list[int]:
        places = list(range(len(positions)))
        protected = 0 if strategy in WHOLE else len(start[layer][head])
        size = region_size(strategy, t, layer, budget(method, layer, prompt))
        region = places[protected:]
        if size is None or len(region) <= size:
            return places
        last, rest = region[len(region) - RECENT :], region[: len(region) - RECENT]
        if strategy == "streamingllm":
            others = rest[: size - RECENT]
        elif strategy == "recent":
            others = rest[len(rest) - (size - RECENT) :]
        else:
            others = sorted(sorted(rest, key=lambda place: (-scores[place], -place))[: size - RECENT])
        return places[:protected] + others + last

    return rule


DECODING = {name: strategy for name, strategy in strategies(D, RECENT, TOKENS).items() if name != "random"}
DECODING["slide-unprotected"] = decoding.Slide(D, RECENT, protect="nothing")
PAIRS = [
    *((method, "slide", LONG, "llama") for method in PREFILL),
    *((method, strategy, LONG, "llama") for method in ("full", "snapkv") for strategy in DECODING),
    ("pyramidkv", "h2o", LONG, "llama"),
    ("pyramidkv", "slide-unprotected", CLIPPED, "llama"),
    ("pyramidinfer-sum", "pyramidinfer", LONG, "llama"),
    ("streamingllm", "streamingllm", LONG, "llama"),
    *(("snapkv", strategy, SHORT, "llama") for strategy in DECODING),
    ("pyramidkv", "pyramidinfer", SHORT, "llama"),
    ("snapkv", "adaptive", LONG, "qwen3"),
]


@pytest.mark.parametrize(("method", "strategy", "length", "family"), every(2, sorted(set(PAIRS))))
def test_decoding_writes_and_keeps_what_the_tables_say(method: str, strategy: str, length: int, family: str) -> None:
    prompt = random_prompts(length)[0]
    (generated,), trace = ran(PREFILL[method], DECODING[strategy], [prompt], TOKENS, family)
    start, *after = trace.of_row(0, TOKENS)
    tokens, history = ByHand(family, prompt, start).write(TOKENS, rule_of(strategy, method, start, length))
    assert list(generated.tokens) == tokens
    for t, (kept, expected) in enumerate(zip(after, history, strict=True)):
        assert kept == expected, f"step {t}"


@pytest.mark.parametrize("strategy", ["none", "slide", "h2o"])
def test_decoding_in_a_window_frees_first_what_is_out_of_sight(strategy: str) -> None:
    """No more is held than the next token sees; what it does not see goes first, then what the table says."""
    prompt, region, reach = random_prompts(LONG)[0], 6, SLIDING_WINDOW - 1
    method = prefill.SnapKV(WINDOW + 4, WINDOW)
    policy = decoding.KeepAll() if strategy == "none" else replace(DECODING[strategy], budget=region)
    (generated,), trace = ran(method, policy, [prompt], TOKENS, "mistral_sliding")
    start, *after = trace.of_row(0, TOKENS)

    def rule(t: int, layer: int, head: int, positions: list[int], scores: list[float]) -> list[int]:
        most = reach if strategy == "none" else min(reach, WINDOW + 4 + region)
        newest, surplus = positions[-1], len(positions) - most
        if surplus <= 0:
            return list(range(len(positions)))
        unseen = [place for place, position in enumerate(positions) if position < newest + 1 - reach]
        middle = [
            place
            for place, position in enumerate(positions)
            if place not in unseen and position <= newest - RECENT and (strategy == "h2o" or position >= LONG)
        ]
        gone = [*unseen, *sorted(middle, key=lambda place: (scores[place], place))][:surplus]
        return [place for place in range(len(positions)) if place not in gone]

    tokens, history = ByHand("mistral_sliding", prompt, start).write(TOKENS, rule)
    assert list(generated.tokens) == tokens
    assert after == history


@pytest.mark.parametrize("method", ["full", "snapkv"])
def test_random_decoding_evicts_one_by_lot_and_attends_to_what_is_left(method: str) -> None:
    prompt = random_prompts(LONG)[0]
    strategy = decoding.Random(D, RECENT, seed=5)
    (generated,), trace = ran(PREFILL[method], strategy, [prompt], TOKENS)
    start, *after = trace.of_row(0, TOKENS)

    def as_seen(t: int, layer: int, head: int, positions: list[int], _scores: list[float]) -> list[int]:
        kept = after[t][layer][head]
        assert set(kept) <= set(positions)
        assert kept[: len(start[layer][head])] == start[layer][head]
        assert len(kept) == len(start[layer][head]) + min(t + 1, D)
        last = min(RECENT, t + 1)
        assert kept[-last:] == positions[-last:]
        return [positions.index(position) for position in kept]

    assert list(generated.tokens) == ByHand("llama", prompt, start).write(TOKENS, as_seen)[0]
    ends = [tuple(head) for layer in after[-1] for head in layer]
    assert len(set(ends)) == LAYERS * HEADS
    _, other = ran(PREFILL[method], decoding.Random(D, RECENT, seed=6), [prompt], TOKENS)
    assert other.of_row(0, TOKENS) != trace.of_row(0, TOKENS)


def test_h2o_with_a_protected_prompt_is_slide() -> None:
    prompt = random_prompts(LONG)
    protected = ran(PREFILL["snapkv"], decoding.H2O(D, RECENT, protect="prompt"), prompt, TOKENS)[1]
    assert protected.steps == ran(PREFILL["snapkv"], DECODING["slide"], prompt, TOKENS)[1].steps
    assert protected.steps != ran(PREFILL["snapkv"], DECODING["h2o"], prompt, TOKENS)[1].steps


def test_streamingllm_with_a_protected_prompt_keeps_the_first_decoded_tokens() -> None:
    _, trace = ran(PREFILL["full"], decoding.StreamingLLM(D, RECENT, protect="prompt"), random_prompts(LONG), TOKENS)
    end = LONG + TOKENS - 1
    assert trace.of_row(0, TOKENS)[-1] == [[[*range(LONG + D - RECENT), *range(end - RECENT, end)]] * HEADS] * LAYERS


# schedules and plans: whole numbers only


def sizes_over_time(strategy: DecodingStrategy, prefilled: int, steps: int) -> list[tuple[int, int]]:
    """Per step the region's size before and after eviction, following the plans by counting."""
    stored, sizes = prefilled, []
    for t in range(steps):
        stored += 1
        view = View(0, LAYERS, prompt=99, stored=stored, capacity=prefilled, prefilled=(prefilled,) * LAYERS, step=t)
        plan, before = strategy.plan(view), stored
        if plan is not None:
            assert plan.head == prefilled
            stored = min(stored, plan.slots)
        sizes.append((before - prefilled, stored - prefilled))
    return sizes


SCHEDULES = [
    (10, 4, 40),
    (10, 4, 17),
    (10, 4, 400),
    (512, 256, 4096),
    (512, 256, 513),
    (5, 5, 30),
    (6, 1, 3),
    (20, 8, 5),
    (8, 4, 19),  # one token more gives another delta
]


@pytest.mark.parametrize(("size", "recent", "tokens"), SCHEDULES)
def test_adaptive_grows_by_equation_4(size: int, recent: int, tokens: int) -> None:
    strategy = decoding.Adaptive(size, recent, tokens=tokens)
    delta = strategy.interval  # at D = recent nothing can grow, and the formula has no value
    if size > recent:
        delta = max(1, math.floor((tokens - recent) / (size - recent)))
    assert strategy.interval == delta
    for t, (_, left) in enumerate(sizes_over_time(strategy, 7, 2 * tokens)):
        allowed = min(size, recent + math.floor(max(0, t - recent) / delta))
        assert left == min(t + 1, allowed)  # never more than the formula, and nothing goes before it must


@pytest.mark.parametrize(("size", "recent", "tokens"), SCHEDULES)
def test_discontinuous_cuts_every_delta_steps_and_never_exceeds_its_peak(size: int, recent: int, tokens: int) -> None:
    strategy = decoding.Discontinuous(size, recent, tokens=tokens)
    delta = decoding.Adaptive(size, recent, tokens=tokens).interval
    steps = sizes_over_time(strategy, 7, 2 * tokens)
    for t, (before, after) in enumerate(steps):
        if t % delta == 0:
            assert after <= min(size, recent + max(0, t - recent) // delta)
        else:
            assert after == before
    peak = max(before for before, _ in steps)
    assert peak <= size + delta
    most = strategy.most(View(0, LAYERS, prompt=99, stored=7, capacity=7, prefilled=(7,) * LAYERS))
    assert most is not None
    assert 7 + peak <= most
    if 2 * tokens > size + tokens + 2 * delta:  # long enough to have come round at full size
        assert 7 + peak == most == 7 + size + delta


@pytest.mark.parametrize("layers", [2, 3, 28, 32])
@pytest.mark.parametrize("mean", [12, 100, 2040])
@pytest.mark.parametrize("clipped", [False, True])
def test_the_released_pyramids_numbers_fall_and_are_more_than_the_budget(layers: int, mean: int, clipped: bool) -> None:
    most = mean * 3 // 2 if clipped else 10 * mean
    numbers = [pyramid(layer, layers, mean, most, BETA, "floor") for layer in range(layers)]
    low = mean // BETA
    high = min(most, 2 * mean - low)
    assert all(type(number) is int for number in numbers)
    assert numbers[0] == high
    steps = {a - b for a, b in pairwise(numbers)}
    assert steps == {(high - (2 * mean - high)) // layers}
    assert (min(steps) > 0) == (2 * (high - mean) >= layers)  # else the step rounds to nothing: the formula's own limit
    assert numbers[-1] >= max(low, 2 * mean - most)
    # layer l stands at l/L of the way: half a step above the mean; a step rounded down adds up to half a slot a layer
    assert 0 <= sum(numbers) - layers * mean <= high - mean + layers * (layers - 1) // 2


@given(data=st.data(), layers=st.integers(1, 130), mean=st.integers(1, 5000), beta=st.integers(1, 60))
def test_a_pyramid_shares_out_exactly_its_budget(data: st.DataObject, layers: int, mean: int, beta: int) -> None:
    """All that is meant by it: the sum, that it falls, its ends, and that it is a line but for rounding."""
    most = data.draw(st.integers(mean, 3 * mean))
    numbers = [pyramid(layer, layers, mean, most, beta) for layer in range(layers)]
    high = min(most, 2 * mean - mean // beta)
    assert sum(numbers) == layers * mean
    assert all(type(number) is int for number in numbers)
    assert all(a >= b for a, b in pairwise(numbers))
    assert 0 <= numbers[-1] <= numbers[0] <= most
    for layer, number in enumerate(numbers):
        line = Fraction(high) - Fraction(layer, max(1, layers - 1)) * 2 * (high - mean) if layers > 1 else mean
        assert abs(number - line) < 1


@given(
    layers=st.integers(1, 130),
    budget=st.integers(2, 3000),
    beta=st.integers(1, 60),
    prompt=st.integers(1, 9000),
    data=st.data(),
)
@pytest.mark.parametrize("make", [prefill.PyramidKV, prefill.PyramidInfer])
def test_a_pyramid_keeps_the_budget_on_average(
    make: type[prefill.PyramidKV], layers: int, budget: int, beta: int, prompt: int, data: st.DataObject
) -> None:
    """Over every prompt, also one at which the first layers are clipped: what they cannot hold is the others'."""
    window = data.draw(st.integers(1, budget - 1))
    left = prefilled(make(budget, window, beta=beta), prompt, layers)
    assert sum(left) == layers * min(budget, prompt)
    assert all(min(window, prompt) <= n <= prompt for n in left)
    assert left == sorted(left, reverse=True)


def test_the_promise_that_a_pyramid_broke() -> None:
    assert sum(prefilled(prefill.PyramidKV(40, 8), 90, 32)) == 32 * 40
    assert sum(prefilled(prefill.PyramidKV(2048, 8), 9000, 30)) == 30 * 2048
    assert sum(prefilled(prefill.PyramidKV(40, 8, pyramid="floor"), 90, 32)) == 1776  # 55.5 a layer, as released
    views = [View(layer, 30, prompt=99, stored=99) for layer in range(30)]
    assert sum(decoding.PyramidInfer(512, 256).limit(view) for view in views) == 30 * 512


@pytest.mark.parametrize(
    ("share", "prompt", "count"), [(0.5, 40, 20), (0.25, 41, 10), (0.3, 39, 12), (0.01, 40, WINDOW + 1), (0.99, 40, 40)]
)
def test_a_share_of_the_prompt_becomes_a_count(share: float, prompt: int, count: int) -> None:
    for method in (prefill.H2O(share, WINDOW), prefill.SnapKV(share, WINDOW), prefill.Random(share, WINDOW)):
        slots = method.capacity(View(0, LAYERS, prompt=prompt, stored=prompt))
        assert type(slots) is int
        assert slots == count
        kept = kept_of(method, random_prompts(prompt)[0])
        assert [len(head) for layer in kept for head in layer] == [count] * (LAYERS * HEADS)


def test_the_decode_oracle_is_not_blind() -> None:
    """The twin of the storage, given a rule that forgets one token, must disagree with the oracle."""

    class Forgetful(Concatenated):
        def append(self, keys: Tensor, values: Tensor) -> None:
            super().append(keys, values * 0 if int(self.newest[0]) == LONG + 2 else values)

    prompt = random_prompts(LONG)[0]
    trace = Trace()
    model = tiny()
    (generated,) = generate(
        model, WORDS, [prompt], PREFILL["snapkv"], DECODING["slide"], TOKENS, storage=Forgetful, observe=trace
    )
    start = trace.of_row(0, 0)[0]
    tokens, _ = ByHand("llama", prompt, start).write(TOKENS, rule_of("slide", "snapkv", start, LONG))
    assert list(generated.tokens) != tokens
