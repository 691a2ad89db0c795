"""The engine. Oracles: transformers' own `generate` on a stock copy of the model, token for token; each row run alone;
endings, clocks and bytes counted by hand from the tokens written and the positions observed."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.quick import every
from helpers.stock import LENGTHS, STOCK, TOKENS, stock_writes
from tiny_models import DIM, FAMILIES, HEADS, LAYERS, SCOPE, WORDS, Trace, generate, random_prompts, tiny
from torch import Tensor

from scope import decoding, prefill
from scope.cache.backends import implementation
from scope.decoding import DecodingStrategy
from scope.generation.rows import Generated, Prompt
from scope.generation.sampling import Sampling
from scope.prefill import PrefillMethod
from scope.util.errors import ScopeError, SettingError

FULL, NONE = prefill.Full(), decoding.KeepAll()
SNAPKV, SLIDE = prefill.SnapKV(16, 4), decoding.Slide(10, 4)
COMPRESSED: dict[str, tuple[PrefillMethod, DecodingStrategy]] = {
    "full-none": (FULL, NONE),
    "snapkv-slide": (SNAPKV, SLIDE),
    "pyramidkv-discontinuous": (
        prefill.PyramidKV(16, 4),
        decoding.Discontinuous(10, 4, tokens=TOKENS),
    ),
    "h2o-h2o": (prefill.H2O(16, 4), decoding.H2O(10, 4)),
    "random-random": (prefill.Random(16, 4), decoding.Random(10, 4)),
}
every_pair = pytest.mark.parametrize("pair", COMPRESSED)


def answers(
    prompts: Sequence[Prompt],
    pair: tuple[PrefillMethod, DecodingStrategy] = (SNAPKV, SLIDE),
    tokens: int = TOKENS,
    family: str = "llama",
    dtype: torch.dtype = torch.float64,
    **more: Any,
) -> list[Generated]:
    return generate(tiny(family, dtype=dtype), WORDS, prompts, *pair, tokens, **more)


def timeless(rows: Sequence[Generated]) -> list[Generated]:
    """All but the seconds."""
    return [replace(row, prefill_seconds=0.0, decode_seconds=0.0, batch_seconds=0.0) for row in rows]


# the full cache is transformers'


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lengths", [(30,), (13,), LENGTHS], ids=["long", "short", "ragged"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_full_cache_writes_what_transformers_writes(
    family: str, lengths: tuple[int, ...], dtype: torch.dtype
) -> None:
    prompts = random_prompts(*lengths)
    rows = answers(prompts, (FULL, NONE), family=family, dtype=dtype)
    assert [row.tokens for row in rows] == stock_writes(family, prompts, dtype)
    assert [len(set(row.tokens)) > 3 for row in rows] == [True] * len(rows)  # not one word over and over


@pytest.mark.parametrize("family", FAMILIES)
def test_a_budget_that_is_never_reached_changes_nothing(family: str) -> None:
    prompts = random_prompts(*LENGTHS)
    unused = (prefill.H2O(100, 4), decoding.Slide(100, 4))
    assert timeless(answers(prompts, unused, family=family)) == timeless(answers(prompts, (FULL, NONE), family=family))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompts_backend_changes_nothing(family: str) -> None:
    """Masks of numbers (eager) and of booleans (sdpa) say the same of padding."""
    prompts, trace = random_prompts(*LENGTHS), Trace()
    expected = answers(prompts, family=family, dtype=torch.float32, observe=trace)
    eager, own = tiny(family, implementation("eager"), torch.float32), Trace()
    rows = generate(eager, WORDS, prompts, SNAPKV, SLIDE, TOKENS, observe=own)
    assert timeless(rows) == timeless(expected)
    assert own.steps == trace.steps


def test_compression_does_change_what_is_written() -> None:
    written = {pair: [row.tokens for row in answers(random_prompts(*LENGTHS), COMPRESSED[pair])] for pair in COMPRESSED}
    assert all(written[pair] != written["full-none"] for pair in COMPRESSED if pair != "full-none")


# a row is what it would be alone


@every_pair
@pytest.mark.parametrize("family", every(2, FAMILIES))
def test_rows_of_a_batch_are_what_they_are_alone(family: str, pair: str) -> None:
    prompts = random_prompts(*LENGTHS)
    trace = Trace()
    together = answers(prompts, COMPRESSED[pair], family=family, observe=trace)
    for row, prompt in enumerate(prompts):
        own = Trace()
        alone = answers([prompt], COMPRESSED[pair], family=family, observe=own)
        assert timeless(alone) == timeless([together[row]])
        assert own.of_row(0, TOKENS) == trace.of_row(row, TOKENS)


def ends_apart(monkeypatch: pytest.MonkeyPatch, pair: str) -> tuple[list[Prompt], list[Generated], int, str]:
    """Prompts, what they would write without an end, and an end-of-sequence token and a stop string that do occur."""
    prompts = random_prompts(*LENGTHS)
    free = answers(prompts, COMPRESSED[pair])
    others = {token for row in free[1:] for token in row.tokens}
    eos = next(token for token in free[0].tokens[5:] if token not in others and token not in free[0].tokens[:5])
    written = [str(token) for token in free[1].tokens]
    at = next(i for i in range(8, TOKENS - 3) if free[1].text.find(" ".join(written[i : i + 2])) > 15)
    monkeypatch.setattr(tiny().generation_config, "eos_token_id", [95, eos] if 95 not in others else eos)
    return prompts, free, eos, " ".join(written[at : at + 2])


@every_pair
def test_rows_end_each_for_its_own_reason(pair: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, free, eos, stop = ends_apart(monkeypatch, pair)
    prompts = [prompts[0], replace(prompts[1], stop=("no such words", stop)), prompts[2]]
    trace = Trace()
    rows = answers(prompts, COMPRESSED[pair], observe=trace)
    assert [row.finish for row in rows] == ["eos", "stop", "length"]

    assert rows[0].tokens == free[0].tokens[: free[0].tokens.index(eos) + 1]
    assert rows[0].text == " ".join(map(str, rows[0].tokens))
    needed = next(n for n in range(TOKENS + 1) if stop in " ".join(map(str, free[1].tokens[:n])))
    assert rows[1].tokens == free[1].tokens[:needed]
    assert rows[1].text == free[1].text[: free[1].text.index(stop)]
    assert rows[2].tokens == free[2].tokens
    assert len({len(row.tokens) for row in rows}) == 3

    for row, prompt in enumerate(prompts):
        own = Trace()
        assert timeless(answers([prompt], COMPRESSED[pair], observe=own)) == timeless([rows[row]])
        steps = len(rows[row].tokens) - 1
        assert own.of_row(0, TOKENS) == trace.of_row(row, steps)


def test_one_token_needs_no_step() -> None:
    trace = Trace()
    (row,) = answers(random_prompts(30), tokens=1, observe=trace)
    assert len(trace.steps) == len(row.tokens) == 1
    assert row.finish == "length"
    assert row.slots_kept == row.prefill_kept == (16,) * LAYERS


@every_pair
def test_no_sample_leaves_anything_behind(pair: str) -> None:
    first, *others = random_prompts(30, 9, 21, 40, 16, 17)
    batches = [[first], [others[0], others[1]], [others[2], first, others[3]], [others[4]], [first]]
    results = [timeless(answers(batch, COMPRESSED[pair])) for batch in batches]
    assert results[0] == results[-1] == [results[2][1]]


# sampling

HOT = Sampling(temperature=1.5, seed=3)


def test_sampling_is_seeded_by_the_samples_name() -> None:
    prompts = random_prompts(*LENGTHS)
    together = [row.tokens for row in answers(prompts, sampling=HOT)]
    assert together == [answers([prompt], sampling=HOT)[0].tokens for prompt in prompts]
    assert together == [row.tokens for row in answers(prompts[::-1], sampling=HOT)][::-1]
    renamed = [replace(prompt, name=f"{prompt.name}'") for prompt in prompts]
    reseeded = replace(HOT, seed=4)
    for other in (answers(renamed, sampling=HOT), answers(prompts, sampling=reseeded), answers(prompts)):
        assert all(row.tokens != tokens for row, tokens in zip(other, together, strict=True))


def test_two_samples_of_one_prompt_differ() -> None:
    (prompt,) = random_prompts(30)
    twice = answers([prompt, replace(prompt, name="again")], sampling=HOT)
    assert twice[0].tokens != twice[1].tokens


@pytest.mark.parametrize("sampling", [Sampling(0.0, seed=9), Sampling(1.5, top_k=1), Sampling(1.5, top_p=1e-9)])
def test_cold_or_narrow_sampling_is_greedy(sampling: Sampling) -> None:
    prompts = random_prompts(*LENGTHS)
    assert timeless(answers(prompts, sampling=sampling)) == timeless(answers(prompts))
    whole = answers(prompts, (FULL, NONE), sampling=sampling)
    assert [row.tokens for row in whole] == stock_writes("llama", prompts, torch.float64)


@torch.inference_mode()
def stock_chances(prompt: Prompt, written: Sequence[int], temperature: float) -> list[list[float]]:
    """[step][token]: what a stock model gives each next token, read off in one pass."""
    logits = tiny("llama", STOCK)(torch.tensor([[*prompt.tokens, *written]])).logits[0]
    chances: list[list[float]] = (logits[len(prompt.tokens) - 1 : -1] / temperature).softmax(-1).tolist()
    return chances


def test_top_k_draws_from_the_best() -> None:
    (prompt,) = random_prompts(30)
    (row,) = answers([prompt], (FULL, NONE), tokens=60, sampling=Sampling(3.0, top_k=3))
    chances = stock_chances(prompt, row.tokens, 3.0)
    ranks = [sorted(c, reverse=True).index(c[token]) for token, c in zip(row.tokens, chances, strict=True)]
    assert set(ranks) == {0, 1, 2}


def test_top_p_draws_from_the_nucleus() -> None:
    (prompt,) = random_prompts(30)
    (row,) = answers([prompt], (FULL, NONE), tokens=60, sampling=Sampling(3.0, top_p=0.6))
    above = [
        sum(x for x in c if x > c[t]) for t, c in zip(row.tokens, stock_chances(prompt, row.tokens, 3.0), strict=True)
    ]
    assert max(above) < 0.6
    (free,) = answers([prompt], (FULL, NONE), tokens=60, sampling=Sampling(3.0))
    outside = [
        sum(x for x in c if x > c[t]) for t, c in zip(free.tokens, stock_chances(prompt, free.tokens, 3.0), strict=True)
    ]
    assert max(outside) > 0.6


def test_temperature_draws_by_the_softmax() -> None:
    """The first token of many samples of one prompt, against the stock model's chances."""
    (prompt,) = random_prompts(10)
    samples = [replace(prompt, name=str(i)) for i in range(400)]
    drawn = [row.tokens[0] for row in answers(samples, (FULL, NONE), tokens=1, sampling=Sampling(0.3))]
    chances = stock_chances(prompt, [5], 0.3)[0]
    for token, chance in enumerate(chances):
        spread = (chance * (1 - chance) * len(drawn)) ** 0.5
        assert abs(drawn.count(token) - chance * len(drawn)) <= 5 * spread + 1
    surprise = [-math.log(chance) for chance in chances]  # its mean is the entropy, if the temperature is right
    mean = sum(chance * bits for chance, bits in zip(chances, surprise, strict=True))
    spread = sum(chance * (bits - mean) ** 2 for chance, bits in zip(chances, surprise, strict=True)) ** 0.5
    assert abs(sum(surprise[token] for token in drawn) / len(drawn) - mean) < 3 * spread / len(drawn) ** 0.5


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}, {"seed": -1}, {"temperature": "hot"}],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        Sampling(**settings)


