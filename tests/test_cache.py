"""The cache in place. Oracles: its plain twin (`Concatenated`: concatenate, then gather), over every pair of prefill
method and decoding strategy on a ragged batch and over random plans and scores; counts written from METHODS.md;
and transformers' own `generate`, which must be able to drive the cache."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import product

import pytest
import torch
from helpers.pairs import (
    DECODING,
    PREFILL,
    RECENT,
    TOKENS,
    WHOLE,
    C,
    D,
    counts,
)
from helpers.quick import every
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import DIM, HEADS, LAYERS, SCOPE, WORDS, Step, generate, random_prompts, stored, tiny
from torch import Tensor
from transformers import Cache

import scope.cache.placing
import scope.cache.slots
from scope import decoding
from scope.cache import CompressedCache
from scope.cache.slots import Slots
from scope.cache.storage import Kept, StorageFactory
from scope.cache.twin import Concatenated
from scope.decoding import DecodingStrategy
from scope.generation.rows import pad_left
from scope.policy.plan import Plan
from scope.prefill import PrefillMethod
from scope.util.errors import ScopeError

LENGTHS = (30, 9, 21)  # over the budget, under it, and where the pyramid is clipped

PAIRS = list(product(PREFILL, DECODING))
every_pair = pytest.mark.parametrize(("method", "strategy"), every(3, PAIRS))


@dataclass
class Run:
    """One generation over the ragged batch, watched after the prefill and after each step."""

    tokens: list[tuple[int, ...]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    nbytes: list[int] = field(default_factory=list)
    addresses: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, cache: CompressedCache) -> None:
        self.steps.append([stored(cache, layer) for layer in range(LAYERS)])
        self.nbytes.append(cache.nbytes)
        storages = [cache._storage(layer) for layer in range(LAYERS)]
        self.addresses.append(tuple(x.data_ptr() for s in storages for x in (s.keys, s.values, s.positions)))


@cache
def run(method: str, strategy: str, storage: StorageFactory = Slots) -> Run:
    watched = Run()
    generated = generate(
        tiny(),
        WORDS,
        random_prompts(*LENGTHS),
        PREFILL[method],
        DECODING[strategy],
        TOKENS,
        storage=storage,
        observe=watched,
    )
    watched.tokens = [row.tokens for row in generated]
    return watched


# every pair


@every_pair
def test_in_place_is_the_twin(method: str, strategy: str) -> None:
    fast, plain = run(method, strategy), run(method, strategy, Concatenated)
    assert fast.tokens == plain.tokens
    assert fast.steps == plain.steps


@every_pair
def test_budgets_hold_at_every_step_and_layer(method: str, strategy: str) -> None:
    steps = run(method, strategy).steps
    for row, prompt in enumerate(LENGTHS):
        for layer in range(LAYERS):
            expected = counts(method, strategy, layer, prompt)
            for head in range(HEADS):
                assert [len(step[layer][row][head]) for step in steps] == expected


@every_pair
def test_the_newest_are_always_there_and_the_prompt_is_where_it_is_protected(method: str, strategy: str) -> None:
    first, *steps = run(method, strategy).steps
    for row, prompt in enumerate(LENGTHS):
        for layer in range(LAYERS):
            for head in range(HEADS):
                for t, step in enumerate(steps):
                    kept = step[layer][row][head]
                    newest = min(RECENT, t + 1)
                    assert kept[-newest:] == list(range(prompt + t + 1 - newest, prompt + t + 1))
                    assert len(set(kept)) == len(kept)
                    if strategy not in WHOLE:
                        left = first[layer][row][head]
                        assert kept[: len(left)] == left


@every_pair
def test_memory_neither_grows_nor_moves(method: str, strategy: str) -> None:
    watched = run(method, strategy)
    assert len(set(watched.nbytes)) == 1
    assert len(set(watched.addresses)) == 1


@pytest.mark.parametrize("strategy", [*WHOLE, "slide"])
def test_some_pair_does_evict_from_where_it_may(strategy: str) -> None:
    """Some of the strategies that own the whole cache do take from the prompt: the test of protection can fail."""
    first, *_, last = run("snapkv", strategy).steps
    untouched = all(
        set(first[layer][row][head]) <= set(last[layer][row][head])
        for layer in range(LAYERS)
        for row in range(len(LENGTHS))
        for head in range(HEADS)
    )
    assert untouched == (strategy in ("slide", "streamingllm"))


# sizes


def watched_alone(method: PrefillMethod, strategy: DecodingStrategy, length: int, tokens: int) -> list[tuple[int, int]]:
    """(bytes, most slots of a layer that are in use) after the prefill and after each step."""
    seen = []

    def watch(cache: CompressedCache) -> None:
        seen.append((cache.nbytes, max(cache.positions(layer).shape[-1] for layer in range(LAYERS))))

    generate(tiny(), WORDS, random_prompts(length, length), method, strategy, tokens, observe=watch)
    return seen


@pytest.mark.parametrize("method", ["snapkv", "h2o", "streamingllm", "recent", "random"])
@pytest.mark.parametrize("strategy", ["slide", "recent", "random", "h2o", "streamingllm"])
def test_a_full_cache_is_its_budgets_and_one_slot_more(method: str, strategy: str) -> None:
    seen = watched_alone(PREFILL[method], DECODING[strategy], 30, TOKENS)
    batch, itemsize = 2, 8
    assert seen[-1] == (LAYERS * batch * HEADS * (C + D + 1) * DIM * 2 * itemsize, C + D + 1)


def test_a_short_generation_takes_no_more_room_than_its_tokens() -> None:
    (nbytes, _), *_ = watched_alone(PREFILL["snapkv"], decoding.Slide(1000, RECENT), 30, 5)
    assert nbytes <= LAYERS * 2 * HEADS * (C + 5) * DIM * 2 * 8


# transformers drives


def transformers_writes(method: PrefillMethod, strategy: DecodingStrategy, lengths: tuple[int, ...]) -> list[list[int]]:
    prompts = random_prompts(*lengths)
    ids, mask, _ = pad_left(prompts, 0, torch.device("cpu"))
    cache: Cache = CompressedCache(tiny().config, method, strategy)
    out = tiny().generate(ids, attention_mask=mask.long(), past_key_values=cache, max_new_tokens=20, do_sample=False)
    written: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return written


@pytest.mark.parametrize("lengths", [(30,), LENGTHS], ids=["alone", "ragged"])
@pytest.mark.parametrize(("method", "strategy"), [("full", "none"), ("snapkv", "slide"), ("pyramidkv", "h2o")])
@pytest.mark.parametrize("growth", [3, 256])
def test_transformers_own_generate_can_drive_it(
    method: str, strategy: str, lengths: tuple[int, ...], growth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(tiny(), WORDS, random_prompts(*lengths), PREFILL[method], DECODING[strategy], 20)
    for module in (scope.cache.placing, scope.cache.slots):  # no bound is known here: the buffers may have to grow
        monkeypatch.setattr(module, "GROWTH", growth)
    assert transformers_writes(PREFILL[method], DECODING[strategy], lengths) == [list(row.tokens) for row in expected]


# the storage alone, over random plans


@st.composite
def starts(draw: st.DrawFn) -> tuple[int, list[int], int]:
    """Heads, tokens stored per row, room."""
    stored = draw(st.lists(st.integers(1, 8), min_size=1, max_size=3))
    return draw(st.integers(1, 2)), stored, draw(st.integers(0, 12))


@st.composite
def plans(draw: st.DrawFn) -> Plan | None:
    """Any plan: longer than what is stored, empty in any of its parts, reaching behind earlier evictions."""
    if draw(st.integers(0, 4)) == 0:
        return None
    sizes = st.integers(0, 4)
    head, best, tail = draw(sizes), draw(sizes), draw(sizes)
    return Plan(head, best, max(tail, 1 if head + best == 0 else 0))


class Both:
    """The storage and its twin, fed the same tokens; a token's key, value and channel say which token it is."""

    def __init__(self, heads: int, stored: list[int], room: int, lots: torch.Generator, whole: bool = False) -> None:
        self.rows, self.heads, self.lots = len(stored), heads, lots
        width = max(stored)
        positions = torch.arange(width).expand(self.rows, heads, -1)
        positions = torch.where(positions < torch.tensor(stored)[:, None, None], positions, -1)
        self.keys, self.values = torch.rand(2, self.rows, heads, 100, 2, generator=lots)
        first = [x[:, :, :width].clone() for x in (self.keys, self.values)]
        marks = {"noted": positions + 1.0, "born": torch.zeros_like(positions, dtype=torch.float32)}
        kept = Kept(first[0], first[1], positions, tuple(stored), torch.tensor(stored) - 1, marks)
        self.storages = (Slots(kept, room, whole), Concatenated(kept, room))
        self.next = torch.tensor(stored)

    def step(self, chosen: list[Plan | None] | None = None, levels: int = 1000) -> None:
        """Scores of so many levels, so that many tie; a slot's score belongs to its token, wherever it lies."""
        at = self.next[:, None, None, None].expand(-1, self.heads, 1, 2)
        keys, values = self.keys.gather(2, at), self.values.gather(2, at)
        self.next = self.next + 1
        scores = torch.randint(levels, (self.rows, self.heads, 100), generator=self.lots).float()
        needed = any(plan and plan.best for plan in chosen or [])
        for storage in self.storages:
            storage.begin(chosen or [None] * self.rows)
            storage.append(keys, values)
            positions = storage.positions
            fresh = positions == storage.newest[:, None, None]
            assert not storage.channels["noted"][fresh].any()
            storage.write({"noted": positions + 1.0, "born": storage.channels["born"] + fresh * self.next[0]})
            by_slot = scores.gather(2, positions.clamp(min=0).long())
            storage.evict(by_slot if needed else None)

    def content(self, which: int) -> list[list[dict[int, tuple[list[float], list[float], float, float]]]]:
        """[row][head] position -> key, value and channels."""
        storage = self.storages[which]
        return [
            [
                {
                    int(p): (
                        storage.keys[b, h, s].tolist(),
                        storage.values[b, h, s].tolist(),
                        float(storage.channels["noted"][b, h, s]),
                        float(storage.channels["born"][b, h, s]),
                    )
                    for s, p in enumerate(storage.positions[b, h])
                    if p >= 0
                }
                for h in range(self.heads)
            ]
            for b in range(self.rows)
        ]

    def check(self) -> None:
        fast, plain = self.content(0), self.content(1)
        assert fast == plain
        assert self.storages[0].stored == self.storages[1].stored
        for b, row in enumerate(fast):
            for h, head in enumerate(row):
                assert len(head) == self.storages[0].stored[b]
                for position, (key, value, noted, _) in head.items():
                    assert noted == position + 1
                    assert key == self.keys[b, h, position].tolist()
                    assert value == self.values[b, h, position].tolist()


