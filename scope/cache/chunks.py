"""A prompt that comes in chunks: its keys, values and queries are collected until the last chunk has come.

For a score that reads only the votes of all queries, the votes of each chunk are added up instead. This is exact: the
keys that a query sees have all come by then.
"""

import torch.nn.functional as F
from torch import Tensor


class Chunks:
    """The chunks of one layer so far: all keys and values for attention, and the queries that the policies look at."""

    def __init__(self, columns: int, recent: int | None) -> None:
        """columns: P. recent: how many of the last queries the policies look at; None: all."""
        self._columns = columns
        self._unseen = 0 if recent is None else max(0, columns - recent)
        self._whole: dict[str, Tensor] = {}
        self._queries: Tensor | None = None
        self.votes: Tensor | None = None  # [B, H, P] float32, of all queries so far; None: nobody asks for them

    def add(self, name: str, states: Tensor, at: int) -> Tensor:
        """Add the chunk [B, H, n, D] that starts in column `at` -> [B, H, at + n, D], all columns so far."""
        batch, heads, n, dim = states.shape
        if name not in self._whole:
            self._whole[name] = states.new_empty(batch, heads, self._columns, dim)
        self._whole[name][:, :, at : at + n] = states
        return self._whole[name][:, :, : at + n]

    def add_queries(self, states: Tensor, at: int) -> Tensor | None:
        """Add the queries of a chunk.

        -> None before the last chunk; then [B, Hq, P, D], where queries that no policy looks at are 0.
        """
        batch, heads, n, dim = states.shape
        if self._queries is None:
            self._queries = states.new_empty(batch, heads, self._columns - self._unseen, dim)
        skipped = max(0, self._unseen - at)
        if skipped < n:
            self._queries[:, :, at + skipped - self._unseen : at + n - self._unseen] = states[:, :, skipped:]
        return None if at + n < self._columns else F.pad(self._queries, (0, 0, self._unseen, 0))

    def add_votes(self, votes: Tensor) -> None:
        """Add the votes [B, H, at + n] that a chunk's queries give to all columns so far."""
        if self.votes is None:
            self.votes = votes.new_zeros(*votes.shape[:2], self._columns)
        self.votes[..., : votes.shape[2]] += votes
