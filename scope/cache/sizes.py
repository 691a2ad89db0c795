"""Bytes of a cache, counted before there is one: from the model's shape and the budgets alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from scope.cache.policy import Policy
from scope.decoding import DecodingStrategy
from scope.policy.attention import Attention
from scope.policy.plan import View
from scope.prefill import PrefillMethod
from scope.util.errors import ScopeError

CHANNEL_BYTES = 4  # float32


def cache_bytes(config: PretrainedConfig, policy: Policy, dtype: str, prompt: int, tokens: int) -> int:
    """The most that a sequence's slots take at once, for a prompt of that many tokens, written to T tokens.

    Counted from the end of the prefill on, as records count it, layer by layer: a layer with a sliding window holds no
    more than its window. Raises ScopeError where the policy's `max_bytes` are too few for the prompt.
    """
    steps = tokens - 1  # the last token is never fed back
    windows = windows_of(config)
    of_slot = [slot_bytes_of(config, policy, dtype, layer) for layer in range(len(windows))]
    views = after_prefill(policy, prompt, windows, of_slot)
    slots = [most_slots(policy.decoding, view, view.kept + steps) for view in views]
    return sum(n * size for n, size in zip(slots, of_slot, strict=True))


def full_bytes(config: PretrainedConfig, dtype: str, tokens: int) -> int:
    """What transformers' own cache holds of a sequence of that many tokens, layer by layer."""
    return sum(
        reached(tokens, window) * slot_bytes_of(config, Policy(), dtype, layer)
        for layer, window in enumerate(windows_of(config))
    )


def after_prefill(
    policy: Policy, prompt: int, windows: Sequence[int | None], of_slot: Sequence[int] = ()
) -> list[View]:
    """Each layer's view of a row whose prompt has that many tokens, once the prefill has been through.

    windows: each layer's; of_slot: bytes of one slot in each, asked for where the policy's `max_bytes` bound them all.
    """
    layers, prefill = len(windows), policy.prefill
    left = tuple(prefilled(prefill, prompt, layers))
    room = None if policy.max_bytes is None else policy.max_bytes // sum(of_slot)
    views = [View(layer, layers, prompt, stored=prompt, room=room) for layer in range(layers)]
    more: dict[str, Any] = {"windows": tuple(windows), "slot_bytes": tuple(of_slot) if len(set(of_slot)) > 1 else ()}
    return [
        replace(view, budget=prefill.slots(prompt), capacity=prefill.capacity(view), prefilled=left, **more)
        for view in views
    ]


def prefilled(prefill: PrefillMethod, prompt: int, layers: int) -> list[int]:
    """Slots that the prefill leaves in each layer, of a prompt of that many tokens, where no window bounds it."""
    plans = [prefill.plan(View(layer, layers, prompt, stored=prompt)) for layer in range(layers)]
    return [plan.slots if plan else prompt for plan in plans]


def most_slots(decoding: DecodingStrategy, view: View, grown: int) -> int:
    """The most slots that a row ever holds at once in that layer, where it holds `grown` if nothing goes."""
    return min(n for n in (decoding.most(view), grown, view.window) if n is not None)


def reached(tokens: int, window: int | None) -> int:
    """Of that many tokens, those that the token after them sees: the others are free in a layer with that window."""
    return tokens if window is None else min(tokens, window - 1)


def windows_of(config: PretrainedConfig) -> tuple[int | None, ...]:
    """Each layer's sliding window, as transformers' own cache has it: tokens that a query sees; None: all.

    Raises ScopeError for a kind of layer that a compressed cache does not know.
    """
    windows: list[int | None] = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) is DynamicLayer:
            windows.append(None)
        elif type(layer) is DynamicSlidingWindowLayer and layer.sliding_window > 1:
            windows.append(layer.sliding_window)
        else:
            raise ScopeError(f"this model has layers that a compressed cache does not know ({type(layer).__name__})")
    if len(windows) < (layers := config.get_text_config(decoder=True).num_hidden_layers):
        raise ScopeError(f"this model's layers share what they hold ({len(windows)} of {layers} hold it)")
    return tuple(windows)


def slot_bytes(heads: int, numbers: int, itemsize: int, channels: int) -> int:
    """Bytes of one token in one layer, all heads that are stored: the numbers of its key and value, `itemsize` bytes
    each, and what the strategy remembers of it."""
    return heads * (numbers * itemsize + CHANNEL_BYTES * channels)


def slot_bytes_of(config: PretrainedConfig, policy: Policy, dtype: str, layer: int = 0) -> int:
    """The same, from the model's shape."""
    text = config.get_text_config(decoder=True)
    text = text.per_layer_config[layer] if getattr(text, "is_heterogeneous", False) else text
    queries = text.num_attention_heads
    heads = queries if policy.granularity == "query_head" else (getattr(text, "num_key_value_heads", None) or queries)
    dim = getattr(text, "head_dim", None) or text.hidden_size // queries
    return slot_bytes(heads, 2 * dim, getattr(torch, dtype).itemsize, len(policy.decoding.channels))


def stored_slot_bytes(config: PretrainedConfig, policy: Policy, attention: Attention) -> list[int]:
    """Bytes of one slot in each layer, from the prompt's attention in one of them, keys and values as stored.

    The other layers are in proportion to what the configuration says.
    """
    keys, channels = attention.keys, len(policy.decoding.channels)
    own = slot_bytes(keys.shape[1], keys.shape[3] + attention.values.shape[3], keys.element_size(), channels)
    dtype = str(keys.dtype).partition(".")[2]
    layers = config.get_text_config(decoder=True).num_hidden_layers
    expected = [slot_bytes_of(config, policy, dtype, layer) for layer in range(layers)]
    return [own * size // expected[attention.layer] for size in expected]


def prefill_bytes(config: PretrainedConfig, policy: Policy, dtype: str, columns: int, prompt: int) -> int:
    """About what one row's prompt takes while it goes through, `columns` tokens at a time: on the careful side.

    Activations of one layer, its keys, values and queries, a query's attention, and the logits; of a prompt in chunks
    every layer's keys and values, and of its queries those that are looked at.
    """
    text = config.get_text_config(decoder=True)
    wide = 8 * text.hidden_size + 3 * text.intermediate_size
    size = getattr(torch, dtype).itemsize
    scores = 2 * prompt * text.num_attention_heads * 4  # of one query, at the least
    layers = range(text.num_hidden_layers)
    pairs, grouped = (
        [slot_bytes_of(config, Policy(granularity=heads), dtype, layer) for layer in layers]
        for heads in ("query_head", "kv_head")
    )
    held = prompt * max(pairs)
    if columns < prompt:
        recent = policy.recent_queries
        queries = prompt if recent is None else min(recent, prompt)
        held += prompt * sum(grouped) + queries * sum(pairs) // 2
    return int(columns * wide * size + held + scores + text.vocab_size * 4)
