"""A prompt that comes in chunks: its keys, values and queries are collected until the last chunk has come."""

import torch.nn.functional as F
from torch import Tensor


class Chunks:
    """A prompt that comes in pieces: what its attention needs of it until the last has come, and the policies then."""

    def __init__(self, columns: int, recent: int | None) -> None:
        """recent: how many of the last queries are looked at; None: all."""
        self._columns = columns
        self._unseen = 0 if recent is None else max(0, columns - recent)
        self._whole: dict[str, Tensor] = {}
        self._queries: Tensor | None = None

    def add(self, name: str, states: Tensor, at: int) -> Tensor:
        """Put [B, H, n, D] at columns `at`.. -> [B, H, at + n, D], all of them so far."""
        batch, heads, n, dim = states.shape
        if name not in self._whole:
            self._whole[name] = states.new_empty(batch, heads, self._columns, dim)
        self._whole[name][:, :, at : at + n] = states
        return self._whole[name][:, :, : at + n]

    def add_queries(self, states: Tensor, at: int) -> Tensor | None:
        """The same of queries -> after the last of them all columns, 0 where nobody looks at them."""
        batch, heads, n, dim = states.shape
        if self._queries is None:
            self._queries = states.new_empty(batch, heads, self._columns - self._unseen, dim)
        skipped = max(0, self._unseen - at)
        if skipped < n:
            self._queries[:, :, at + skipped - self._unseen : at + n - self._unseen] = states[:, :, skipped:]
        return None if at + n < self._columns else F.pad(self._queries, (0, 0, self._unseen, 0))
