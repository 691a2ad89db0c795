"""Attention summed over the prompt's queries: the score that h2o and pyramidinfer share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scope import kernels
from scope.kernels.votes import votes
from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Scored
from scope.util.errors import check_choice, check_count


@dataclass(frozen=True)
class HeavyHitters(Scored):
    """Score each slot by the attention that it gets from all queries of the prompt.

    votes: `sum` adds over all causal queries. More queries see the early slots, so these get more.
    `mean` divides the sum by the number of queries that can see the slot.
    `released` does what the authors' code does: the causal mask covers only the last `window` queries, so earlier
    queries also vote for later keys.
    block: queries scored at a time; None chooses a fast number. It changes the memory, not the result.
    Raises SettingError or CombinationError for invalid settings.
    """

    votes: str = "sum"
    block: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "votes", ("sum", "mean", "released"))
        if self.block is not None:
            check_count(self, "block", low=1)

    @property
    def votes_only(self) -> bool:
        return self.votes != "released"  # there, a query votes for keys that come after it, in chunks to come

    def score(self, attention: Attention) -> Tensor:
        if self.votes == "released":
            return scores.votes(attention, block=self.block, causal_within=self.window)
        total = self._sum(attention)
        if self.votes == "mean":
            last = attention.query_positions[:, -1, None, None]
            return total / attention.rule.sight.queries(attention.positions, last)
        return total

    def _sum(self, attention: Attention) -> Tensor:
        queries, keys, rule = attention.queries, attention.keys, attention.rule
        known = attention.summed is None and rule.plain and not rule.sight.chunked  # to the kernels
        if known and kernels.runs_on(keys.device) and kernels.takes(queries, keys):
            begin = (attention.query_positions < 0).sum(-1, dtype=torch.int32)
            return votes(queries, keys, rule.scaling, begin=begin, sliding_window=rule.sight.window)
        return scores.votes(attention, block=self.block)
