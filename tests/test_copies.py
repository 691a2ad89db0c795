"""Copies of a cache, and rows that are forked, go on by themselves. Oracle: the same prompts read once more."""

import copy

import pytest
import torch
from helpers.caches import KINDS, SLIDE, SNAPKV, Kind
from helpers.quick import every, later
from tiny_models import LAYERS, stored, tiny
from torch import Tensor

from scope.cache import CompressedCache, Policy
from scope.util.errors import ScopeError


def held(cache: CompressedCache) -> list[list[list[list[int]]]]:
    """[layer][row][head]: the positions that are stored, ascending."""
    return [stored(cache, layer) for layer in range(LAYERS)]


def tensors(cache: CompressedCache) -> list[Tensor]:
    """The stored keys, values and positions of each layer, as they are now."""
    storages = [layer.storage for layer in cache._layers]
    return [each.clone() for one in storages if one for each in (one.keys, one.values, one.positions)]


@pytest.mark.parametrize("name", every(3, KINDS))
@pytest.mark.parametrize("before", [0, 3, later(11)])
@torch.no_grad()
def test_a_copy_decodes_as_the_original(name: str, before: int) -> None:
    kind = KINDS[name]
    cache, logits = kind.read()
    _, logits = kind.greedy(cache, logits, before)
    twice, once_more = copy.deepcopy(cache), tensors(cache)
    tokens, last = kind.greedy(twice, logits, 14)
    assert all(map(torch.equal, once_more, tensors(cache)))  # the original has not moved
    assert kind.greedy(cache, logits, 14)[0] == tokens
    assert held(twice) == held(cache)
    assert twice.summary() == cache.summary()
    assert [twice.trace(row, before + 14) for row in range(3)] == [cache.trace(row, before + 14) for row in range(3)]
    kind.greedy(cache, torch.roll(last, 1, -1), 10)  # each goes its own way
    moved = tensors(twice)
    kind.greedy(cache, torch.roll(last, 2, -1), 4)
    assert all(map(torch.equal, moved, tensors(twice)))


def test_a_copy_after_a_forward_that_keeps_its_gradients() -> None:
    kind = KINDS["slots"]
    cache, logits = kind.read()
    logits = kind.step(cache, logits.argmax(-1).tolist())
    twice = copy.deepcopy(cache)
    assert kind.greedy(twice, logits, 5)[0] == kind.greedy(cache, logits, 5)[0]
    assert held(twice) == held(cache)


@torch.no_grad()
def test_a_copy_of_an_empty_cache_and_of_one_that_was_watched() -> None:
    seen: list[int] = []
    watched = CompressedCache(tiny().config, SNAPKV, SLIDE, watch=lambda attention: seen.append(attention.layer))
    twice = copy.deepcopy(watched)
    assert twice.policy is watched.policy
    tiny()(torch.tensor([[5, 6, 7]]), past_key_values=twice)
    assert seen == [0, 1, 2]
    assert watched.summary().rows == 0
    assert Kind(Policy(SNAPKV, SLIDE)).empty().summary().heads == twice.summary().heads


@torch.no_grad()
def test_a_copy_goes_on_in_transformers_own_generate() -> None:
    kind, ids = KINDS["slots"], torch.tensor([[*range(3, 33)], [*range(40, 70)]])
    cache = kind.empty()
    some = tiny().generate(ids, past_key_values=cache, max_new_tokens=5, do_sample=False)
    twice = copy.deepcopy(cache)
    ways = [tiny().generate(some, past_key_values=each, max_new_tokens=9, do_sample=False) for each in (twice, cache)]
    whole = tiny().generate(ids, past_key_values=kind.empty(), max_new_tokens=14, do_sample=False)
    assert ways[0].tolist() == ways[1].tolist() == whole.tolist()
    assert held(twice) == held(cache)


# rows that are forked

ROWS = [2, 0, 2, 1, 2]


@pytest.mark.parametrize("name", every(4, KINDS))
@pytest.mark.parametrize("before", [0, later(5), 11])
@torch.no_grad()
def test_forked_rows_are_what_copies_of_the_prompts_become(name: str, before: int) -> None:
    kind = KINDS[name]
    cache, logits = kind.read()
    expected, all_logits = kind.read(ROWS)
    fed, logits = kind.greedy(cache, logits, before)
    same, all_logits = kind.greedy(expected, all_logits, before)
    assert [[step[row] for row in ROWS] for step in fed] == same
    once_more = tensors(cache)
    forked = cache.fork(ROWS)
    assert held(forked) == held(expected)
    # each copy goes another way
    apart = torch.stack([logits[row].roll(place) for place, row in enumerate(ROWS)])
    tokens, _ = kind.greedy(forked, apart, 14)
    assert kind.greedy(expected, apart, 14)[0] == tokens
    assert held(forked) == held(expected)
    assert forked.summary() == expected.summary()
    traces = [[each.trace(row, before + 14) for row in range(len(ROWS))] for each in (forked, expected)]
    assert traces[0] == traces[1]
    assert len({tuple(column) for column in zip(*tokens, strict=True)}) > 3
    assert all(map(torch.equal, once_more, tensors(cache)))


@torch.no_grad()
def test_a_fork_of_a_fork_and_of_fewer_rows() -> None:
    kind = KINDS["ring"]
    cache, logits = kind.read()
    _, logits = kind.greedy(cache, logits, 6)
    fewer = cache.fork([1])
    tokens, last = kind.greedy(fewer, logits[1:2], 9)
    assert [row[1:2] for row in kind.greedy(cache, logits, 9)[0]] == tokens
    again = fewer.fork([0, 0])
    alone, _ = kind.greedy(fewer, last, 9)
    assert kind.greedy(again, last.expand(2, -1), 9)[0] == [row * 2 for row in alone]


@torch.no_grad()
def test_a_fork_in_transformers_own_generate_writes_what_copies_of_the_prompt_write() -> None:
    """A prompt of 30 tokens, read once, answered by 4 draws: one prefill, and bytes in proportion."""
    kind, ids = KINDS["slots"], torch.tensor([[*range(3, 33)]])
    cache = kind.empty()
    first = tiny().generate(ids, past_key_values=cache, max_new_tokens=1, do_sample=False)
    ends = torch.cat([ids, first[:, -1:]], 1).repeat(4, 1)
    several = cache.fork([0] * 4)
    torch.manual_seed(3)
    ours = tiny().generate(ends, past_key_values=several, max_new_tokens=12, do_sample=True, top_k=0)
    copies = kind.empty()
    tiny()(ids.repeat(4, 1), past_key_values=copies)
    torch.manual_seed(3)
    expected = tiny().generate(ends, past_key_values=copies, max_new_tokens=12, do_sample=True, top_k=0)
    assert ours.tolist() == expected.tolist()
    assert len({tuple(row) for row in ours.tolist()}) == 4
    assert several.nbytes == copies.nbytes == 4 * cache.nbytes


@torch.no_grad()
def test_rows_that_are_not_there_are_refused() -> None:
    kind = KINDS["slots"]
    cache, _ = kind.read()
    for rows, message in (
        ([0, 3], r"rows=\[0, 3\]: there is no row 3: must be from 0 to 2"),
        ([-1], r"there is no row -1"),
        ([], "one row at least"),
        ([0.5], "whole numbers"),
        (1, "rows=1: must be whole numbers"),
    ):
        with pytest.raises(ScopeError, match=message):
            cache.fork(rows)  # type: ignore[arg-type]
    with pytest.raises(ScopeError, match="prompts go through the cache first"):
        kind.empty().fork([0])
