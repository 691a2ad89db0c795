"""R-KV's score: what is attended to and not said already (Cai et al. 2025, arXiv 2505.24133)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from scope.policy.attention import Attention
from scope.policy.scores import looks, neighbourhood


def redundancy(attention: Attention, threshold: float, block: int = 32) -> Tensor:
    """-> [B, H, S], softmax over the slots: how alike a slot's key is to the others (R-KV, arXiv 2505.24133).

    The mean of the cosine similarities to it that are above `threshold`; each slot spares the newest of those it is
    alike to. `block` slots are compared with all at a time.
    """
    there = attention.positions >= 0
    by_age = attention.positions.argsort(-1)
    directions = F.normalize(attention.keys.float(), dim=-1) * there[..., None]
    directions = directions.gather(2, by_age[..., None].expand_as(directions))
    total = torch.zeros_like(there, dtype=torch.float32)
    place = torch.arange(1.0, there.shape[-1] + 1, device=there.device)  # in order of age; 0 for none
    for start in range(0, len(place), block):
        similar = directions[:, :, start : start + block] @ directions.transpose(-1, -2)
        similar = F.threshold(similar, threshold, 0.0, inplace=True)
        similar.diagonal(start, -2, -1).zero_()
        newest = similar.sign().mul_(place).amax(-1, keepdim=True).long() - 1
        total += similar.scatter_(-1, newest.clamp_min(0), 0.0).sum(-2)
    total = torch.empty_like(total).scatter_(-1, by_age, total)
    mean = total / there.sum(-1, keepdim=True)
    return mean.masked_fill(~there, -torch.inf).softmax(-1)


def importance_without_redundancy(attention: Attention, balance: float, kernel: int, threshold: float) -> Tensor:
    """-> [B, H, S]: R-KV's balance * I - (1 - balance) * R. I: what the queries look at, max-pooled along the slots,
    the maximum over the group, the mean over the queries; the queries' own slots take no part in it.
    """
    oldest = attention.now - attention.queries.shape[2] + 1
    weights = looks(attention).masked_fill((attention.positions >= oldest)[:, :, None, None], 0.0)
    asked = (attention.query_positions >= 0).sum(-1)[:, None, None]
    importance = neighbourhood(weights, attention.positions, kernel).amax(2).sum(2) / asked
    return balance * importance - (1 - balance) * redundancy(attention, threshold)
