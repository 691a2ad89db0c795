"""Slots and bytes that a cache will take, computed from the model's shape and the budgets before it exists."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from scope.cache.policy import Policy
from scope.decoding import DecodingStrategy
from scope.decoding.eviction import Eviction
from scope.policy.attention import Attention
from scope.policy.plan import View
from scope.prefill import PrefillMethod
from scope.util.errors import ScopeError

CHANNEL_BYTES = 4  # float32


def cache_bytes(config: PretrainedConfig, policy: Policy, dtype: str, prompt: int, tokens: int) -> int:
    """The most bytes that the slots of one sequence take at once, from the end of the prefill on, in all layers.

    dtype: of keys and values, as "bfloat16". prompt: P. tokens: T, how many are generated. The records count the same
    way: a layer with a sliding window holds no more than its window.
    Raises ScopeError if the policy's `max_bytes` are too few for the prompt.
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
    views = after_prefill(replace(policy, max_bytes=None), prompt, windows_of(config))
    return replace(policy, decoding=policy.decoding.within(replace(views[0], max_slots=slots)), max_bytes=None)


def after_prefill(
    policy: Policy, prompt: int, windows: Sequence[int | None], of_slot: Sequence[int] = ()
) -> list[View]:
    """The view of each layer after the prefill, for a row whose prompt has `prompt` tokens.

    windows: the sliding window of each layer. of_slot: bytes of one slot in each layer; needed only if the policy has
    `max_bytes`.
    """
    layers, prefill = len(windows), policy.prefill
    left = tuple(prefilled(prefill, prompt, layers))
    max_slots = None if policy.max_bytes is None else policy.max_bytes // sum(of_slot)
    views = [View(layer, layers, prompt, stored=prompt, max_slots=max_slots) for layer in range(layers)]
    more: dict[str, Any] = {"windows": tuple(windows), "slot_bytes": tuple(of_slot) if len(set(of_slot)) > 1 else ()}
    return [
        replace(view, budget=prefill.slots(prompt), capacity=prefill.capacity(view), prefilled=left, **more)
        for view in views
    ]


def require_fit(policy: Policy, prompt: int, windows: Sequence[int | None], of_slot: Sequence[int]) -> None:
    """Raises ScopeError if the policy's `max_bytes` are too few for a prompt of `prompt` tokens.

    Arguments are those of `after_prefill`.
    """
    if policy.max_bytes is not None and not _fits(policy, prompt, windows, of_slot):
        least = least_bytes(policy, prompt, windows, of_slot)
        raise ScopeError(
            f"max_bytes={policy.max_bytes}: too small for a prompt of {prompt} tokens: needs at least {least}"
        )


def least_bytes(policy: Policy, prompt: int, windows: Sequence[int | None], of_slot: Sequence[int]) -> int:
    """The smallest `max_bytes` that works for a prompt of `prompt` tokens. Arguments are those of `after_prefill`."""

    def fits(slots: int) -> bool:
        return slots > 0 and _fits(replace(policy, max_bytes=slots * sum(of_slot)), prompt, windows, of_slot)

    most = 1
    while not fits(most):
        most *= 2
    return bisect_left(range(most), True, key=fits) * sum(of_slot)


def _fits(policy: Policy, prompt: int, windows: Sequence[int | None], of_slot: Sequence[int]) -> bool:
    """Whether the strategy finds a D for its `max_bytes`."""
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
    return min(n for n in (decoding.most(view), grown, view.window) if n is not None)


def reached(tokens: int, window: int | None) -> int:
    """How many of the last `tokens` tokens the next token sees in a layer with this sliding window."""
    return tokens if window is None else min(tokens, window - 1)


def windows_of(config: PretrainedConfig) -> tuple[int | None, ...]:
    """The sliding window of each layer, as in transformers' own cache: tokens that a query sees; None: all.

    Raises ScopeError for a type of layer that a compressed cache does not support.
    """
    windows: list[int | None] = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) is DynamicLayer:
            windows.append(None)
        elif type(layer) is DynamicSlidingWindowLayer and layer.sliding_window > 1:
            windows.append(layer.sliding_window)
        else:
            raise ScopeError(f"this model has layers that a compressed cache does not support ({type(layer).__name__})")
    if len(windows) < (layers := config.get_text_config(decoder=True).num_hidden_layers):
        raise ScopeError(f"this model's layers share keys and values ({len(windows)} of {layers} store them)")
    return tuple(windows)


def slot_bytes(heads: int, numbers: int, itemsize: int, channels: int) -> int:
    """Bytes of one token in one layer.

    heads: how many are stored. numbers: in its key and value together, in one head. itemsize: bytes of one number.
    channels: float32 numbers that the strategy keeps for each token and head.
    """
    return heads * (numbers * itemsize + CHANNEL_BYTES * channels)


def slot_bytes_of(config: PretrainedConfig, policy: Policy, dtype: str, layer: int = 0) -> int:
    """Bytes of one token in one layer, all stored heads, from the model's configuration."""
    text = config.get_text_config(decoder=True)
    text = text.per_layer_config[layer] if getattr(text, "is_heterogeneous", False) else text
    queries = text.num_attention_heads
    heads = queries if policy.granularity == "query_head" else (getattr(text, "num_key_value_heads", None) or queries)
    dim = getattr(text, "head_dim", None) or text.hidden_size // queries
    return slot_bytes(heads, 2 * dim, getattr(torch, dtype).itemsize, len(policy.decoding.channels))


def stored_slot_bytes(config: PretrainedConfig, policy: Policy, attention: Attention) -> list[int]:
    """Bytes of one token in each layer, from the keys and values of one layer as they will be stored.

    The other layers are scaled by the ratio of their bytes in the configuration.
    """
    keys, channels = attention.keys, len(policy.decoding.channels)
    own = slot_bytes(keys.shape[1], keys.shape[3] + attention.values.shape[3], keys.element_size(), channels)
    dtype = str(keys.dtype).partition(".")[2]
    layers = config.get_text_config(decoder=True).num_hidden_layers
    expected = [slot_bytes_of(config, policy, dtype, layer) for layer in range(layers)]
    return [own * size // expected[attention.layer] for size in expected]


def prefill_bytes(config: PretrainedConfig, policy: Policy, dtype: str, columns: int, prompt: int) -> int:
    """An estimate, rather too high, of the bytes that the prefill of one row takes.

    columns: tokens that are fed at a time. prompt: P. Counted are the activations of one layer, its keys, values and
    queries, the attention of one query, and the logits. If the prompt comes in chunks: also the keys and values of
    every layer, and the queries that the policies look at.
    """
    text = config.get_text_config(decoder=True)
    wide = 8 * text.hidden_size + 3 * text.intermediate_size
    size = getattr(torch, dtype).itemsize
    scores = 2 * prompt * text.num_attention_heads * 4  # of one query
    layers = range(text.num_hidden_layers)
    held = prompt * max(slot_bytes_of(config, Policy(granularity="query_head"), dtype, layer) for layer in layers)
    if columns < prompt:
        recent = policy.recent_queries
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
