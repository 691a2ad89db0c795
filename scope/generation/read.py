"""What a model makes of prompts and continuations with its full cache, once for many policies.

No policy changes what the prompt's own attention is given, nor what the full cache says of a continuation.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from scope.cache import CompressedCache, Layout, Policy
from scope.cache.sizes import attention_bytes
from scope.generation.rows import Prompt
from scope.generation.stream import prefill
from scope.policy.attention import Attention
from scope.util.memory import free_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARE = 0.25  # of the free memory, for what is kept


@dataclass(frozen=True)
class Read:
    """What a model made of a batch of prompts: the attention of each layer, and what follows their last tokens."""

    layers: tuple[Attention, ...]
    logits: Tensor  # [B, V] after the last tokens
    last: Tensor  # [B, 1] the positions of these


class Reads:
    """Keeps what a model has made of prompts and texts, if it fits into a share of the memory that was free."""

    def __init__(self, share: float = SHARE) -> None:
        """share: of the free memory; 0 keeps nothing."""
        self._share = share
        self._of: Hashable = None
        self._kept: dict[Hashable, Read | Tensor] = {}
        self._left: int | None = None  # bytes; None: nothing is kept yet

    def begin(self, of: Hashable) -> None:
        """What comes is read for `of`. What was kept for anything else is dropped."""
        if of != self._of:
            self._of, self._kept, self._left = of, {}, None

    def of(self, model: "PreTrainedModel", prompts: tuple[tuple[int, ...], ...]) -> Read | None:
        """What the model makes of these prompts. None: it would not fit beside what is kept."""
        dtype, longest = str(model.dtype).partition(".")[2], max(map(len, prompts))
        needed = len(prompts) * attention_bytes(model.config, dtype, longest, longest)
        return cast(Read | None, self._keep(prompts, needed, model.device, lambda: read(model, prompts)))

    def logits(self, head: nn.Module, hidden: Tensor, of: Hashable, some: slice) -> Tensor:
        """What the output layer makes of some hidden states [T, E]: [n, V]. It is kept if it fits. of: whose states."""
        part = hidden[some]
        needed = part.shape[0] * cast(Tensor, head.weight).shape[0] * hidden.element_size()
        kept = self._keep((of, some.start, some.stop), needed, hidden.device, lambda: cast(Tensor, head(part)))
        return cast(Tensor, head(part) if kept is None else kept)

    def _keep(
        self, of: Hashable, needed: int, device: torch.device, make: Callable[[], Read | Tensor]
    ) -> Read | Tensor | None:
        if of not in self._kept:
            if self._left is None:
                self._left = int(self._share * free_memory(device))
            if needed > self._left:
                return None
            self._left -= needed
            self._kept[of] = make()
        return self._kept[of]


@torch.inference_mode()
def read(model: "PreTrainedModel", prompts: Sequence[tuple[int, ...]]) -> Read:
    """Feed the prompts, all together. Raises ScopeError for a model that does not run scope's attention."""
    layers: list[Attention] = []  # nothing writes to their tensors: a storage copies what it keeps
    cache = CompressedCache.of(model.config, Policy(), Layout(1), layers.append)
    logits, last = prefill(model, cache, [Prompt(str(b), row) for b, row in enumerate(prompts)], 0, None)
    return Read(tuple(layers), logits, last)