@settings(max_examples=120, deadline=None, database=None)
@given(data=st.data(), start=starts(), seed=st.integers(0, 2**32 - 1), whole=st.booleans())
def test_any_plans_leave_the_same_in_place_as_in_the_twin(
    data: st.DataObject, start: tuple[int, list[int], int], seed: int, whole: bool
) -> None:
    before = scope.cache.slots.GROWTH
    scope.cache.slots.GROWTH = 2  # so that the buffers are outgrown now and then
    try:
        heads, stored, room = start
        both = Both(heads, stored, room, torch.Generator().manual_seed(seed), whole)
        for _ in range(data.draw(st.integers(1, 12), label="evictions")):
            for _ in range(data.draw(st.integers(0, 2), label="steps between")):
                both.step()
                both.check()
            chosen = data.draw(st.lists(plans(), min_size=both.rows, max_size=both.rows), label="plans")
            both.step(chosen, data.draw(st.sampled_from([1, 2, 4, 1000]), label="levels"))
            both.check()
    finally:
        scope.cache.slots.GROWTH = before


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Plan(0, 3, 0), Plan(0, 1, 3)),  # the last three are no longer the last three that ever came
        (Plan(0, 3, 3), Plan(3, 2, 0)),  # nor the first three the first
        (Plan(1, 3, 1), Plan(3, 0, 3)),
        (Plan(0, 8, 0), Plan(2, 1, 4)),
    ],
)
def test_plans_that_reach_behind_earlier_evictions(first: Plan, second: Plan) -> None:
    for seed in range(20):
        both = Both(2, [6, 2], 0, torch.Generator().manual_seed(seed))
        for _ in range(3):
            both.step()
        both.step([first, first])
        both.check()
        both.step()
        both.step([second, second])
        both.check()


