"""Rows that end make room for the next prompt; prompts that come in chunks. Oracle: each prompt alone, at once."""

from dataclasses import replace

import pytest
import torch
from helpers.quick import every, slow
from tiny_models import SCOPE, WORDS, Trace, generate, random_prompts, tiny

from scope import decoding, prefill
from scope.cache.slots import Slots
from scope.cache.storage import StorageFactory
from scope.cache.twin import Concatenated
from scope.decoding import DecodingStrategy
from scope.generation.rows import Generated
from scope.prefill import PrefillMethod

TOKENS = 24
PAIRS: dict[str, tuple[PrefillMethod, DecodingStrategy]] = {
    "full-none": (prefill.Full(), decoding.KeepAll()),
    "h2o-slide": (prefill.H2O(16, 4), decoding.Slide(10, 4)),
    "pyramidkv-discontinuous": (prefill.PyramidKV(16, 4), decoding.Discontinuous(10, 4, tokens=TOKENS)),
    "snapkv-h2o": (prefill.SnapKV(16, 4), decoding.H2O(10, 4)),
    "random-random": (prefill.Random(16, 4), decoding.Random(10, 4)),
}
LENGTHS = (30, 9, 21, 40, 12, 33, 17)
every_pair = pytest.mark.parametrize("pair", every(4, PAIRS))


def timeless(rows: list[Generated]) -> list[Generated]:
    return [replace(row, prefill_seconds=0.0, decode_seconds=0.0, batch_seconds=0.0) for row in rows]


@pytest.mark.parametrize("storage", [Slots, Concatenated])
@every_pair
def test_a_refilled_row_is_what_it_is_alone(
    pair: str, storage: StorageFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = random_prompts(*LENGTHS)
    free = [generate(tiny(), WORDS, [prompt], *PAIRS[pair], TOKENS)[0] for prompt in prompts]
    ends = {token for row in free[::2] for token in row.tokens[4:9]}  # so that rows end at different times
    monkeypatch.setattr(tiny().generation_config, "eos_token_id", sorted(ends))
    alone = [generate(tiny(), WORDS, [prompt], *PAIRS[pair], TOKENS)[0] for prompt in prompts]
    assert len({len(row.tokens) for row in alone}) > 2
    for size in (1, 2, 3, 7):
        together = generate(tiny(), WORDS, prompts, *PAIRS[pair], TOKENS, batch_size=size, storage=storage)
        assert timeless(together) == timeless(alone)


@pytest.mark.parametrize("family", ["llama", "mistral_sliding", "gemma3"])
@pytest.mark.parametrize("chunk", [slow(1), 7, slow(16)])
@every_pair
def test_a_prompt_in_chunks_is_the_prompt(pair: str, chunk: int, family: str) -> None:
    model = tiny(family, SCOPE, torch.float64)
    whole, pieces = Trace(), Trace()
    expected = generate(model, WORDS, random_prompts(*LENGTHS), *PAIRS[pair], TOKENS, observe=whole)
    made = generate(model, WORDS, random_prompts(*LENGTHS), *PAIRS[pair], TOKENS, observe=pieces, prefill_chunk=chunk)
    assert timeless(made) == timeless(expected)
    assert pieces.steps == whole.steps


@pytest.mark.parametrize("storage", [Slots, Concatenated])
@pytest.mark.parametrize("lengths", [(9, 30), (30, 9), (9, 12, 40, 8)])
def test_a_refill_whose_heads_differ_is_judged_head_by_head(lengths: tuple[int, ...], storage: StorageFactory) -> None:
    """A prompt under the budget lies alike in all heads, which tova's heads then judge at once; a longer one does not.
    After it has taken the place of the short one, what was known of the heads is known no more."""
    pair = (prefill.SnapKV(16, 4), decoding.TOVA(10, 4))
    prompts = random_prompts(*lengths)
    alone = [generate(tiny(), WORDS, [prompt], *pair, TOKENS)[0] for prompt in prompts]
    together = generate(tiny(), WORDS, prompts, *pair, TOKENS, batch_size=1, storage=storage)
    assert timeless(together) == timeless(alone)
