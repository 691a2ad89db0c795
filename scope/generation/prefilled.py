"""Prompts after their prefill. One that is answered several times is read once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from scope.cache import CompressedCache

Tokens = tuple[int, ...]  # of a prompt


@dataclass(frozen=True)
class Prefilled:
    """Prompts after their prefill: B rows in a cache of their own.

    prompts: [B] their tokens. logits [B, V]: after their last tokens. positions [B, 1]: of these.
    """

    prompts: tuple[Tokens, ...]
    cache: CompressedCache
    logits: Tensor
    positions: Tensor

    def of(self, prompts: Sequence[Tokens]) -> Self:
        """The same for these of its prompts, each as often as it is named, in a cache that goes on by itself."""
        rows = [self.prompts.index(prompt) for prompt in prompts]
        return type(self)(tuple(prompts), self.cache.fork(rows), self.logits[rows], self.positions[rows])
