"""What a cache says of itself. Oracle: its tensors, counted one by one; positions that a loop over lists can see."""

import pytest
import torch
from helpers.caches import KINDS, LENGTHS, Kind
from helpers.quick import every
from tiny_models import DIM, HEADS, LAYERS, SLIDING_WINDOW, tiny

from scope.cache import CompressedCache, Policy
from scope.cache.summary import Summary
from scope.decoding import Slide
from scope.prefill import PyramidKV

BYTES = {  # of a key with its value in float64, or with 4 bytes for scale and offset beside the codes of each
    "float": 2 * 8 * DIM,
    "int8": 2 * (DIM + 4),
    "k8v4": DIM + 4 + DIM // 2 + 4,
    "int4": 2 * (DIM // 2 + 4),
}


def check(kind: Kind, cache: CompressedCache, steps: int) -> None:
    """The summary of a cache after so many decode steps, against what lies in its tensors."""
    told, heads = cache.summary(), HEADS * 2 if kind.policy.granularity == "query_head" else HEADS
    assert (told.layers, told.rows, told.heads) == (LAYERS, len(LENGTHS), (heads,) * LAYERS)
    assert told.tokens == tuple(n + steps for n in LENGTHS)
    full_bytes = 0
    for layer in range(LAYERS):
        places = cache.positions(layer).tolist()
        for row, length in enumerate(LENGTHS):
            held = [sum(place >= 0 for place in head) for head in places[row]]
            assert told.slots[layer][row] * heads == sum(held)
            most = told.most[layer][row]
            assert most is None or told.slots[layer][row] <= most
            sliding = kind.family == "gemma3" and layer % 2 == 0
            full = min(length + steps, SLIDING_WINDOW - 1) if sliding else length + steps
            assert told.full_slots[layer][row] == full
            full_bytes += full * HEADS * 2 * 8 * DIM
    assert told.full_nbytes == full_bytes
    assert told.nbytes == cache.nbytes
    text = repr(cache).splitlines()
    assert len(text) == 5
    low, high = (fold(n for layer in told.slots for n in layer) for fold in (min, max))
    assert text[2].startswith(f"slots: {low} in " if low == high else f"slots: {low} to {high} in ")
    assert text[3] == f"bytes: {told.nbytes}; full cache: {full_bytes}"


@pytest.mark.parametrize("name", every(3, KINDS))
@torch.no_grad()
def test_a_summary_counts_what_lies_in_the_tensors(name: str) -> None:
    kind = KINDS[name]
    empty = kind.empty()
    assert empty.summary().rows == empty.summary().nbytes == empty.summary().full_nbytes == 0
    assert len(repr(empty).splitlines()) == 5
    cache, logits = kind.read()
    assert empty.summary().heads == cache.summary().heads
    check(kind, cache, 0)
    _, logits = kind.greedy(cache, logits, 3)
    check(kind, cache, 3)
    kind.greedy(cache, logits, 15)
    check(kind, cache, 18)


@pytest.mark.parametrize("precision", BYTES)
@torch.no_grad()
def test_bytes_are_those_of_the_slots_that_are_allocated(precision: str) -> None:
    """C + D slots stay, and a step needs one more."""
    cache, _ = KINDS["slots" if precision == "float" else precision].read()
    assert cache.summary().nbytes == LAYERS * len(LENGTHS) * HEADS * (12 + 8 + 1) * BYTES[precision]


@torch.no_grad()
def test_the_five_lines() -> None:
    kind = Kind(Policy(PyramidKV(12, 4), Slide(8, 4)))
    cache = CompressedCache(tiny().config, PyramidKV(12, 4), Slide(8, 4))
    first, *rest = repr(cache).splitlines()
    assert first == "<CompressedCache PyramidKV(budget=12, window=4) + Slide(budget=8, recent=4)"
    assert rest == [
        "budgets: known after the prompt",
        "slots: known after the prompt",
        "bytes: known after the prompt",
        "layers: 3, heads: 2 (kv_head, float), rows: 0>",
    ]
    cache, logits = kind.read()
    kind.greedy(cache, logits, 20)
    told = cache.summary()
    held = sorted({n for layer in told.slots for n in layer})
    assert repr(cache).splitlines() == [
        first,
        f"budgets: 12 of the prompt, at most {held[0] + 1} to {held[-1] + 1} at once",
        f"slots: {held[0]} to {held[-1]} in each head; full cache: {9 + 20} to {30 + 20}",
        f"bytes: {told.nbytes}; full cache: {LAYERS * (30 + 9 + 21 + 3 * 20) * HEADS * 2 * 8 * DIM}",
        "layers: 3, heads: 2 (kv_head, float), rows: 3>",
    ]
    assert isinstance(told, Summary)
    assert told == cache.summary()
