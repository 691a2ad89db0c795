"""Layers with a sliding window: what they hold, what that is compared with, and that nothing in sight is lost for it.

Oracles: transformers' own cache, of the same configuration and filled with the same tokens, by its tensors' bytes
and by its text; the plain twin of the storage; sizes added up in loops."""

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers.pairs import DECODING, PREFILL
from helpers.quick import every, slow
from hypothesis import given, settings
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
    tiny,
)
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    DynamicCache,
    Gemma3TextConfig,
    Gemma4TextConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from scope import decoding, prefill
from scope.cache import CompressedCache, Layout, Policy, sizes
from scope.cache.slots import Slots
from scope.cache.storage import Kept
from scope.cache.twin import Concatenated
from scope.decoding import DecodingStrategy, KeepAll
from scope.policy.plan import Plan
from scope.prefill import PrefillMethod
from scope.runs.answers import record
from scope.tasks import Arithmetic
from scope.util.errors import ScopeError

SLIDING = ("mistral_sliding", "gemma3")
SLOT = HEADS * 2 * DIM * 8  # bytes of a key and a value in one layer, float64
SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": None,
    "bos_token_id": 1,
}
MIXED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
OTHERS: dict[str, PretrainedConfig] = {
    "phi3": Phi3Config(sliding_window=9, **SMALL),
    "qwen2": Qwen2Config(use_sliding_window=True, sliding_window=9, max_window_layers=2, **SMALL),
    "qwen3": Qwen3Config(use_sliding_window=True, sliding_window=9, max_window_layers=1, head_dim=8, **SMALL),
    "cohere2": Cohere2Config(sliding_window=9, layer_types=MIXED, **SMALL),
    "gemma3 twice as wide": Gemma3TextConfig(sliding_window=18, head_dim=16, layer_types=MIXED, **SMALL),
    "gemma4": Gemma4TextConfig(
        sliding_window=9,
        head_dim=8,
        global_head_dim=16,
        layer_types=MIXED,
        num_kv_shared_layers=0,
        hidden_size_per_layer_input=0,
        **SMALL,
    ),
}


