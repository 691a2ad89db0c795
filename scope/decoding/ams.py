"""ams: a quota for each stretch of the text, over any score (Yang and Shen 2026, arXiv 2605.23200)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scope.decoding.over import Over
from scope.policy import scores
from scope.policy.attention import Attention, latest
from scope.policy.rkv import of_the_queries
from scope.policy.segments import quotas, segments
from scope.util.errors import SettingError, check_count, check_odd, check_part


@dataclass(frozen=True)
class AMS(Over):
    """Every `every` steps keep the `recent` last slots. Of the others keep, in this order:

    1. the first `sinks` tokens;
    2. in each segment of the region, as many as its quota says, those of the best score of `base`;
    3. others by the score of `base`.

        u = mean attention of the last `window` queries over the slots, averaged over the `kernel` slots around each
        c = decay * c at the last eviction + (1 - decay) * u        m = mix * u + (1 - mix) * c

    u and c are averaged over the query heads that share a key/value head, and add up to 1 before they are mixed. The
    slots of the window get the largest u of the row's layer. c is a channel, 0 at first. It changes only in steps that
    evict, and there only in the rows that evict.
    A new segment begins where the sum of m reaches a multiple of `share`. Segments of more than `longest` slots are
    split; then those of less than `shortest` are joined with the next. A quota is `least` slots and a part of the rest
    in proportion to the segment's m, at most the segment's length. Quotas count slots that always stay, too.

    share: of the sum of m, above 0, at most 1. mix, decay: in 0..1. The paper has recent = 32 and sinks = 4.
    The score that the cache sees is the rank by the base's score, from 0 up to 1, plus 1 within the quota, plus 2 for
    the first tokens.
    The formula is that of the authors' released code (EIT-NLP/AdaptiveMassSegment). Departures from it: there one
    segmentation serves all rows of a batch, and the largest u is that of the batch. The period is not the method's own;
    there it is 512.
    Raises SettingError or CombinationError for invalid settings.
    """

    window: int = 32
    kernel: int = 5
    share: float = 0.02
    shortest: int = 32
    longest: int = 1024
    least: int = 8
    mix: float = 0.7
    decay: float = 0.8
    sinks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("window", "shortest", "longest"):
            check_count(self, field, low=1)
        for field in ("least", "sinks"):
            check_count(self, field)
        check_odd(self, "kernel")
        for field in ("share", "mix", "decay"):
            check_part(self, field)
        if not self.share:
            raise SettingError(self, "share", self.share, "a number above 0, at most 1")

    @property
    def channels(self) -> tuple[str, ...]:
        return ("credit", *super().channels)

    @property
    def queries(self) -> int:
        return max(self.window, super().queries)

    def observe(self, attention: Attention) -> Mapping[str, Tensor]:
        noted = super().observe(attention)
        if attention.leaving is None:
            return noted
        old = attention.channels["credit"]
        new = self.decay * old + (1 - self.decay) * self._looked_at(attention)
        return {**noted, "credit": torch.where(attention.leaving[:, None, None] > 0, new, old)}

    def score(self, attention: Attention) -> Tensor:
        assert attention.leaving is not None
        region = self.region(attention)
        order = torch.where(region, attention.positions, torch.iinfo(torch.int32).max).argsort(-1)
        worth = self.base_score(attention)
        count = region.sum(-1, keepdim=True)
        outside = region.shape[-1] - count
        rank = scores.ranks(worth.masked_fill(~region, -torch.inf), attention.positions) - outside
        places = count - attention.leaving[:, None, None]
        chosen = self._chosen(rank.gather(-1, order), self._mass(attention, region).gather(-1, order), count, places)
        chosen = torch.empty_like(chosen).scatter(-1, order, chosen)
        found = rank / count + chosen + 2 * (attention.positions < self.sinks)
        return torch.where(worth.isnan(), worth, found)

    def _looked_at(self, attention: Attention) -> Tensor:
        """-> u [B, H, S]; 0 for slots outside the region."""
        asked = latest(attention, self.window)
        window = of_the_queries(asked)
        votes = scores.neighbourhood(
            scores.votes(asked).masked_fill(window, 0.0), asked.positions, self.kernel, average=True
        )
        region = self.region(attention)
        votes = votes.masked_fill(window | ~region, 0.0)
        return _shares(torch.where(window, votes.amax((1, 2), keepdim=True), votes), region)

    def _mass(self, attention: Attention, region: Tensor) -> Tensor:
        """-> m [B, H, S]."""
        credit = _shares(attention.channels["credit"], region)
        return _shares(self.mix * self._looked_at(attention) + (1 - self.mix) * credit, region)

    def _chosen(self, rank: Tensor, mass: Tensor, count: Tensor, places: Tensor) -> Tensor:
        """-> [B, H, S] bool: the places within their segment's quota. rank, mass: in order of position."""
        slots = rank.shape[-1]
        place = torch.arange(slots, device=rank.device)
        segment = segments(mass, count, self.share, self.shortest, self.longest)
        there = place < count
        none = torch.zeros(*rank.shape[:2], slots // self.shortest + 1, dtype=torch.long, device=rank.device)
        lengths = none.scatter_add(-1, segment, there.long())
        quota = quotas(lengths, none.double().scatter_add(-1, segment, (mass * there).double()), places, self.least)
        # by segment, and within each by rank: what is ahead of a place in its own segment?
        by_worth = torch.where(there, segment * slots - rank, slots * slots).argsort(-1)
        ahead = torch.empty_like(by_worth).scatter(-1, by_worth, place.expand_as(by_worth))
        ahead = ahead - F.pad(lengths.cumsum(-1), (1, 0)).gather(-1, segment)
        return there & (ahead < quota.gather(-1, segment))


def _shares(weights: Tensor, region: Tensor) -> Tensor:
    """Weights [B, H, S] of at least 0 -> the same, so that those of the region add up to 1; the others are 0."""
    weights = (weights + 1e-12) * region
    return weights / weights.sum(-1, keepdim=True).clamp_min(1e-30)
