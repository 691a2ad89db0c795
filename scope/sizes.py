"""Bytes of a cache, counted before there is one: from the model's shape and the budgets alone."""

from dataclasses import replace

import torch
from transformers import PretrainedConfig

from scope.decoding import DecodingStrategy, KeepAll
from scope.plan import View
from scope.prefill import PrefillMethod

CHANNEL_BYTES = 4  # float32


def cache_bytes(
    config: PretrainedConfig,
    prefill: PrefillMethod,
    decode: DecodingStrategy,
    granularity: str,
    dtype: str,
    prompt: int,
    tokens: int,
    max_bytes: int | None = None,
) -> int:
    """The most that a sequence's slots take at once, for a prompt of that many tokens, written to T tokens.

    Counted from the end of the prefill on, as records count it. `max_bytes`: the cache's. Raises ScopeError where it
    has no room for the prompt.
    """
    steps = tokens - 1  # the last token is never fed back
    layers = int(config.get_text_config(decoder=True).num_hidden_layers)
    of_slot = slot_bytes_of(config, granularity, dtype, decode)
    room = None if max_bytes is None else slots_within(max_bytes, layers, of_slot)
    kept = tuple(prefilled(prefill, prompt, layers))
    slots = 0
    for layer in range(layers):
        view = View(layer, layers, prompt, stored=prompt, room=room)
        left = replace(view, budget=prefill.slots(prompt), capacity=prefill.capacity(view), prefilled=kept)
        most = decode.most(left)
        slots += left.kept + steps if most is None else min(most, left.kept + steps)
    return slots * of_slot


def prefilled(prefill: PrefillMethod, prompt: int, layers: int) -> list[int]:
    """Slots that the prefill leaves in each layer, of a prompt of that many tokens."""
    plans = [prefill.plan(View(layer, layers, prompt, stored=prompt)) for layer in range(layers)]
    return [plan.slots if plan else prompt for plan in plans]


def slots_within(max_bytes: int, layers: int, of_slot: int) -> int:
    """Slots that so many bytes leave each layer, the layers being alike."""
    return max_bytes // (layers * of_slot)


def slot_bytes(heads: int, numbers: int, itemsize: int, channels: int) -> int:
    """Bytes of one token in one layer, all heads that are stored: the numbers of its key and value, `itemsize` bytes
    each, and what the strategy remembers of it."""
    return heads * (numbers * itemsize + CHANNEL_BYTES * channels)


def slot_bytes_of(config: PretrainedConfig, granularity: str, dtype: str, decode: DecodingStrategy) -> int:
    """The same, from the model's shape."""
    text = config.get_text_config(decoder=True)
    queries = text.num_attention_heads
    heads = queries if granularity == "query_head" else (getattr(text, "num_key_value_heads", None) or queries)
    dim = getattr(text, "head_dim", None) or text.hidden_size // queries
    return slot_bytes(heads, 2 * dim, getattr(torch, dtype).itemsize, len(decode.channels))


def queries_asked(prefill: PrefillMethod, decode: DecodingStrategy) -> int | None:
    """How many of a prompt's last queries the two look at; None: all."""
    if prefill.queries is None or decode.channels:
        return None
    return max(prefill.queries, decode.queries)


def prefill_bytes(
    config: PretrainedConfig, dtype: str, columns: int, prompt: int, prefill: PrefillMethod, decode: DecodingStrategy
) -> int:
    """About what one row's prompt takes while it goes through, `columns` tokens at a time: on the careful side.

    Activations of one layer, its keys, values and queries, a query's attention, and the logits; of a prompt in chunks
    every layer's keys and values, and of its queries those that are looked at.
    """
    text = config.get_text_config(decoder=True)
    wide = 8 * text.hidden_size + 3 * text.intermediate_size
    size = getattr(torch, dtype).itemsize
    scores = 2 * prompt * text.num_attention_heads * 4  # of one query, at the least
    pair, grouped = (slot_bytes_of(config, heads, dtype, KeepAll()) for heads in ("query_head", "kv_head"))
    held = prompt * pair
    if columns < prompt:
        asked = queries_asked(prefill, decode)
        queries = prompt if asked is None else min(asked, prompt)
        held += text.num_hidden_layers * (prompt * grouped + queries * pair // 2)
    return int(columns * wide * size + held + scores + text.vocab_size * 4)
