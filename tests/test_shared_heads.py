"""Heads of a layer that share the slots of the prompt: which slots each gets, and what it keeps from then on.

The oracles: the shares are dealt out one by one in a loop, from naive scores; decoding is a forward pass by hand over
python lists, one for each layer and head.
"""

from typing import Any

import pytest
import torch
from helpers.by_hand import (
    LONG,
    RECENT,
    SHORT,
    TOKENS,
    WINDOW,
    ByHand,
    C,
    D,
    naive_scores,
    prompt_pass,
    ran,
)
from helpers.replays import check
from tiny_models import HEADS, LAYERS, WORDS, generate, random_prompts, stored, tiny

from scope import decoding, prefill
from scope.cache import CompressedCache, Policy
from scope.cache.sizes import cache_bytes
from scope.cache.slots import Slots
from scope.cache.storage import StorageFactory
from scope.cache.twin import Concatenated
from scope.records.identity import describe
from scope.util.errors import SettingError

SNAPKV = prefill.SnapKV(C, WINDOW, heads="shared")
STRATEGIES: dict[str, Any] = {
    "none": decoding.KeepAll(),
    "slide": decoding.Slide(D, RECENT),
    "h2o": decoding.H2O(D, RECENT),
    "streamingllm": decoding.StreamingLLM(D, RECENT),
}


def dealt(scores: list[list[float]], least: int) -> list[list[int]]:
    """The slots of each head's prompt that stay: each head's own best, then one by one the best that is left."""
    length = len(scores[0])
    free = {(head, slot): own[slot] for head, own in enumerate(scores) for slot in range(length - WINDOW)}
    kept: list[list[int]] = []
    for head in range(HEADS):
        own = sorted((pair for pair in free if pair[0] == head), key=lambda pair: free[pair], reverse=True)[:least]
        kept.append([slot for _, slot in own])
        for pair in own:
            del free[pair]
    while sum(map(len, kept)) < HEADS * (C - WINDOW):
        head, slot = max(free, key=lambda pair: free[pair])
        del free[head, slot]
        kept[head].append(slot)
    return [sorted(own) + list(range(length - WINDOW, length)) for own in kept]


@pytest.mark.parametrize("least", [0.0, 0.2, 0.75, 1.0])
@pytest.mark.parametrize("votes", ["sum", "mean"])
def test_the_best_of_a_layer_stay_and_each_head_has_its_least(votes: str, least: float) -> None:
    prompt = random_prompts(LONG)[0]
    method = prefill.H2O(C, WINDOW, votes, heads="shared", least=least)
    _, trace = ran(method, STRATEGIES["none"], [prompt], 2)
    seen = prompt_pass("llama", prompt.tokens)
    kept = trace.of_row(0, 0)[0]
    for layer in range(LAYERS):
        scores = [naive_scores(f"h2o-{votes}", seen, layer, head, None) for head in range(HEADS)]
        assert kept[layer] == dealt(scores, int(least * (C - WINDOW)))
    counts = {len(head) for layer in kept for head in layer}
    assert (counts == {C}) == (least == 1.0)


def rule_of(strategy: str, start: list[list[list[int]]], length: int) -> Any:
    """What the tables say: of C slots and D more, where a head has as many more or fewer as the prefill gave it."""

    def rule(_t: int, layer: int, head: int, positions: list[int], scores: list[float]) -> list[int]:
        held, given = len(positions), len(start[layer][head])
        size = given + D if strategy == "slide" else C + D + given - min(C, length)
        if strategy == "none" or held <= size:
            return list(range(held))
        first = {"slide": given, "h2o": 0, "streamingllm": size - RECENT}[strategy]
        middle = range(first, held - RECENT)
        best = sorted(middle, key=lambda place: (scores[place], place), reverse=True)[: size - RECENT - first]
        return [*range(first), *sorted(best), *range(held - RECENT, held)]

    return rule


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("length", [LONG, SHORT])
def test_each_head_decodes_with_its_own_number_of_slots(strategy: str, length: int) -> None:
    prompt = random_prompts(length)[0]
    (generated,), trace = ran(SNAPKV, STRATEGIES[strategy], [prompt], TOKENS)
    start, *after = trace.of_row(0, TOKENS)
    tokens, history = ByHand("llama", prompt, start).write(TOKENS, rule_of(strategy, start, length))
    assert list(generated.tokens) == tokens
    for t, (kept, expected) in enumerate(zip(after, history, strict=True)):
        assert kept == expected, f"step {t}"


@pytest.mark.parametrize("strategy", ["slide", "h2o"])
def test_rows_of_a_batch_and_rows_that_come_later_are_as_they_are_alone(strategy: str) -> None:
    prompts = random_prompts(LONG, SHORT, 33, 28, 5)
    together = generate(tiny(), WORDS, prompts, SNAPKV, STRATEGIES[strategy], 20, batch_size=2)
    for prompt, row in zip(prompts, together, strict=True):
        (alone,) = generate(tiny(), WORDS, [prompt], SNAPKV, STRATEGIES[strategy], 20)
        assert (row.tokens, row.trace) == (alone.tokens, alone.trace)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("strategy", [decoding.KeepAll(), decoding.AccumulatedH2O(D, RECENT), decoding.Distinct(D, 4)])
def test_it_replays_as_it_decodes(family: str, strategy: Any) -> None:
    check(family, Policy(SNAPKV, strategy))


@pytest.mark.parametrize("storage", [Slots, Concatenated])
def test_in_every_storage_and_for_query_heads(storage: StorageFactory) -> None:
    check("llama", Policy(SNAPKV, decoding.LazyEviction(D, RECENT), "query_head"), storage=storage)


def test_no_slot_is_held_that_no_head_uses() -> None:
    model, policy = tiny(), Policy(SNAPKV, decoding.Slide(D, RECENT))
    cache = CompressedCache.of(model.config, policy)
    model(torch.tensor([random_prompts(LONG)[0].tokens]), past_key_values=cache)
    counts = [len(head) for layer in range(LAYERS) for head in stored(cache, layer)[0]]
    assert len(set(counts)) > 1
    predicted = cache_bytes(model.config, policy, "float64", LONG, 100)
    assert cache.nbytes == predicted == LAYERS * HEADS * (C + D + 1) * 2 * 16 * 8


def test_sliding_layers_share_nothing() -> None:
    _, trace = ran(SNAPKV, STRATEGIES["none"], random_prompts(LONG), 2, "mistral_sliding")
    _, alone = ran(prefill.SnapKV(C, WINDOW), STRATEGIES["none"], random_prompts(LONG), 2, "mistral_sliding")
    assert trace.steps == alone.steps


def test_wrong_values_are_named_and_runs_without_sharing_are_recorded_as_before() -> None:
    with pytest.raises(SettingError, match="heads=alone: must be one of each, shared"):
        prefill.SnapKV(C, WINDOW, heads="alone")
    with pytest.raises(SettingError, match=r"least=1\.5: must be a number between 0 and 1"):
        prefill.SnapKV(C, WINDOW, heads="shared", least=1.5)
    assert set(describe(prefill.SnapKV(C, WINDOW))) == {"type", "budget", "window", "kernel"}
    assert describe(SNAPKV)["heads"] == "shared"
