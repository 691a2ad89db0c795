"""Several generations of one prompt, which is then read once. Oracle: each generation alone, its prompt read for it."""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
from helpers.quick import every
from tiny_models import WORDS, generate, random_prompts, strategies, tiny

from scope import decoding, prefill
from scope.cache import CompressedCache
from scope.generation.rows import Generated, Prompt
from scope.generation.sampling import Sampling

TOKENS = 20
ONE, SEVERAL = Sampling(temperature=1.0, seed=3), Sampling(temperature=1.0, seed=3, samples=3)
POLICIES = {
    "slide": (prefill.SnapKV(16, 4), strategies(10, 4, TOKENS)["slide"], {}),
    "h2o, chunks": (prefill.H2O(16, 4), strategies(10, 4, TOKENS)["h2o"], {"prefill_chunk": 7}),
    "query heads, graph": (
        prefill.SnapKV(0.5, 4),
        decoding.SnapKVD(10, 6, window=3),
        {"granularity": "query_head", "engine": "graph"},
    ),
    "rounded, bytes": (prefill.Full(), decoding.H2O(10, 4), {"precision": "int8", "max_slots": 40}),
}


def draws(*counts: int) -> list[Prompt]:
    """Of each of some prompts so many draws, next to each other, as a run has them."""
    texts = random_prompts(*[30, 9, 21, 30][: len(counts)])
    return [Prompt(f"{one.name}#{i}", one.tokens) for one, n in zip(texts, counts, strict=True) for i in range(n)]


def told(rows: Sequence[Generated]) -> list[Any]:
    """All that a generation has but its times."""
    return [
        (row.tokens, row.finish, row.prefill_kept, row.slots_kept, row.cache_bytes, row.full_cache_bytes, row.trace)
        for row in rows
    ]


@contextmanager
def counted() -> Iterator[list[int]]:
    """The tokens of each row of a prompt that the model reads meanwhile, in the order of reading."""
    read: list[int] = []

    def note(model: Any, args: Any, given: dict[str, Any]) -> None:
        if given["input_ids"].shape[1] > 1:
            read.extend(given["attention_mask"].sum(-1).tolist() if given["attention_mask"] is not None else
                        [given["input_ids"].shape[1]] * len(given["input_ids"]))  # fmt: skip

    hook = tiny().register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield read
    finally:
        hook.remove()


@pytest.mark.parametrize(("policy", "rows"), every(16, product(POLICIES, (2, 9, 3, 1))))
def test_samples_are_those_of_prompts_that_were_read_for_each(policy: str, rows: int) -> None:
    method, strategy, settings = POLICIES[policy]
    prompts = draws(3, 1, 3, 2)
    alone = [generate(tiny(), WORDS, [one], method, strategy, TOKENS, ONE, **settings)[0] for one in prompts]
    made = generate(tiny(), WORDS, prompts, method, strategy, TOKENS, SEVERAL, batch_size=rows, **settings)
    assert told(made) == told(alone)
    assert len({row.tokens for row in made}) == len(made)


@pytest.mark.parametrize("rows", every(2, [2, 1, 9, 3]))
def test_a_prompt_is_read_once_for_all_of_its_samples(rows: int) -> None:
    method, strategy, _ = POLICIES["slide"]
    with counted() as read:
        generate(tiny(), WORDS, draws(3, 1, 3, 2), method, strategy, 5, SEVERAL, batch_size=rows)
    assert sorted(read) == [9, 21, 30, 30]


def test_equal_prompts_that_begin_together_are_read_once_by_anyone() -> None:
    method, strategy, _ = POLICIES["slide"]
    with counted() as read:
        made = generate(tiny(), WORDS, draws(3, 2), method, strategy, 5)
    assert read == [30, 9]
    assert len({row.tokens for row in made}) == 2  # greedily


def test_of_the_prompts_that_were_read_one_is_kept_and_only_where_it_may_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caches: list[weakref.ref[CompressedCache]] = []
    settle = CompressedCache.require_prompt

    def noted(cache: CompressedCache) -> None:
        settle(cache)
        caches.append(weakref.ref(cache))

    monkeypatch.setattr(CompressedCache, "require_prompt", noted)

    def left(sampling: Sampling) -> list[int]:
        """After each step: caches of prompts that are still in memory."""
        seen: list[int] = []

        def observe(cache: CompressedCache) -> None:
            seen.append(sum(one() is not None and one() is not cache for one in caches))

        method, strategy, _ = POLICIES["slide"]
        generate(*(tiny(), WORDS, draws(2, 1, 2), method, strategy, 9, sampling), batch_size=2, observe=observe)
        return seen

    assert max(left(SEVERAL)) == 1
    assert max(left(ONE)) == 0