# clocks and counts


@every_pair
def test_a_tokens_position_is_its_place_in_the_text_whatever_was_evicted(pair: str) -> None:
    prompts = random_prompts(*LENGTHS)
    fed: list[list[list[int]]] = []
    hook = tiny().model.register_forward_pre_hook(
        lambda _module, _args, given: fed.append(given["position_ids"].tolist()), with_kwargs=True
    )
    trace = Trace()
    try:
        answers(prompts, COMPRESSED[pair], observe=trace)
    finally:
        hook.remove()
    assert [row[-length:] for row, length in zip(fed[0], LENGTHS, strict=True)] == [list(range(n)) for n in LENGTHS]
    assert fed[1:] == [[[length + t] for length in LENGTHS] for t in range(TOKENS - 1)]
    for t, step in enumerate(trace.steps[1:]):
        newest = [[head[-1] for head in row] for layer in step for row in layer]
        assert newest == [[length + t] * HEADS for length in LENGTHS] * LAYERS


@every_pair
def test_slots_and_bytes_are_what_was_observed(pair: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, _, _, stop = ends_apart(monkeypatch, pair)
    prompts[1] = replace(prompts[1], stop=(stop,))
    trace = Trace()
    rows = answers(prompts, COMPRESSED[pair], observe=trace)
    slot = 2 * HEADS * DIM * 8  # bytes of one token in one layer
    for index, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        steps = len(row.tokens) - 1
        times = trace.of_row(index, steps)
        counts = [[len(time[layer][0]) for time in times] for layer in range(LAYERS)]
        assert row.prefill_kept == tuple(layer[0] for layer in counts)
        assert row.slots_kept == tuple(layer[-1] for layer in counts)
        peaks = [max(layer[0], *(n + 1 for n in layer[:-1])) for layer in counts]  # a token comes before one goes
        assert row.cache_bytes == sum(peaks) * slot
        assert row.full_cache_bytes == (len(prompt.tokens) + steps) * LAYERS * slot
    if pair == "full-none":
        assert [row.cache_bytes for row in rows] == [row.full_cache_bytes for row in rows]


def test_progress_counts_the_rows_still_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, _, _, stop = ends_apart(monkeypatch, "snapkv-slide")
    prompts[1] = replace(prompts[1], stop=(stop,))
    told: list[int] = []
    rows = answers(prompts, progress=told.append)
    longest = max(len(row.tokens) for row in rows)
    assert told == [sum(len(row.tokens) > step for row in rows) for step in range(1, longest + 1)]


def test_seconds_are_the_rows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, _, _, stop = ends_apart(monkeypatch, "snapkv-slide")
    prompts[1] = replace(prompts[1], stop=(stop,))
    rows = answers(prompts)
    by_length = sorted(rows, key=lambda row: len(row.tokens))
    seconds = [row.decode_seconds for row in by_length]
    assert seconds == sorted(set(seconds))
    assert len({row.prefill_seconds for row in rows}) == 1
    assert rows[0].prefill_seconds > 0


# flash attention, with a stand-in for the kernel


def test_flash_attention_is_called_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **more: Any) -> Tensor:
        """What transformers asks of flash-attn, in plain torch: [B, S, H, D], the mask [B, S] of real tokens."""
        assert more["attn_implementation"] == "flash_attention_2"
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
        if mask is not None:
            seen = (seen & mask.bool()[:, None, None]) | torch.eye(len(seen), dtype=torch.bool)
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, seen, scale=more["softmax_scale"])
        return out.transpose(1, 2)

    monkeypatch.setattr("transformers.integrations.flash_attention._flash_attention_forward", kernel)
    monkeypatch.setattr("scope.cache.backends.is_flash_attn_2_available", lambda: True)
    flash = copy.deepcopy(tiny("llama", SCOPE))
    flash.set_attn_implementation(implementation("flash_attention_2"))
    prompts = random_prompts(*LENGTHS)
    made = generate(flash, WORDS, prompts, SNAPKV, SLIDE, TOKENS)
    assert timeless(made) == timeless(answers(prompts, (SNAPKV, SLIDE)))


# refusals


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_with_stock_attention_is_adopted(attention: str) -> None:
    stock = copy.deepcopy(tiny("llama", attention))
    made = generate(stock, WORDS, random_prompts(30), SNAPKV, SLIDE, TOKENS)
    assert stock.config._attn_implementation == implementation(attention)
    assert timeless(made) == timeless(answers(random_prompts(30), (SNAPKV, SLIDE)))


def test_a_model_with_another_attention_is_refused() -> None:
    flex = copy.deepcopy(tiny("llama", STOCK))
    flex.config._attn_implementation = "flex_attention"
    with pytest.raises(ScopeError, match="attn_implementation=flex_attention: must be one of sdpa, eager") as refused:
        generate(flex, WORDS, random_prompts(30), SNAPKV, SLIDE, TOKENS)
    assert "\n" not in str(refused.value)
