"""diverse: pick slots one by one, each unlike those picked before (after Sun et al. 2026, arXiv 2605.14292)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from scope.decoding.over import Over
from scope.policy.attention import Attention
from scope.util.errors import check_number


@dataclass(frozen=True)
class Diverse(Over):
    """Every `every` steps keep the `recent` last slots, and pick of the others one after the other.

        the next pick = the slot j with the largest z_j - penalty * max(0, the largest cos(v_j, v_i) of all picked i)

    z: the score of `base`, less its mean and divided by its standard deviation, of the slots of a head that may go.
    v: values. Of equal slots the newest is picked first.

    penalty: weight of the redundancy, 0 or more. 0 keeps what the base keeps.
    The paper (its method is called alpha) picks greedily over the score of TriAttention, with a penalty of 0.5 on
    redundancy between values. We know its abstract, not its formula. So these are our choice: the largest cosine, and
    that one below 0 counts as 0; that slots which always stay count as nothing in it; z; and the base. The picks take
    time: one pass over the slots for each slot, one after the other. engine=compile unrolls them.
    Raises SettingError or CombinationError for invalid settings.
    """

    penalty: float = 0.5

    skips_protected: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "penalty", low=0)

    def score(self, attention: Attention) -> Tensor:
        front = attention.front
        free = self.evictable(attention)[..., front:]
        worth = self.base_score(attention)[..., front:]
        count = free.sum(-1, keepdim=True).clamp_min(1)
        away = worth - (worth * free).sum(-1, keepdim=True) / count
        spread = ((away * away * free).sum(-1, keepdim=True) / count).sqrt().clamp_min(1e-12)
        newest_first = attention.positions[..., front:].argsort(-1, descending=True)
        z = torch.where(free, away / spread, -1e30).gather(-1, newest_first)
        values = F.normalize(attention.values[:, :, front:].float(), dim=-1)
        values = values.gather(2, newest_first[..., None].expand_as(values))
        found = torch.empty_like(z).scatter(-1, newest_first, -_turns(z, values, self.penalty))
        return F.pad(torch.where(worth.isnan(), worth, found), (front, 0))


def _turns(worth: Tensor, directions: Tensor, penalty: float) -> Tensor:
    """worth [B, H, S], directions [B, H, S, D] of length 1 -> [B, H, S]: when each slot is picked, 0 = first."""
    left, alike, turns = worth.clone(), torch.zeros_like(worth), torch.zeros_like(worth)
    for turn in range(worth.shape[-1]):
        at = (left - penalty * alike).argmax(-1, keepdim=True)
        left.scatter_(-1, at, -torch.inf)
        turns.scatter_(-1, at, turn)
        picked = directions.gather(2, at[..., None].expand(-1, -1, -1, directions.shape[-1]))
        alike = torch.maximum(alike, (directions @ picked.transpose(-1, -2))[..., 0])
    return turns