def test_a_freed_slot_is_overwritten_and_nothing_else_moves() -> None:
    lots = torch.Generator().manual_seed(0)
    both = Both(2, [5, 3], 6, lots)
    slots = both.storages[0]
    both.step([Plan(1, 2, 2), Plan(0, 2, 1)])
    for _ in range(20):
        held = [slots.positions.clone(), slots.keys.clone()]
        both.step([Plan(1, 2, 2), Plan(0, 2, 1)])
        moved = (slots.positions != held[0]).sum(-1)
        assert 0 < moved.max() <= 2  # the one taken, and the one freed
        same = slots.positions == held[0]
        assert torch.equal(slots.keys[same], held[1][same])
    both.check()


# refusals


def filled() -> CompressedCache:
    cache = CompressedCache(tiny().config, PREFILL["snapkv"], DECODING["slide"])
    ids = torch.tensor([random_prompts(20)[0].tokens])
    tiny()(ids, past_key_values=cache, use_cache=True)
    return cache


@pytest.mark.parametrize("ids", [[[5, 6, 7]], [[5, 6]]])
def test_a_second_prompt_is_refused(ids: list[list[int]]) -> None:
    cache = filled()
    with pytest.raises(ScopeError, match="one prompt"):
        tiny()(torch.tensor(ids), past_key_values=cache, use_cache=True)


