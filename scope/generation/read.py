"""Prompts that a model reads once for many policies: no policy changes what the prompt's own attention is given."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from scope.cache import CompressedCache, Layout, Policy
from scope.cache.sizes import attention_bytes
from scope.generation.rows import Prompt
from scope.generation.stream import prefill
from scope.policy.attention import Attention
from scope.util.memory import free_memory

SHARE = 0.25  # of the free memory, which is kept of what was read


@dataclass(frozen=True)
class Read:
    """What a model made of a batch of prompts: the attention of each layer, and what follows their last tokens."""

    layers: tuple[Attention, ...]
    logits: Tensor  # [B, V] after the last tokens
    last: Tensor  # [B, 1] the positions of these


class Reads:
    """Keeps what a model has read, batch by batch, as long as it fits into a quarter of the memory that was free."""

    def __init__(self) -> None:
        self._of: Hashable = None
        self._kept: dict[tuple[tuple[int, ...], ...], Read] = {}
        self._left: int | None = None  # bytes; None: nothing has been read yet

    def begin(self, of: Hashable) -> None:
        """What comes is read for `of`. What was kept for anything else is dropped."""
        if of != self._of:
            self._of, self._kept, self._left = of, {}, None

    def of(self, model: PreTrainedModel, prompts: tuple[tuple[int, ...], ...]) -> Read | None:
        """What the model makes of these prompts. None: it would not fit beside what is kept."""
        if prompts not in self._kept:
            if self._left is None:
                self._left = int(SHARE * free_memory(model.device))
            dtype = str(model.dtype).partition(".")[2]
            needed = len(prompts) * attention_bytes(model.config, dtype, *[max(map(len, prompts))] * 2)
            if needed > self._left:
                return None
            self._left -= needed
            self._kept[prompts] = read(model, prompts)
        return self._kept[prompts]


@torch.inference_mode()
def read(model: PreTrainedModel, prompts: Sequence[tuple[int, ...]]) -> Read:
    """Feed the prompts, all together. Raises ScopeError for a model that does not run scope's attention."""
    layers: list[Attention] = []  # nothing writes to their tensors: a storage copies what it keeps
    cache = CompressedCache.of(model.config, Policy(), Layout(1), layers.append)
    logits, last = prefill(model, cache, [Prompt(str(b), row) for b, row in enumerate(prompts)], 0, None)
    return Read(tuple(layers), logits, last)
