"""A later turn of one row in the engine: the row leaves its batch, reads the turn, and comes back."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scope.cache import CompressedCache
from scope.cache.inputs import layer_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def read_turn(model: "PreTrainedModel", cache: CompressedCache, fed: Sequence[int], seen: int) -> tuple[Tensor, Tensor]:
    """Feed the last token of a row's answer and its next turn, all at once, to the row's own cache.

    seen: tokens of the row that the cache has had.
    -> logits [1, V] after the last token, and the position [1, 1] of that.
    """
    ids = torch.tensor([fed], device=model.device)
    positions = seen + torch.arange(len(fed), device=model.device)[None]
    with layer_inputs(model) if cache.policy.prefill.layer_inputs else nullcontext():
        logits: Tensor = model(
            input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits
    return logits[:, -1], positions[:, -1:]