def made(name: str) -> PreTrainedModel:
    """One of FAMILIES or of OTHERS, with transformers' own attention."""
    if name in FAMILIES:
        return copy.deepcopy(tiny(name, "sdpa"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(copy.deepcopy(OTHERS[name]), attn_implementation="sdpa")
    return model.to(torch.float64).eval()


def held(cache: DynamicCache) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


@pytest.mark.parametrize("prompt", [5, 9, 40])
@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_what_is_compared_with_is_transformers_own_cache(name: str, prompt: int) -> None:
    """Below a window, at it, and beyond; the bytes of the tensors that transformers holds, and the same text."""
    stock, ours, tokens = made(name), made(name), 14
    ids = torch.tensor([random_prompts(prompt)[0].tokens]) % 50 + 3
    whole, cache = DynamicCache(config=stock.config), CompressedCache(ours.config, layout=Layout(tokens))
    more = {"max_new_tokens": tokens, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    expected = stock.generate(ids, past_key_values=whole, **more)
    assert ours.generate(ids, past_key_values=cache, **more).tolist() == expected.tolist()
    fed = prompt + tokens - 1
    assert cache.full_bytes(fed) == held(whole)
    assert sizes.full_bytes(ours.config, "float64", fed) == held(whole)
    windows = [getattr(layer, "sliding_window", None) for layer in whole.layers]
    assert cache.slots(0, tokens - 1) == [fed if w is None else min(fed, w - 1) for w in windows]
    told = sizes.cache_bytes(ours.config, Policy(), "float64", prompt, tokens)
    one_more = sum(cache.slot_bytes(i) for i, w in enumerate(windows) if w is not None and fed >= w)
    assert told == held(whole) + one_more  # a token comes before another goes
    assert cache.nbytes <= told + LAYERS * SLOT  # room for the last token, which is never fed back


def test_the_case_that_was_seen() -> None:
    """Gemma-3-270M, 1,200 tokens: 18 layers, of which every sixth sees all, one head of 256, float32."""
    config = Gemma3TextConfig(
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        hidden_size=640,
        sliding_window=512,
        layer_types=[("sliding_attention", "full_attention")[i % 6 == 5] for i in range(18)],
    )
    whole = sizes.full_bytes(config, "float32", 1200)
    assert whole == (15 * 511 + 3 * 1200) * 2 * 256 * 4
    assert 23.0e6 < whole < 23.1e6
    snapkv = sizes.cache_bytes(config, Policy(prefill.SnapKV(600, 32), decoding.Slide(1, 1)), "float32", 1199, 2)
    assert snapkv == (15 * 512 + 3 * 601) * 2 * 256 * 4
    assert 0.8 < snapkv / whole < 0.85


@pytest.mark.parametrize("prompt", [3, SLIDING_WINDOW - 1, SLIDING_WINDOW, 40])
def test_what_is_kept_of_a_prompt_is_what_transformers_own_cache_keeps(prompt: int) -> None:
    config = tiny("gemma3").config
    theirs = DynamicCache(config=config)
    states = torch.zeros(1, 1, prompt, 8)
    held = [theirs.update(states, states, layer) and theirs.layers[layer].keys.shape[2] for layer in range(LAYERS)]
    views = sizes.after_prefill(Policy(), prompt, sizes.windows_of(config))
    assert [view.kept for view in views] == held


# snapkv on every family, and another on gemma3, which has layers of both kinds, are enough for a start
EVERYWHERE = [
    (method, family) if method == "snapkv" or (method, family) == ("h2o", "gemma3") else slow(method, family)
    for method in ("full", "snapkv", "pyramidkv", "h2o", "streamingllm")
    for family in SLIDING
]


@pytest.mark.parametrize("strategy", DECODING)
@pytest.mark.parametrize(("method", "family"), every(2, EVERYWHERE))
def test_in_place_is_the_twin_and_no_layer_holds_more_than_its_window(method: str, strategy: str, family: str) -> None:
    model, prompts, tokens = tiny(family), random_prompts(30, 9, 21), 40
    told = []
    for storage in (Slots, Concatenated):
        trace = Trace()
        rows = generate(
            model, WORDS, prompts, PREFILL[method], DECODING[strategy], tokens, storage=storage, observe=trace
        )
        told.append(([row.tokens for row in rows], trace.steps))
    assert told[0] == told[1]
    windows = sizes.windows_of(model.config)
    assert SLIDING_WINDOW in windows
    for step, layers in enumerate(told[0][1]):
        for window, positions in zip(windows, layers, strict=True):
            for prompt, heads in zip(prompts, positions, strict=True):
                for kept in heads:
                    assert kept[-1] == len(prompt.tokens) + step - 1
                    assert len(set(kept)) == len(kept) <= (window or 10**9)


@pytest.mark.parametrize("family", SLIDING)
@pytest.mark.parametrize("strategy", ["slide", "h2o", "recent", "random", "adaptive"])
def test_nothing_in_sight_goes_while_something_out_of_sight_is_held(strategy: str, family: str) -> None:
    """And of a strategy that evicts at each step, nothing out of sight is held for longer than that."""
    model, tokens, trace = tiny(family), 60, Trace()
    policy = replace(DECODING[strategy], budget=6, recent=3)
    generate(model, WORDS, random_prompts(30), prefill.SnapKV(8, 3), policy, tokens, observe=trace)
    lost = 0
    for layer, window in enumerate(sizes.windows_of(model.config)):
        for head in range(HEADS):
            times = [set(step[layer][0][head]) for step in trace.steps]
            for t, (before, after) in enumerate(pairwise(times)):
                newest = 30 + t
                seen_next = range(newest + 2 - window, newest + 1) if window else range(newest + 1)
                gone = before - after
                if any(position in seen_next for position in gone):
                    assert all(position in seen_next for position in after)
                lost += sum(position not in seen_next for position in gone)
            if window:
                assert all(position in seen_next for position in times[-1])
    assert lost


@pytest.mark.parametrize("family", SLIDING)
@pytest.mark.parametrize("method", ["snapkv", "h2o", "random"])
def test_the_prefill_chooses_among_what_will_be_seen(method: str, family: str) -> None:
    trace, chosen = Trace(), replace(PREFILL[method], budget=8, window=3)
    generate(tiny(family), WORDS, random_prompts(40), chosen, KeepAll(), 1, observe=trace)
    for layer, window in enumerate(sizes.windows_of(tiny(family).config)):
        for kept in trace.steps[0][layer][0]:
            assert len(kept) == 8
            assert window is None or kept[0] >= 40 - (window - 1)


@pytest.mark.parametrize("family", SLIDING)
def test_rows_are_those_of_the_sample_alone(family: str) -> None:
    """Ragged, refilled, and in chunks; each evicting."""
    prompts, pair = random_prompts(30, 9, 21, 40), (prefill.SnapKV(8, 3), decoding.Slide(6, 3))
    together = generate(tiny(family), WORDS, prompts, *pair, 40, batch_size=2)
    chunked = generate(tiny(family), WORDS, prompts, *pair, 40, prefill_chunk=7)
    for prompt, one, other in zip(prompts, together, chunked, strict=True):
        (alone,) = generate(tiny(family), WORDS, [prompt], *pair, 40)
        assert alone.tokens == one.tokens == other.tokens
        assert alone.trace == one.trace == other.trace


@pytest.mark.parametrize("engine", ["graph"])
@pytest.mark.parametrize("strategy", [slow("none"), "slide", slow("h2o")])
def test_recorded_steps_are_those_that_run(strategy: str, engine: str) -> None:
    args = (tiny("gemma3"), WORDS, random_prompts(30, 9), PREFILL["snapkv"], DECODING[strategy], 40)
    plain, recorded = generate(*args), generate(*args, engine=engine)
    assert [row.tokens for row in plain] == [row.tokens for row in recorded]


POLICIES: dict[str, tuple[PrefillMethod, DecodingStrategy]] = {
    "slide": (prefill.SnapKV(16, 4), decoding.Slide(8, 4)),
    "h2o": (prefill.PyramidKV(16, 4), decoding.H2O(8, 4)),
    "raas": (prefill.SnapKV(16, 4), decoding.RaaS(8, 4)),
    "discontinuous": (prefill.Full(), decoding.Discontinuous(8, 4, tokens=50)),
}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("prompt", [9, 30])
@pytest.mark.slow
def test_bytes_are_those_that_are_taken_and_filled(name: str, prompt: int) -> None:
    """Records, the forecast and what is allocated; and with a bound in bytes the largest D that it has room for."""
    (method, policy), model, tokens = POLICIES[name], tiny("gemma3"), 50
    allocated: list[int] = []

    def taken(given: DecodingStrategy, max_bytes: int | None = None) -> tuple[int, int]:
        allocated.clear()
        watch = {"observe": lambda cache: allocated.append(cache.nbytes)}
        (row,) = generate(model, WORDS, random_prompts(prompt), method, given, tokens, max_bytes=max_bytes, **watch)
        told = sizes.cache_bytes(model.config, Policy(method, given, max_bytes=max_bytes), "float64", prompt, tokens)
        of_slot = SLOT + 4 * HEADS * len(policy.channels)
        assert row.cache_bytes <= told
        assert max(allocated) <= told + LAYERS * of_slot
        assert row.full_cache_bytes == sizes.full_bytes(model.config, "float64", prompt + tokens - 1)
        return told, row.cache_bytes

    taken(policy)
    for bound in (100 * SLOT, 131 * SLOT):
        told, _ = taken(policy, bound)
        assert told <= bound
        fitting = []
        for size in range(4, 90):  # what each D would take, in slots
            other = replace(policy, budget=size)
            if sizes.cache_bytes(model.config, Policy(method, other), "float64", prompt, 10**6) <= bound:
                fitting.append(other)
        if fitting:
            free = sizes.cache_bytes(model.config, Policy(method, fitting[-1]), "float64", prompt, tokens)
            assert told >= free - LAYERS * SLOT


def test_a_window_that_the_configuration_does_not_tell_is_refused() -> None:
    model, other = made("mistral_sliding"), made("mistral")
    cache = CompressedCache(other.config)
    CompressedCache(model.config)  # adopts it
    with torch.no_grad(), pytest.raises(ScopeError, match="not made from this model's configuration"):
        model(torch.tensor([[3, 4, 5]]), past_key_values=cache)


def test_layers_that_share_what_they_hold_are_refused() -> None:
    config = replace_config(OTHERS["gemma4"], num_kv_shared_layers=2)
    with pytest.raises(ScopeError, match=r"this model.*layers"):
        CompressedCache(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").config)


def replace_config(config: PretrainedConfig, **changes: object) -> PretrainedConfig:
    told = Gemma4TextConfig(
        sliding_window=9,
        head_dim=8,
        layer_types=MIXED,
        hidden_size_per_layer_input=0,
        **(SMALL | changes),  # type: ignore[arg-type]
    )
    assert type(told) is type(config)
    return told


# the storage alone, over random plans


@given(data=st.data())
@settings(deadline=None)
def test_the_storage_in_place_is_its_twin_over_any_plans(data: st.DataObject) -> None:
    window, heads = data.draw(st.integers(2, 7)), data.draw(st.integers(1, 2))
    prompts = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    rows, lots = len(prompts), torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    stored = tuple(data.draw(st.integers(1, min(n, window - 1))) for n in prompts)
    width = max(stored)
    positions = torch.full((rows, heads, width), -1)
    for b, (prompt, count) in enumerate(zip(prompts, stored, strict=True)):
        near = torch.arange(max(0, prompt - (window - 1)), prompt)
        for h in range(heads):
            positions[b, h, :count] = near[torch.randperm(len(near), generator=lots)[:count].sort().values]
    states = positions[..., None].double()
    kept = Kept(states, states, positions, stored, torch.tensor(prompts).int() - 1, {}, window)
    both = Slots(kept, window), Concatenated(kept, window)
    small = st.integers(0, 4)
    for _ in range(data.draw(st.integers(1, 20))):
        plans: list[Plan | None] = [
            data.draw(st.none() | st.builds(Plan, small, small, st.integers(1, 4))) for _ in range(rows)
        ]
        by_position = torch.rand(rows, heads, 64, generator=lots)
        told = []
        for storage in both:
            storage.begin(plans)
            new = (storage.newest + 1)[:, None, None, None].expand(-1, heads, -1, -1).double()
            storage.append(new, new)
            assert storage.positions.shape[-1] <= window
            worth = by_position.gather(-1, storage.positions.long().clamp(min=0))
            storage.evict(worth)
            held_now = storage.positions
            told.append([[sorted(p for p in head if p >= 0) for head in row] for row in held_now.tolist()])
            real = held_now >= 0
            assert torch.equal(storage.keys[..., 0][real], held_now[real].double())
        assert told[0] == told[1]
        assert both[0].stored == both[1].stored == [len(row[0]) for row in told[0]]
        assert max(both[0].stored) <= window - 1


def test_what_has_left_a_window_is_not_told_as_evicted() -> None:
    """A run that evicts nothing says so, and one that does is compared with what a full cache holds."""
    model, tokens = tiny("gemma3"), 30
    tight = (prefill.SnapKV(8, 3), decoding.Slide(6, 3))
    for pair in ((prefill.SnapKV(90, 3), decoding.Slide(90, 3)), tight):
        (row,) = generate(model, WORDS, random_prompts(40), *pair, tokens)
        line = record(Arithmetic(questions=1, prompts=1), Arithmetic(questions=1, prompts=1).samples()[0], 40, row)
        assert line["prefill_full"] == [16, 40, 16]
        assert line["slots_full"] == [16, 69, 16]
        if pair == tight:
            assert (line["prefill_evicted"], line["decode_evicted"]) == (8 + 32 + 8, 23)
            assert line["slots_kept"] == [14, 14, 14]
        else:
            assert (line["prefill_evicted"], line["decode_evicted"]) == (0, 0)
            assert line["slots_kept"] == line["slots_full"]
