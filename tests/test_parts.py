"""Prompts that are read some at a time, while the other rows hold their budgets. Oracle: each prompt alone."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.quick import every, slow
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import SCOPE, WORDS, generate, random_prompts, tiny

from experiments.benchmarks.timing import PeakMemory
from scope import decoding, prefill
from scope.cache import CompressedCache, Policy, sizes
from scope.cache.slots import Slots
from scope.cache.storage import StorageFactory
from scope.cache.twin import Concatenated
from scope.decoding import DecodingStrategy
from scope.generation.engine import READ, Engine, read_together
from scope.generation.models import RandomModel
from scope.generation.options import Options
from scope.generation.rows import Generated
from scope.policy.attention import Attention
from scope.prefill import PrefillMethod
from scope.util.errors import SettingError
from scope.util.memory import rows_that_fit

TOKENS = 20
LENGTHS = (9, 30, 21, 40, 12)
PAIRS: dict[str, tuple[PrefillMethod, DecodingStrategy]] = {
    "h2o-slide": (prefill.H2O(16, 4), decoding.Slide(10, 4)),
    "full-none": (prefill.Full(), decoding.KeepAll()),
    "shared heads-morphkv": (prefill.SnapKV(16, 4, heads="shared"), decoding.MorphKV(10, 4)),
    "pyramidkv-accumulated_h2o": (prefill.PyramidKV(16, 4), decoding.AccumulatedH2O(10, 4)),
    "tova-tova": (prefill.TOVA(16, 4), decoding.TOVA(10, 4)),
}
CPU = torch.device("cpu")


def timeless(rows: Sequence[Generated]) -> list[Generated]:
    return [replace(row, prefill_seconds=0.0, decode_seconds=0.0, batch_seconds=0.0) for row in rows]


def ends_apart(monkeypatch: pytest.MonkeyPatch, pair: str, family: str) -> list[Generated]:
    """The rows, each written alone, once ends of sequence have been set so that they end at different times."""
    model, prompts = tiny(family), random_prompts(*LENGTHS)
    free = [generate(model, WORDS, [prompt], *PAIRS[pair], TOKENS)[0] for prompt in prompts]
    ends = {row.tokens[3 + 4 * i] for i, row in enumerate(free[::2])}
    monkeypatch.setattr(model.generation_config, "eos_token_id", sorted(ends))
    alone = [generate(model, WORDS, [prompt], *PAIRS[pair], TOKENS)[0] for prompt in prompts]
    assert len({len(row.tokens) for row in alone}) > 1
    return alone


@pytest.mark.parametrize("storage", [Slots, Concatenated])
@pytest.mark.parametrize("pair", every(2, PAIRS))
@pytest.mark.slow
def test_rows_are_what_they_are_alone(pair: str, storage: StorageFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = ends_apart(monkeypatch, pair, "llama")
    for rows, at_once in ((5, 1), (5, 2), (3, 1), (2, "auto")):
        options: dict[str, Any] = {"batch_size": rows, "prefill_rows": at_once, "storage": storage}
        made = generate(tiny(), WORDS, random_prompts(*LENGTHS), *PAIRS[pair], TOKENS, **options)
        assert timeless(made) == timeless(alone)


@pytest.mark.parametrize(
    "options",
    [
        slow({"engine": "graph"}),
        {"ahead": True},
        {"prefill_chunk": 7},
        {"granularity": "query_head"},
        {"precision": "int8"},
    ],
    ids=str,
)
def test_and_in_every_way_to_run_them(options: dict[str, Any]) -> None:
    prompts, pair = random_prompts(*LENGTHS), PAIRS["h2o-slide"]
    own = {name: each for name, each in options.items() if name in ("granularity", "precision")}
    alone = [generate(tiny("gemma3"), WORDS, [prompt], *pair, TOKENS, **own)[0] for prompt in prompts]
    made = generate(tiny("gemma3"), WORDS, prompts, *pair, TOKENS, batch_size=4, prefill_rows=1, **options)
    assert timeless(made) == timeless(alone)


def test_the_batch_has_its_slots_from_the_start() -> None:
    """Also for a longer prompt, and for a layer in which a shorter prompt keeps more, as a pyramid's last may."""
    caches: dict[object, list[int]] = {}
    for at_once in (5, 1):
        seen: list[int] = []
        pair = (prefill.PyramidKV(16, 4), decoding.Slide(10, 4))
        options: dict[str, Any] = {
            "prefill_rows": at_once,
            "observe": lambda cache, seen=seen: seen.append(cache.nbytes),
        }
        generate(tiny(), WORDS, random_prompts(*LENGTHS), *pair, TOKENS, **options)
        caches[at_once] = seen
    assert len(caches[1]) == TOKENS
    assert caches[1] == caches[5]
    assert len(set(caches[1])) == 1


