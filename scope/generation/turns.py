"""A later turn of some rows in the engine: they leave their batch, read the turn, and come back."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scope.cache import CompressedCache
from scope.cache.inputs import layer_inputs
from scope.generation.prefilled import Prefilled

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def read_turn(
    model: "PreTrainedModel", cache: CompressedCache, fed: Sequence[Sequence[int]], seen: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Feed the tokens of a turn [B, n], all at once, to a cache of these rows.

    fed: after an answer they begin with its last token, which was not fed. seen: tokens of each row that the cache has
    had.
    -> logits [B, V] after the last tokens, and the positions [B, 1] of these.
    """
    ids = torch.tensor(fed, device=model.device)
    positions = torch.tensor(seen, device=model.device)[:, None] + torch.arange(ids.shape[1], device=model.device)
    with layer_inputs(model) if cache.policy.prefill.layer_inputs else nullcontext():
        logits: Tensor = model(
            input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits
    return logits[:, -1], positions[:, -1:]


def ask(model: "PreTrainedModel", read: Prefilled, asked: Sequence[Sequence[int] | None]) -> Prefilled:
    """The rows when each has read the question that comes after its compressed prompt; None: it has none.

    Rows whose questions have as many tokens read them together. The cache of `read` goes on as that of the result.
    """
    by_length: dict[int, list[int]] = {}
    for row, tokens in enumerate(asked):
        if tokens is not None:
            by_length.setdefault(len(tokens), []).append(row)
    logits, positions = read.logits.clone(), read.positions.clone()
    for rows in by_length.values():
        own = read.cache.fork(rows)
        fed, seen = [asked[row] or () for row in rows], [len(read.prompts[row]) for row in rows]
        logits[rows], positions[rows] = read_turn(model, own, fed, seen)
        read.cache.replace(rows, own)
    return replace(read, logits=logits, positions=positions)
