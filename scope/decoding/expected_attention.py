"""expected_attention: keep what queries like the last ones will attend to (Devoto et al. 2025, arXiv 2510.00636)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scope.decoding.periodic import Periodic
from scope.policy.attention import Attention
from scope.util.errors import check_count, check_number


@dataclass(frozen=True)
class ExpectedAttention(Periodic):
    """Every `every` steps keep the `recent` last slots and the others of the most expected attention.

        score of slot j = (a_j + epsilon) * |v_j|
        a = mean over the group of softmax over j of (scaling * mu . k_j + scaling^2 / 2 * k_j . Sigma k_j)

    mu and Sigma are mean and covariance of the last `window` queries before their rotation, then turned to the next
    `future` positions, in the mean over these. They are those of a query to come, if queries are normally distributed,
    and exp(...) is then the mean of its exp(logit). The first `sinks` tokens stay, and take no part in the softmax. It
    is over all other stored slots, a protected prompt included.

    window, future: 1 or more. sinks: 0 or more. epsilon: 0 or more.
    The queries are held beside the slots. They do not count as bytes of the cache.
    Source: NVIDIA's kvpress, ExpectedAttentionPress within DecodingPress. Departures from it while decoding: it counts
    the future positions from the number of queries that it holds, here they follow the newest token; it leaves out the
    first 4 queries that it holds; and its defaults are every = 512, window = 256, with one pool for prompt and
    generation.
    Raises SettingError or CombinationError for invalid settings.
    """

    window: int = 128
    future: int = 512
    sinks: int = 4
    epsilon: float = 0.0

    rotary: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "window", low=1)
        check_count(self, "future", low=1)
        check_count(self, "sinks")
        check_number(self, "epsilon", low=0)

    @property
    def queries(self) -> int:
        return self.window

    def score(self, attention: Attention) -> Tensor:
        """The logarithm of the score: its order is the same, and no small attention becomes 0."""
        there, sink = attention.positions >= 0, attention.positions < self.sinks
        logits = self._logits(attention).masked_fill((sink | ~there)[:, :, None], -torch.inf)
        shares = logits.log_softmax(-1).logsumexp(2) - math.log(logits.shape[2])
        if self.epsilon:
            shares = shares.logaddexp(torch.full_like(shares, math.log(self.epsilon)))
        lengths: Tensor = torch.linalg.vector_norm(attention.values.float(), dim=-1)
        return torch.where(sink, torch.inf, shares + lengths.log())

    def _logits(self, attention: Attention) -> Tensor:
        """-> [B, H, G, S]: the logarithm of the expected exp(logit) of each slot, for each query head."""
        rotary, (batch, heads, _, dim) = attention.rotary, attention.keys.shape
        assert rotary is not None
        ahead = torch.arange(1, self.future + 1, device=attention.keys.device)
        steps = (attention.now[..., 0] - attention.query_positions)[:, None]
        there = (attention.query_positions >= 0)[:, None, :, None]
        count = there.sum(2, keepdim=True)
        coming = rotary.turned(attention.queries, steps, ahead) * there  # [B, Hq, Q, D]
        mean = coming.sum(2, keepdim=True) / count
        apart = (coming - mean) * there
        covariance = (apart.transpose(-1, -2) @ apart / count).view(batch, heads, -1, dim, dim)
        keys = attention.keys.float()[:, :, None]  # [B, H, 1, S, D]
        spread = ((keys @ covariance) * keys).sum(-1)
        along: Tensor = (mean.view(batch, heads, -1, 1, dim) @ keys.transpose(-1, -2))[..., 0, :]
        return attention.scaling * along + attention.scaling**2 / 2 * spread