def test_memory_is_the_budgets_of_all_rows_and_one_prompt() -> None:
    """The most bytes of all tensors at once, over whole generations with refilled rows, from torch's profile."""
    source = RandomModel(hidden_size=64, intermediate_size=64, num_attention_heads=4, num_hidden_layers=2, device="cpu")
    model = source.weights(SCOPE)
    policy, rows, tokens, longest = Policy(prefill.SnapKV(128, 8), decoding.Slide(32, 8)), 12, 48, 900
    prompts = random_prompts(*[longest - 10 * i for i in range(20)])
    row = sizes.cache_bytes(model.config, policy, "float32", longest, tokens)
    once = sizes.prefill_bytes(model.config, policy, "float32", longest, longest)
    once += sizes.cache_bytes(model.config, policy, "float32", longest, 1)
    most = {}
    for at_once in (1, rows):
        with PeakMemory(CPU) as peak:
            pair = policy.prefill, policy.decoding
            generate(model, WORDS, prompts, *pair, tokens, batch_size=rows, prefill_rows=at_once)
        most[at_once] = peak.bytes
    assert 0.9 * rows * row < most[1] < 1.1 * rows * row + once
    assert most[rows] > 2 * most[1]


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 2 * READ), min_size=1, max_size=30),
    asked=st.one_of(st.just("auto"), st.integers(1, 40)),
)
def test_how_many_are_read_at_a_time(lengths: list[int], asked: int | str) -> None:
    count = read_together(asked, lengths)
    if asked != "auto":
        assert count == min(int(asked), len(lengths))
        return
    fitting = [n for n in range(1, len(lengths) + 1) if n * max(lengths[:n]) <= READ]
    assert count == max(fitting, default=1)


@settings(deadline=None)
@given(room=st.integers(1, 3000), row=st.integers(1, 300), once=st.integers(0, 1000), at_once=st.integers(1, 8))
def test_how_many_rows_fit(room: int, row: int, once: int, at_once: int) -> None:
    def takes(rows: int) -> int:
        return rows * row + min(rows, at_once) * once

    fit = list(itertools.takewhile(lambda n: takes(n) <= room, itertools.count(1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scope.util.memory.free_memory", lambda device: room)
        if fit:
            assert rows_that_fit(row, once, CPU, at_once, share=1) == fit[-1]


@pytest.mark.parametrize("kind", [Engine, Options])
@pytest.mark.parametrize("wrong", [0, -1, "all", 1.5])
def test_what_is_no_number_of_prompts_is_refused(kind: Any, wrong: object) -> None:
    with pytest.raises(SettingError, match="prefill_rows"):
        kind(prefill_rows=wrong)


def naive_votes(read: Attention, window: int | None) -> torch.Tensor:
    """[B, H, P]: the softmax of each query, one after the other, summed; the mean over a head's group."""
    batch, heads, columns, _ = read.keys.shape
    group = read.queries.shape[1] // heads
    total = torch.zeros(batch, heads, columns, dtype=torch.float64)
    for b, head, g, column in itertools.product(range(batch), range(heads), range(group), range(columns)):
        at = int(read.query_positions[b, column])
        if at < 0:
            continue
        first = column - at if window is None else max(column - at, column - window + 1)
        logits = read.keys[b, head, first : column + 1].double() @ read.queries[b, head * group + g, column].double()
        total[b, head, first : column + 1] += (logits * read.scaling).softmax(-1) / group
    return total


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
def test_votes_of_chunks_are_the_votes_of_all_queries(family: str, granularity: str) -> None:
    seen: list[Attention] = []
    options: dict[str, Any] = {"granularity": granularity, "prefill_chunk": 11, "watch": seen.append}
    pair = prefill.H2O(16, 4), decoding.KeepAll()
    generate(tiny(family), WORDS, random_prompts(30, 9, 21), *pair, 1, **options)
    assert len(seen) == 3
    for read in seen:
        assert read.summed is not None
        expected = naive_votes(read, read.sliding_window)
        torch.testing.assert_close(read.summed.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "method",
    [prefill.H2O(16, 4, votes="mean"), prefill.PyramidInfer(16, 4), prefill.H2O(16, 4, votes="released")],
    ids=["mean", "pyramidinfer", "released"],
)
def test_a_method_that_sums_votes_keeps_the_same_of_chunks(method: PrefillMethod) -> None:
    held = []
    for chunk in (None, 11):
        caches: list[CompressedCache] = []
        options: dict[str, Any] = {"prefill_chunk": chunk, "observe": caches.append}
        generate(tiny("gemma3"), WORDS, random_prompts(30, 9, 40), method, decoding.KeepAll(), 1, **options)
        held.append([caches[0].positions(layer).tolist() for layer in range(3)])
    assert held[0] == held[1]
