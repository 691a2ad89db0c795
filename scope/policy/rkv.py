"""The score of R-KV (Cai et al. 2025, arXiv 2505.24133): importance, less redundancy; and its two parts."""

import torch
import torch.nn.functional as F
from torch import Tensor

from scope.policy.attention import Attention
from scope.policy.scores import looks, neighbourhood


def redundancy(attention: Attention, threshold: float, block: int = 64) -> Tensor:
    """-> [B, H, S]: how similar the key of a slot is to the other keys, as a softmax over the slots.

    A slot's value is the mean over all slots of their cosine similarities to it. Similarities up to `threshold` count
    as 0. So does the similarity of each slot to the newest of the slots that are similar to it, which is so spared.
    block: slots that are compared with others at a time. Source: R-KV, arXiv 2505.24133.
    """
    there = attention.positions >= 0
    by_age = attention.positions.argsort(-1)
    directions = F.normalize(attention.keys.float(), dim=-1) * there[..., None]
    directions = directions.gather(2, by_age[..., None].expand_as(directions))
    together = len(directions) if directions.is_cuda else 1  # a row's similarities fit into the processor's cache
    total = torch.cat([_similarities(rows, threshold, block) for rows in torch.split(directions, together)])
    total = torch.empty_like(total).scatter_(-1, by_age, total)
    mean = total / there.sum(-1, keepdim=True)
    return mean.masked_fill(~there, -torch.inf).softmax(-1)


def _similarities(directions: Tensor, threshold: float, block: int) -> Tensor:
    """Directions [B, H, S, D] in order of age, the oldest first -> [B, H, S]: the similarities of all slots to each.

    Each pair is compared once, for both of its slots. The newest come first: so the newest of the slots that a slot
    resembles is known as soon as one is found.
    """
    total = directions.new_zeros(directions.shape[:-1])
    spares = torch.zeros_like(total, dtype=torch.bool)  # whether the newest that the slot resembles is found
    place = torch.arange(1.0, total.shape[-1] + 1, device=total.device)  # from 1; 0 means none
    for start in reversed(range(0, total.shape[-1], block)):
        end = start + block
        similar = directions[:, :, start:end] @ directions[:, :, :end].transpose(-1, -2)
        similar = F.threshold(similar, threshold, 0.0, inplace=True)
        similar.diagonal(start, -2, -1).zero_()
        total[..., :end] += _without_the_newest(similar, place[:end], spares[..., start:end])
        if start:
            older = similar[..., :start].transpose(-1, -2)
            total[..., start:end] += _without_the_newest(older, place[: older.shape[-1]], spares[..., :start])
    return total


def _without_the_newest(similar: Tensor, place: Tensor, spares: Tensor) -> Tensor:
    """Similarities [B, H, N, M] of N slots to M, the oldest of M first -> their sums over N, [B, H, M].

    place [M]: 1, 2, ..., M. spares [B, H, N]: slots that have spared one already. Each of the others spares the newest
    that it resembles, and is marked here.
    """
    newest = similar.sign().mul_(place).amax(-1)
    at = (newest.long() - 1).clamp_min_(0)[..., None]
    spared = similar.gather(-1, at)
    similar.scatter_(-1, at, torch.where(spares[..., None], spared, 0.0))
    sums = similar.sum(-2)
    similar.scatter_(-1, at, spared)
    spares |= newest > 0
    return sums


def of_the_queries(attention: Attention) -> Tensor:
    """-> [B, H, S] bool: the slots of the tokens whose queries are asked, and of any that come later."""
    return attention.positions >= attention.now - attention.queries.shape[2] + 1


def importance(attention: Attention, kernel: int = 1) -> Tensor:
    """-> [B, H, S]: how much the last queries look at a slot. Source: R-KV, arXiv 2505.24133.

    Their probabilities are max-pooled along the slots over `kernel` slots; then comes the maximum over the group, and
    the mean over the queries. The slots of these queries themselves have importance 0.
    """
    weights = looks(attention).masked_fill(of_the_queries(attention)[:, :, None, None], 0.0)
    if kernel > 1:
        weights = neighbourhood(weights, attention.positions, kernel)
    count = (attention.query_positions >= 0).sum(-1)[:, None, None]
    return weights.amax(2).sum(2) / count


def importance_without_redundancy(attention: Attention, balance: float, kernel: int, threshold: float) -> Tensor:
    """-> [B, H, S]: balance * importance - (1 - balance) * redundancy. Source: R-KV, arXiv 2505.24133."""
    return balance * importance(attention, kernel) - (1 - balance) * redundancy(attention, threshold)