REFUSED: dict[str, tuple[Callable[[CompressedCache], object], str]] = {
    "crop": (lambda cache: cache.crop(5), "rolled back"),
    "reorder_cache": (lambda cache: cache.reorder_cache(torch.tensor([0])), "beam"),
    "reset": (lambda cache: cache.reset(), "new one"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_eviction_cannot_support_is_refused(name: str) -> None:
    call, why = REFUSED[name]
    with pytest.raises(ScopeError, match=why) as refused:
        call(filled())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("ask", [lambda cache: cache.positions(0), lambda cache: cache.nbytes])
def test_an_empty_cache_has_no_positions(ask: Callable[[CompressedCache], object]) -> None:
    with pytest.raises(ScopeError, match="empty"):
        ask(CompressedCache(tiny().config))


def test_the_models_attention_is_scopes() -> None:
    assert tiny().config._attn_implementation == SCOPE


def test_a_slot_that_is_kept_keeps_its_keys_and_values() -> None:
    """Through the model: what the compressed cache holds of the prompt are the full cache's keys and values there."""
    prompts = random_prompts(*LENGTHS)

    def contents(method: PrefillMethod) -> list[tuple[Tensor, Tensor, Tensor]]:
        taken: list[list[tuple[Tensor, Tensor, Tensor]]] = []

        def take(cache: CompressedCache) -> None:
            storages = [cache._storage(layer) for layer in range(LAYERS)]
            taken.append([(s.keys.clone(), s.values.clone(), s.positions.clone()) for s in storages])

        generate(tiny(), WORDS, prompts, method, decoding.KeepAll(), 1, observe=take)
        return taken[0]

    for whole, part in zip(contents(PREFILL["full"]), contents(PREFILL["pyramidkv"]), strict=True):
        for b, h in product(range(len(prompts)), range(HEADS)):
            at = {int(p): s for s, p in enumerate(whole[2][b, h]) if p >= 0}
            for slot, p in enumerate(part[2][b, h].tolist()):
                if p >= 0:
                    assert torch.equal(part[0][b, h, slot], whole[0][b, h, at[p]])
                    assert torch.equal(part[1][b, h, slot], whole[1][b, h, at[p]])
