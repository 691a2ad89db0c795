"""Bytes of a cache, counted before there is one: from the model's shape and the budgets alone."""

from dataclasses import replace

import torch
from transformers import PretrainedConfig

from scope.decoding import DecodingStrategy
from scope.plan import View
from scope.prefill import PrefillMethod


def cache_bytes(
    config: PretrainedConfig,
    prefill: PrefillMethod,
    decode: DecodingStrategy,
    granularity: str,
    dtype: str,
    prompt: int,
    tokens: int,
) -> int:
    """The most that a sequence's keys and values take at once, for a prompt of that many tokens, written to T tokens.

    Counted from the end of the prefill on, as records count it.
    """
    steps = tokens - 1  # the last token is never fed back
    layers = int(config.get_text_config(decoder=True).num_hidden_layers)
    asked = [View(layer, layers, prompt, stored=prompt) for layer in range(layers)]
    plans = [prefill.plan(view) for view in asked]
    kept = tuple(plan.slots if plan else prompt for plan in plans)
    slots = 0
    for view in asked:
        left = replace(view, budget=prefill.slots(prompt), capacity=prefill.capacity(view), prefilled=kept)
        most = decode.most(left)
        slots += left.kept + steps if most is None else min(most, left.kept + steps)
    return slots * slot_bytes(config, granularity, dtype)


def slot_bytes(config: PretrainedConfig, granularity: str, dtype: str) -> int:
    """Bytes of one token's keys and values in one layer, all heads that are stored."""
    text = config.get_text_config(decoder=True)
    queries = text.num_attention_heads
    heads = queries if granularity == "query_head" else (getattr(text, "num_key_value_heads", None) or queries)
    dim = getattr(text, "head_dim", None) or text.hidden_size // queries
    return int(2 * heads * dim * getattr(torch, dtype).itemsize)


def prefill_bytes(config: PretrainedConfig, dtype: str, columns: int, prompt: int) -> int:
    """About what one row's prompt takes while it goes through, `columns` tokens at a time: on the careful side.

    Activations of one layer, its keys, values and queries, a query's attention, and the logits.
    """
    text = config.get_text_config(decoder=True)
    wide = 8 * text.hidden_size + 3 * text.intermediate_size
    size = getattr(torch, dtype).itemsize
    scores = 2 * prompt * text.num_attention_heads * 4  # of one query, at the least
    held = prompt * slot_bytes(config, "query_head", dtype)
    return int(columns * wide * size + held + scores + text.vocab_size * 4)
