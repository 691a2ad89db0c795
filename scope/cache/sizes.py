"""Slots and bytes that a cache will take, computed from the model's shape and the budgets before it exists."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import Any

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from scope.cache.policy import MANY, Policy
from scope.cache.precision import pair_bytes
from scope.decoding import DecodingStrategy
from scope.decoding.eviction import Eviction
from scope.policy.attention import Attention
from scope.policy.plan import View
from scope.policy.rule import Sight
from scope.prefill import PrefillMethod
from scope.util.errors import ScopeError

CHANNEL_BYTES = 4  # float32
DECIMALS = 4  # of the smallest share that an error names


def cache_bytes(config: PretrainedConfig, policy: Policy, dtype: str, prompt: int, tokens: int) -> int:
    """The most bytes that the slots of one sequence take at once, from the end of the prefill on, in all layers.

    dtype: of keys and values, as "bfloat16". prompt: P. tokens: T, how many are generated. The records count the same
    way: a layer with a sliding window holds no more than its window.
    Raises ScopeError if the policy's `max_bytes` or `max_slots` are too few for the prompt.
    """
    steps = tokens - 1  # the last token is never fed back
    windows = windows_of(config)
    of_slot = [slot_bytes_of(config, policy, dtype, layer) for layer in range(len(windows))]
    views = after_prefill(policy, prompt, windows, of_slot)
    slots = [most_slots(policy.decoding, view, view.kept + steps) for view in views]
    return sum(n * size for n, size in zip(slots, of_slot, strict=True))


def full_bytes(config: PretrainedConfig, dtype: str, tokens: int) -> int:
    """Bytes that transformers' own cache takes for a sequence of `tokens` tokens, in all layers."""
    return sum(
        reached(tokens, window) * slot_bytes_of(config, Policy(), dtype, layer)
        for layer, window in enumerate(windows_of(config))
    )


def with_most_slots(policy: Policy, config: PretrainedConfig, prompt: int, slots: int) -> Policy:
    """The policy with the largest D whose cache never holds more than `slots` slots, for a prompt of P tokens.

        policy = with_most_slots(Policy(SnapKV(0.5), Distinct()), model.config, prompt=1000, slots=640)

    config: of the model. prompt: P. slots: a layer's, in the mean over the layers; what is added between two evictions
    counts. `recent` as a share follows D.
    Raises ScopeError if nothing fits or if the strategy has no D: one that keeps all, or is not an `Eviction`.
    """
    if not isinstance(policy.decoding, Eviction):
        raise ScopeError(f"{type(policy.decoding).__name__} has no decoding budget that could be fitted")
    free = replace(policy, max_bytes=None, max_slots=None)
    first, decoding = after_prefill(free, prompt, windows_of(config))[0], policy.decoding

    def within(slots: int) -> Eviction | None:
        try:
            return decoding.within(replace(first, max_slots=slots))
        except ScopeError:
            return None

    if found := within(slots):
        return replace(free, decoding=found)
    least = bisect_left(range(MANY), True, key=lambda n: within(n) is not None)
    raise ScopeError(f"slots={slots}: too few for a prompt of {prompt} tokens: needs at least {least}")


def after_prefill(
    policy: Policy, prompt: int, windows: Sequence[int | None], of_slot: Sequence[int] = ()
) -> list[View]:
    """The view of each layer after the prefill, for a row whose prompt has `prompt` tokens.

    windows: the sliding window of each layer. of_slot: bytes of one slot in each layer; needed only if the policy has
    `max_bytes`.
    """
    layers, prefill = len(windows), policy.prefill
    left = tuple(prefilled(prefill, prompt, layers))
    max_slots = slots_of_bound(policy, prompt, windows, of_slot)
    weights = tuple(of_slot) if policy.max_bytes is not None and len(set(of_slot)) > 1 else ()
    views = [View(layer, layers, prompt, stored=prompt, max_slots=max_slots) for layer in range(layers)]
    more: dict[str, Any] = {"windows": tuple(windows), "slot_bytes": weights}
    return [
        replace(view, budget=prefill.slots(prompt), capacity=prefill.capacity(view), prefilled=left, **more)
        for view in views
    ]


def slots_of_bound(
    policy: Policy, prompt: int, windows: Sequence[int | None], of_slot: Sequence[int] = ()
) -> int | None:
    """The most slots a layer, in the mean over the layers, by `max_bytes` or `max_slots`; None: there is no bound.

    Arguments are those of `after_prefill`. A share counts as the decimal that it is written as: 0.29 of 100 is 29.
    """
    if policy.max_bytes is not None:
        return policy.max_bytes // sum(of_slot)
    if isinstance(policy.max_slots, float):
        return int(Fraction(str(policy.max_slots)) * _full_slots(policy, prompt, windows))
    return policy.max_slots


