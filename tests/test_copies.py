"""Copies of a cache, and rows that are forked, go on by themselves. Oracle: the same prompts read once more."""

import copy

import pytest
import torch
from helpers.caches import KINDS, LENGTHS, SLIDE, SNAPKV, Kind
from helpers.quick import every, later
from tiny_models import LAYERS, stored, tiny
from torch import Tensor

from scope.cache import CompressedCache, Policy


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
