"""The last queries of each row, for a decoding strategy that scores by more than the query of the step."""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor


class Ring:
    """The last W queries [B, Hq, W, D], in no order, and their positions [B, W], -1 = none yet."""

    def __init__(self, queries: Tensor, positions: Tensor, size: int) -> None:
        """Start with the last queries of a prompt: queries [B, Hq, P, D], positions [B, P], -1 = padding. size: W."""
        missing = max(0, size - queries.shape[2])
        self.queries = F.pad(queries[:, :, -size:], (0, 0, missing, 0)).clone()
        self.positions = F.pad(positions[:, -size:], (missing, 0), value=-1).clone()
        self._oldest = torch.zeros(1, dtype=torch.long, device=queries.device)

    def add(self, query: Tensor, position: Tensor) -> None:
        """Put a query [B, Hq, 1, D] at positions [B] in place of the oldest."""
        self.queries.index_copy_(2, self._oldest, query)
        self.positions.index_copy_(1, self._oldest, position[:, None].to(self.positions))
        self._oldest.add_(1).remainder_(self.positions.shape[1])

    def extend(self, queries: Tensor, positions: Tensor) -> None:
        """Add those of a later turn: queries [B, Hq, n, D], positions [B, n], -1 = padding."""
        queries = torch.cat([self.queries, queries], 2)
        positions = torch.cat([self.positions, positions.to(self.positions)], 1)
        newest = positions.topk(self.positions.shape[1], dim=-1).indices.flip(-1)  # the oldest of them first
        self.positions.copy_(positions.gather(-1, newest))
        at = newest[:, None, :, None].expand_as(self.queries)
        self.queries.copy_(queries.gather(2, at))
        self._oldest.zero_()

    def replace(self, rows: Sequence[int], other: Self) -> None:
        """Put the rows of `other` in place of these rows. The two rings may have their oldest query in other places."""
        size = self.positions.shape[1]
        age = torch.arange(size, device=self.positions.device)
        to, source = (self._oldest + age) % size, (other._oldest + age) % size
        at = torch.tensor(rows, device=self.positions.device)
        self.queries[at] = self.queries[at].index_copy(2, to, other.queries[:, :, source])
        self.positions[at] = self.positions[at].index_copy(1, to, other.positions[:, source])

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order. A row may come several times."""
        at = torch.tensor(rows, device=self.positions.device)
        self.queries, self.positions = self.queries[at], self.positions[at]
