"""Masks and positions that are given with a compressed cache. Oracle: transformers' own cache, with the same inputs:
where nothing is evicted a compressed cache equals it, or says in one line why it cannot."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.quick import every
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import VOCABULARY, tiny
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from scope.cache import CompressedCache
from scope.cache.masks import real_tokens, require_causal, require_consecutive
from scope.policy.rule import Sight
from scope.util.errors import ScopeError

COLUMNS, STEPS = 20, 4
IDS = torch.randint(3, VOCABULARY, (2, COLUMNS), generator=torch.Generator().manual_seed(0))
ONES = torch.ones_like(IDS)
LEFT = "tokenizer.padding_side"
OUR_NAMES = ("eager", "sdpa")


def model_of(attention: str, family: str = "llama") -> PreTrainedModel:
    return copy.deepcopy(tiny(family, attention))


def written(model: PreTrainedModel, cache: object, mask: Tensor | None, ids: Tensor = IDS) -> list[list[int]]:
    given: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
    return model.generate(ids, past_key_values=cache, max_new_tokens=12, do_sample=False, **given).tolist()


def zeros(**columns: slice) -> Tensor:
    """Of two rows, a 2-D mask with zeros there in the second, or in the `first`."""
    mask = ONES.clone()
    for row, where in columns.items():
        mask[0 if row == "first" else 1, where] = 0
    return mask


def causal() -> Tensor:
    return torch.ones(1, 1, COLUMNS, COLUMNS, dtype=torch.bool).tril().expand(2, -1, -1, -1).clone()


def numbers(mask: Tensor, hidden: float = torch.finfo(torch.float64).min) -> Tensor:
    """The same mask as numbers that are added to the scores."""
    return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, hidden)


def changed(where: tuple[Any, ...], value: bool, heads: int = 1) -> Tensor:
    mask = causal().repeat(1, heads, 1, 1)
    mask[where] = value
    return mask


def packed() -> Tensor:
    mask = causal()
    mask[:, :, 10:, :10] = False
    return mask


GOOD: dict[str, Tensor | None] = {
    "none": None,
    "ones": ONES,
    "left": zeros(second=slice(0, 7)),
    "left in the first row": zeros(first=slice(0, 1)),
    "floats": zeros(second=slice(0, 7)).double(),
    "a single token": zeros(second=slice(0, COLUMNS - 1)),
}
BAD: dict[str, tuple[Tensor, str]] = {
    "right": (zeros(second=slice(15, None)), LEFT),
    "right in the first row": (zeros(first=slice(COLUMNS - 1, None)), LEFT),
    "both sides": (zeros(second=slice(15, None)) * zeros(second=slice(0, 2)), LEFT),
    "a hole": (zeros(second=slice(8, 9)), LEFT),
    "a hole behind the padding": (zeros(second=slice(0, 3)) * zeros(second=slice(5, 7)), LEFT),
    "no token": (zeros(second=slice(None)), "row 1 has no token"),
}
BAD_4D: dict[str, tuple[Tensor, str]] = {
    "all see all": (torch.ones_like(causal()), "causal"),
    "a prefix that sees itself": (changed((slice(None), slice(None), slice(0, 6), slice(0, 6)), True), "causal"),
    "two texts in a row": (packed(), "causal"),
    "one token hidden from one": (changed((1, 0, 15, 3), False), "causal"),
    "heads that differ": (changed((slice(None), 2, slice(12, None), 0), False, heads=4), "causal"),
    "right padding": (changed((1, slice(None), slice(None), slice(15, None)), False), LEFT),
}


@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral_sliding"])
@pytest.mark.parametrize("attention", OUR_NAMES)
@pytest.mark.parametrize("name", every(2, GOOD))
def test_what_is_padded_on_the_left_is_written_as_by_transformers(name: str, attention: str, family: str) -> None:
    stock, ours = model_of(attention, family), model_of(attention, family)
    expected = written(stock, DynamicCache(config=stock.config), GOOD[name])
    assert written(ours, CompressedCache(ours.config), GOOD[name]) == expected


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("attention", OUR_NAMES)
@pytest.mark.parametrize("name", BAD)
def test_other_padding_is_refused_with_the_cure(name: str, attention: str, family: str) -> None:
    model, (mask, why) = model_of(attention, family), BAD[name]
    with pytest.raises(ScopeError, match=why) as refused:
        written(model, CompressedCache(model.config), mask)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", BAD_4D)
@pytest.mark.parametrize("added", [False, True], ids=["bool", "added"])
def test_a_mask_of_every_pair_has_to_be_causal(name: str, added: bool) -> None:
    model, (mask, why) = model_of("sdpa"), BAD_4D[name]
    if added:
        mask = numbers(mask)
    with torch.no_grad(), pytest.raises(ScopeError, match=why):
        model(IDS, attention_mask=mask, past_key_values=CompressedCache(model.config))


@pytest.mark.parametrize("added", [False, True], ids=["bool", "added"])
@pytest.mark.parametrize("padding", [0, 5])
def test_a_causal_mask_of_every_pair_is_taken(padding: int, added: bool) -> None:
    mask = causal()
    mask[1, :, :, :padding] = False
    if added:
        mask = numbers(mask)
    stock, ours = model_of("sdpa"), model_of("sdpa")
    with torch.no_grad():
        expected = stock(IDS, attention_mask=mask, past_key_values=DynamicCache(config=stock.config)).logits[:, -1]
        cache = CompressedCache(ours.config)
        assert torch.equal(ours(IDS, attention_mask=mask, past_key_values=cache).logits[:, -1], expected)
    assert cache.positions(0)[1, 0].max() == COLUMNS - padding - 1


@pytest.mark.parametrize("hidden", [-torch.inf, -1e9, -1e4])
def test_what_hides_a_token_may_be_any_large_number(hidden: float) -> None:
    model, mask = model_of("sdpa"), numbers(causal(), hidden)
    with torch.no_grad():
        model(IDS, attention_mask=mask, past_key_values=CompressedCache(model.config))


def test_a_bias_is_no_mask() -> None:
    model = model_of("sdpa")
    mask = numbers(causal())
    mask[0, 0, 9, 3] = -1.5
    with torch.no_grad(), pytest.raises(ScopeError, match="causal"):
        model(IDS, attention_mask=mask, past_key_values=CompressedCache(model.config))


@pytest.mark.parametrize("hidden", [-1.5, -100.0])
def test_what_hides_too_little_is_a_bias(hidden: float) -> None:
    model = model_of("sdpa")
    with torch.no_grad(), pytest.raises(ScopeError):
        model(IDS, attention_mask=numbers(causal(), hidden), past_key_values=CompressedCache(model.config))


def steps(change: Callable[[Tensor, int], Tensor]) -> None:
    """A padded prompt, and steps with masks that `change` makes of what they should be."""
    model, mask = model_of("sdpa"), zeros(second=slice(0, 5))
    cache = CompressedCache(model.config)
    with torch.no_grad():
        model(IDS, attention_mask=mask, past_key_values=cache)
        for step in range(STEPS):
            mask = torch.cat([mask, mask.new_ones(2, 1)], 1)
            model(IDS[:, step : step + 1], attention_mask=change(mask, step), past_key_values=cache)


STEP_MASKS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "a token hidden later": lambda mask, step: mask.index_fill(1, torch.tensor([9]), 0) if step == 2 else mask,
    "padding that became a token": lambda mask, step: torch.ones_like(mask) if step == 1 else mask,
    "more padding": lambda mask, step: mask.index_fill(1, torch.arange(8), 0) if step == 3 else mask,
    "too short": lambda mask, step: mask[:, 1:] if step == 1 else mask,
    "only the new token's": lambda mask, step: mask[:, -1:],
    "of every pair": lambda mask, step: (mask.bool() & (torch.arange(mask.shape[1]) != 12))[:, None, None],
}


def test_steps_that_say_the_same_go_on() -> None:
    steps(lambda mask, _: mask)
    steps(lambda mask, _: mask.bool()[:, None, None])


@pytest.mark.parametrize("name", STEP_MASKS)
def test_a_step_may_not_take_back_what_the_prompt_said(name: str) -> None:
    with pytest.raises(ScopeError, match="attention_mask") as refused:
        steps(STEP_MASKS[name])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "positions",
    [[*range(10), *range(10)], [*range(10), *range(15, 25)], [0] * COLUMNS, [*range(COLUMNS - 1), 3]],
    ids=["two texts", "a gap", "all the same", "back at the end"],
)
def test_positions_have_to_count_up(positions: list[int]) -> None:
    model = model_of("sdpa")
    ids = torch.tensor([positions])
    with torch.no_grad(), pytest.raises(ScopeError, match="position_ids"):
        model(IDS[:1], position_ids=ids, past_key_values=CompressedCache(model.config))


@pytest.mark.parametrize("first", [0, 7])
def test_positions_may_begin_anywhere(first: int) -> None:
    stock, ours = model_of("sdpa"), model_of("sdpa")
    positions = torch.arange(first, first + COLUMNS)[None]
    with torch.no_grad():
        caches = DynamicCache(config=stock.config), CompressedCache(ours.config)
        for ids, at in ((IDS[:1], positions), (IDS[:1, :1], positions[:, -1:] + 1)):
            expected = stock(ids, position_ids=at, past_key_values=caches[0]).logits[:, -1]
            torch.testing.assert_close(ours(ids, position_ids=at, past_key_values=caches[1]).logits[:, -1], expected)


def test_attention_that_looks_ahead_is_refused() -> None:
    model = model_of("sdpa")
    with torch.no_grad(), pytest.raises(ScopeError, match="looks ahead"):
        model(IDS, is_causal=False, past_key_values=CompressedCache(model.config))
    model.config.is_causal = False
    with pytest.raises(ScopeError, match="looks ahead"):
        CompressedCache(model.config)


@given(data=st.data())
@settings(deadline=None)
def test_masks_of_two_and_four_dimensions_are_judged_alike(data: st.DataObject) -> None:
    """Of flash attention there is the 2-D mask alone, of others what transformers makes of it. Oracle: a loop."""
    rows, columns = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    flat = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=columns, max_size=columns), min_size=rows, max_size=rows))
    )
    window = data.draw(st.none() | st.integers(1, 6))
    pairs = torch.zeros(rows, 1, columns, columns, dtype=torch.bool)
    for b in range(rows):
        for q in range(columns):
            for k in range(q + 1):
                pairs[b, 0, q, k] = flat[b, k] and (window is None or k > q - window)
    good = all(any(row) and row == sorted(row) for row in flat.tolist())
    for mask in (flat, pairs):
        try:
            real = real_tokens(mask, rows, columns)
            assert real is not None
            require_causal(mask, real, columns, Sight(window))
        except ScopeError:
            assert not good
        else:
            assert good
            assert torch.equal(real, flat)
    if good:
        broken = pairs.clone()
        b, q, k = (data.draw(st.integers(0, n - 1)) for n in (rows, columns, columns))
        if flat[b, q] and k != q:
            broken[b, 0, q, k] = ~broken[b, 0, q, k]
            with pytest.raises(ScopeError):
                require_causal(broken, flat, columns, Sight(window))


def test_positions_of_padding_do_not_matter() -> None:
    require_consecutive(torch.tensor([[1, 1, 1, 0, 1, 2]]), torch.tensor([[False, False, False, True, True, True]]))
    with pytest.raises(ScopeError):
        require_consecutive(torch.tensor([[1, 1, 1, 0, 1, 2]]), None)