def _full_slots(policy: Policy, prompt: int, windows: Sequence[int | None]) -> Fraction:
    """Slots a layer that transformers' own cache holds after `policy.tokens` tokens, in the mean over the layers."""
    assert policy.tokens is not None
    tokens = prompt + policy.tokens - 1  # the last token is never fed back
    return Fraction(sum(reached(tokens, window) for window in windows), len(windows))


def require_fit(
    policy: Policy, prompts: Sequence[int], windows: Sequence[int | None], of_slot: Sequence[int] = ()
) -> None:
    """Raises ScopeError if the policy's `max_bytes` or `max_slots` are too few for one of the prompts.

    prompts: tokens of each. Other arguments are those of `after_prefill`.
    """
    if found := needed(policy, prompts, windows, of_slot):
        assert policy.bound is not None
        least, prompt = found
        given = f"{policy.bound}={getattr(policy, policy.bound)}"
        raise ScopeError(f"{given}: too small for a prompt of {prompt} tokens: needs at least {least}")


def needed(
    policy: Policy, prompts: Sequence[int], windows: Sequence[int | None], of_slot: Sequence[int] = ()
) -> tuple[str, int] | None:
    """What the policy's bound must at least be, in words, and the tokens of the prompt that needs so much.

    None if all prompts fit. Where `max_slots` is a share and no share is enough, the answer is a count of slots.
    Arguments are those of `require_fit`.
    """
    if policy.bound is None:
        return None
    enough, needy = policy, None
    for prompt in sorted(set(prompts), reverse=True):
        if _fits(enough, prompt, windows, of_slot):
            continue
        least, needy = _least(policy, prompt, windows, of_slot), prompt
        if isinstance(policy.max_slots, float) and isinstance(least, int):
            return needed(replace(policy, max_slots=1), prompts, windows, of_slot)
        enough = _with_bound(policy, least)
    if needy is None:
        return None
    least = getattr(enough, policy.bound)
    return (f"{least} slots" if isinstance(enough.max_slots, int) else f"{least}"), needy


def _least(policy: Policy, prompt: int, windows: Sequence[int | None], of_slot: Sequence[int]) -> int | float:
    """The smallest value of the policy's bound that works for such a prompt: bytes, a count of slots, or a share.

    A share is rounded up to so many DECIMALS. If no share is enough, it is a count.
    """
    unit = 1 if policy.max_bytes is None else sum(of_slot)

    def fits(slots: int) -> bool:
        return slots > 0 and _fits(_with_bound(policy, slots * unit), prompt, windows, of_slot)

    most = 1
    while not fits(most):
        most *= 2
    slots = bisect_left(range(most), True, key=fits)
    if isinstance(policy.max_slots, float):
        parts = ceil(slots / _full_slots(policy, prompt, windows) * 10**DECIMALS)
        return parts / 10**DECIMALS if parts < 10**DECIMALS else slots
    return slots * unit


def _with_bound(policy: Policy, value: int | float) -> Policy:
    """The policy with another value of the bound that it has."""
    return replace(policy, max_slots=value) if policy.max_bytes is None else replace(policy, max_bytes=int(value))


def _fits(policy: Policy, prompt: int, windows: Sequence[int | None], of_slot: Sequence[int]) -> bool:
    """Whether the strategy finds a D for its bound."""
    try:
        for view in after_prefill(policy, prompt, windows, of_slot):
            policy.decoding.most(view)
    except ScopeError:
        return False
    return True


def prefilled(prefill: PrefillMethod, prompt: int, layers: int) -> list[int]:
    """Slots that the prefill leaves in each layer of a prompt of `prompt` tokens, sliding windows aside."""
    plans = [prefill.plan(View(layer, layers, prompt, stored=prompt)) for layer in range(layers)]
    return [plan.slots if plan else prompt for plan in plans]


def most_slots(decoding: DecodingStrategy, view: View, grown: int) -> int:
    """The most slots that a row ever holds at once in the view's layer. grown: how many without any eviction."""
    most = bound_of(decoding, view)
    return grown if most is None else min(most, grown)


def bound_of(decoding: DecodingStrategy, view: View) -> int | None:
    """The most slots that strategy and sliding window ever let a row of this layer hold at once; None: no bound."""
    return min([n for n in (decoding.most(view), view.window) if n is not None], default=None)


def reached(tokens: int, window: int | None) -> int:
    """How many of the last `tokens` tokens the next token sees in a layer with this sliding window."""
    return tokens if window is None else min(tokens, window - 1)


def windows_of(config: PretrainedConfig) -> tuple[int | None, ...]:
    """The window of each layer, as in transformers' own cache: tokens that a query sees at the most; None: all.

    Raises ScopeError for a type of layer that a compressed cache does not support.
    """
    return tuple([sight.window for sight in sights_of(config)])


