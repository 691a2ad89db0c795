"""Scores that say which slots to keep: attention votes, pooling, age, noise. Pure tensors; higher is kept.

Shapes as in `scope.policy.attention`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from scope.policy.attention import LEAST, Attention, latest, scaled_products, visible
from scope.policy.prompt_votes import prompt_votes


def received(attention: Attention) -> Tensor:
    """-> [B, H, S]: what each slot gets of this step's one query, averaged over the query heads that share it."""
    if attention.probabilities is None:
        return votes(attention)
    return attention.probabilities.mean(2)


@torch.no_grad()
def votes(
    attention: Attention, last: int | None = None, block: int | None = None, causal_within: int | None = None
) -> Tensor:
    """-> [B, H, S]: attention probability summed over the `last` queries (None = all), mean over each group's heads.

    `block` and `causal_within` are for prompts: see `prompt_votes`.
    """
    if attention.decoding:
        return _decoded_votes(attention if last is None else latest(attention, last))
    return prompt_votes(attention, last, block, causal_within)


def _decoded_votes(attention: Attention) -> Tensor:
    """The same in a decode step, of all its queries at once."""
    batch, heads, slots, dim = attention.keys.shape
    queries = attention.queries.shape[2]
    asked = attention.queries.reshape(batch, heads, -1, dim)
    logits = scaled_products(asked, attention.keys, attention.scaling).float()
    seen = visible(attention, slice(None))
    hidden = seen.logical_not().float().mul_(LEAST)[:, :, None]
    logits.view(batch, heads, -1, queries, slots).add_(hidden)  # to fill where they are would take longer
    shares = torch.softmax(logits, -1, out=None if logits.is_cuda else logits)
    group = shares.shape[2] // queries
    looking = seen.any(-1).float().repeat(1, 1, group)[:, :, None] / group  # not one that sees nothing
    return (looking @ shares)[:, :, 0]


def probabilities(attention: Attention, first: int, last: int) -> Tensor:
    """-> [B, Hq, last - first, S] float32: what the queries first..last look at; one that is not there: NaN."""
    asking = slice(first, last)
    absent = (attention.query_positions[:, asking] < 0)[:, None, :, None]
    return _weights(attention, asking).flatten(1, 2).masked_fill(absent, torch.nan)


def looks(attention: Attention) -> Tensor:
    """-> [B, H, G, Q, S] float32: what each of the queries looks at, over what is stored now; 0 for one not there."""
    return _weights(attention, slice(None))


def _weights(attention: Attention, asking: slice) -> Tensor:
    """-> [B, H, G, Q, S] float32: what these queries look at; 0 for one that sees nothing."""
    batch, heads, slots, dim = attention.keys.shape
    some = attention.queries[:, :, asking]
    queries = some.shape[2]
    logits = scaled_products(some.reshape(batch, heads, -1, dim), attention.keys, attention.scaling).float()
    seen = visible(attention, asking)[:, :, None]
    logits = logits.view(batch, heads, -1, queries, slots).masked_fill_(~seen, LEAST)
    return logits.softmax(-1) * seen.any(-1, keepdim=True)


def pooled(scores: Tensor, kernel: int, tail: int) -> Tensor:
    """Max-pool [B, H, S] along the slots before the last `tail` (same length); the tail itself gets 0."""
    middle = scores[..., : scores.shape[-1] - tail]
    return F.pad(F.max_pool1d(middle, kernel, stride=1, padding=kernel // 2), (0, tail))


def age(attention: Attention) -> Tensor:
    """-> [B, H, S]: newer is better."""
    return attention.positions.float()


def noise(attention: Attention, seed: int) -> Tensor:
    """-> [B, H, S] in [0, 1): a hash of seed, layer, head, time and slot's token, so the same whatever the batch."""
    heads = torch.arange(attention.positions.shape[1], device=attention.positions.device)[None, :, None]
    mixed: int | Tensor = 0
    for part in (seed, attention.layer, heads, attention.now, attention.positions):  # the widest last
        mixed = (mixed + part + 1) * 0x2545F491 & 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 15) * 0x2C1B3C6D & 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 12) * 0x297A2D39 & 0xFFFFFFFF
        mixed = mixed ^ mixed >> 15
    assert isinstance(mixed, Tensor)
    return (mixed >> 8).float() / 2**24


def neighbourhood(weights: Tensor, positions: Tensor, kernel: int, average: bool = False) -> Tensor:
    """Weights [B, H, ..., S], pooled over the `kernel` slots around each in order of position [B, H, S].

    The maximum, or with `average` the mean, which counts what is past either end as 0; an empty slot's weight is 0.
    """
    order = positions.argsort(-1)
    order = order.view(*order.shape[:2], *[1] * (weights.ndim - 3), order.shape[-1]).expand_as(weights)
    pool = F.avg_pool1d if average else F.max_pool1d
    row = weights.gather(-1, order).flatten(0, -2)[:, None]
    found: Tensor = pool(row, kernel, stride=1, padding=kernel // 2)
    return torch.empty_like(weights).scatter(-1, order, found.view_as(weights))


def across_heads(weights: Tensor, attention: Attention) -> Tensor:
    """-> [B, H, S]: the mean over all heads of what a slot's token gets in each; 0 where a head does not hold it.

    weights [B, H, S]. Heads may hold other tokens, and in other slots.
    """
    if attention.alike:
        return weights.mean(1, keepdim=True).expand_as(weights)
    heads = weights.shape[1]
    token = attention.positions.flatten(1).contiguous()
    tokens, order = token.sort(-1)
    sums: Tensor = F.pad(weights.flatten(1).gather(-1, order).double().cumsum(-1), (1, 0))
    above, below = torch.searchsorted(tokens, token, right=True), torch.searchsorted(tokens, token)
    return ((sums.gather(-1, above) - sums.gather(-1, below)) / heads).float().view_as(weights)


def key_norm(attention: Attention) -> Tensor:
    """-> [B, H, S]: the lower a key's norm, the better."""
    norm: Tensor = torch.linalg.vector_norm(attention.keys.float(), dim=-1)
    return -norm


def key_difference(attention: Attention) -> Tensor:
    """-> [B, H, S]: minus a key's cosine similarity to the mean direction of all that are stored."""
    return difference(attention.keys, attention.positions >= 0)


def difference(states: Tensor, among: Tensor) -> Tensor:
    """-> [B, H, S]: minus the cosine similarity of each vector [B, H, S, D] to the mean direction of those `among`."""
    states = states.float()
    length: Tensor = torch.linalg.vector_norm(states, dim=-1).clamp_min(1e-12)
    mean = (among / length)[..., None, :] @ states  # not divided by their number: only its direction counts
    along = F.normalize(mean, dim=-1) @ states.transpose(-1, -2)
    return -along[..., 0, :] / length


def distinctness(attention: Attention, among: Tensor, values: float) -> Tensor:
    """-> [B, H, S]: how unlike the mean direction of those `among` a key is, and `values` times the same of a value."""
    found = difference(attention.keys, among)
    return found + values * difference(attention.values, among) if values else found