def sights_of(config: PretrainedConfig) -> tuple[Sight, ...]:
    """What the queries of each layer see. Raises ScopeError as `windows_of` does."""
    text = config.get_text_config(decoder=True)
    sights: list[Sight] = []
    for index, layer in enumerate(DynamicCache(config=config).layers):
        if type(layer) is DynamicLayer:
            sights.append(Sight())
        elif type(layer) is DynamicSlidingWindowLayer and layer.sliding_window > 1:
            sights.append(Sight(layer.sliding_window, _chunked(config, index)))
        else:
            kind = f"this model has layers that transformers caches as {type(layer).__name__}"
            raise ScopeError(f"{kind}: a compressed cache takes layers that store keys and values of their own")
    if len(sights) < (layers := text.num_hidden_layers):
        raise ScopeError(f"this model's layers share keys and values ({len(sights)} of {layers} store them)")
    return tuple(sights)


def _chunked(config: PretrainedConfig, layer: int) -> bool:
    """Whether a layer that transformers' cache gives a window has chunks."""
    text = _config_of(config, layer)
    types = getattr(text, "layer_types", None)
    return types[layer] == "chunked_attention" if types else getattr(text, "sliding_window", None) is None


def slot_bytes(heads: int, dims: tuple[int, int], itemsize: int, policy: Policy) -> int:
    """Bytes of one token in one layer.

    heads: how many are stored. dims: how many numbers its key has in one head, and its value. itemsize: bytes of one of
    the model's own numbers. policy: its precision, and the float32 numbers that its strategy keeps for each token and
    head. Raises ScopeError for heads that cannot be stored in this precision.
    """
    return heads * (pair_bytes(policy.precision, dims, itemsize) + CHANNEL_BYTES * len(policy.decoding.channels))


def slot_bytes_of(config: PretrainedConfig, policy: Policy, dtype: str, layer: int = 0) -> int:
    """Bytes of one token in one layer, all stored heads, from the model's configuration."""
    text = _config_of(config, layer)
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return slot_bytes(heads_of(config, policy, layer), (dim, dim), getattr(torch, dtype).itemsize, policy)


def heads_of(config: PretrainedConfig, policy: Policy, layer: int = 0) -> int:
    """How many heads are stored in a layer, from the model's configuration."""
    text = _config_of(config, layer)
    queries: int = text.num_attention_heads
    return queries if policy.granularity == "query_head" else (getattr(text, "num_key_value_heads", None) or queries)


def _config_of(config: PretrainedConfig, layer: int) -> Any:
    """The configuration of one layer."""
    text = config.get_text_config(decoder=True)
    return text.per_layer_config[layer] if getattr(text, "is_heterogeneous", False) else text


def stored_slot_bytes(config: PretrainedConfig, policy: Policy, attention: Attention) -> list[int]:
    """Bytes of one token in each layer, from the keys and values of one layer as they will be stored.

    The other layers are scaled by the ratio of their bytes in the configuration.
    """
    keys = attention.keys
    own = slot_bytes(keys.shape[1], (keys.shape[3], attention.values.shape[3]), keys.element_size(), policy)
    dtype = str(keys.dtype).partition(".")[2]
    layers = config.get_text_config(decoder=True).num_hidden_layers
    expected = [slot_bytes_of(config, policy, dtype, layer) for layer in range(layers)]
    return [own * size // expected[attention.layer] for size in expected]


def prefill_bytes(config: PretrainedConfig, policy: Policy, dtype: str, columns: int, prompt: int) -> int:
    """An estimate, rather too high, of the bytes that the prefill of one row takes.

    columns: tokens that are fed at a time. prompt: P. Counted are the activations of one layer, its keys, values and
    queries, the attention of one query, and the logits. If the prompt comes in chunks: also the keys and values of
    every layer, the queries that the policies look at, and the votes where they are summed.
    """
    text = config.get_text_config(decoder=True)
    wide = 8 * text.hidden_size + 3 * text.intermediate_size
    size = getattr(torch, dtype).itemsize
    scores = 2 * prompt * text.num_attention_heads * 4  # of one query
    layers = range(text.num_hidden_layers)
    held = prompt * max(slot_bytes_of(config, Policy(granularity="query_head"), dtype, layer) for layer in layers)
    if columns < prompt:
        recent = policy.recent_queries
        if policy.sums_votes:
            held += prompt * 4 * sum(heads_of(config, policy, layer) for layer in layers)
        held += attention_bytes(config, dtype, prompt, prompt if recent is None else min(recent, prompt))
    return int(columns * wide * size + held + scores + text.vocab_size * 4)


def attention_bytes(config: PretrainedConfig, dtype: str, keys: int, queries: int) -> int:
    """Bytes of the keys and values of so many tokens, and of so many queries, in all layers of one row."""
    layers = range(config.get_text_config(decoder=True).num_hidden_layers)
    pairs, grouped = (
        sum(slot_bytes_of(config, Policy(granularity=heads), dtype, layer) for layer in layers)
        for heads in ("query_head", "kv_head")
    )
    return keys * grouped + queries * pairs // 2
