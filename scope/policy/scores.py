"""Parts from which policies build their scores: votes, pooling, age, noise and others. A higher score is kept.

Shapes are those of `scope.policy.attention`.
"""

from dataclasses import replace
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from scope.policy.attention import LEAST, Attention, latest, scaled_products, visible
from scope.policy.prompt_votes import prompt_votes

TOGETHER = 128  # queries of a later turn whose votes are computed at a time


def received(attention: Attention) -> Tensor:
    """-> [B, H, S]: the probability that a slot gets from the query of this step, averaged over a head's group."""
    if attention.probabilities is None:
        return votes(attention)
    return attention.probabilities.mean(2)


@torch.no_grad()
def votes(
    attention: Attention, last: int | None = None, block: int | None = None, causal_within: int | None = None
) -> Tensor:
    """-> [B, H, S]: the probabilities that a slot gets from queries, summed, and averaged over a head's group.

    last: how many of the last queries vote; None: all. block, causal_within: as in `prompt_votes`, for prompts only.
    The votes of all queries of a prompt that came in chunks may be there already.
    """
    if attention.summed is not None and last is None and causal_within is None:
        return attention.summed
    if attention.decoding:
        return _decoded_votes(attention if last is None else latest(attention, last))
    if attention.stored:
        return _turn_votes(attention if last is None else latest(attention, last))
    return prompt_votes(attention, last, block, causal_within)


def _turn_votes(attention: Attention) -> Tensor:
    """The votes of a later turn's queries, of TOGETHER at a time."""
    queries, positions = attention.queries, attention.query_positions
    asked = zip(torch.split(queries, TOGETHER, 2), torch.split(positions, TOGETHER, 1), strict=True)
    parts = (replace(attention, queries=queries, query_positions=positions) for queries, positions in asked)
    return reduce(Tensor.add_, map(_decoded_votes, parts))


def _decoded_votes(attention: Attention) -> Tensor:
    """The votes of all queries of a decode step."""
    batch, heads, slots, dim = attention.keys.shape
    queries = attention.queries.shape[2]
    by_head = attention.queries.reshape(batch, heads, -1, dim)
    rule = attention.rule
    logits = rule.capped(scaled_products(by_head, attention.keys, rule.scaling).float())
    seen = visible(attention, slice(None))
    hidden = seen.logical_not().float().mul_(LEAST)[:, :, None]
    logits.view(batch, heads, -1, queries, slots).add_(hidden)  # faster than masked_fill
    shares = rule.softmax(logits, out=None if logits.is_cuda else logits)
    group = shares.shape[2] // queries
    looking = seen.any(-1).float().repeat(1, 1, group)[:, :, None] / group  # 0 for a query that sees nothing
    return (looking @ shares)[:, :, 0]


def probabilities(attention: Attention, first: int, last: int) -> Tensor:
    """-> [B, Hq, last - first, S] float32: the probabilities of queries first to last - 1; NaN for padding."""
    asking = slice(first, last)
    absent = (attention.query_positions[:, asking] < 0)[:, None, :, None]
    return _weights(attention, asking).flatten(1, 2).masked_fill(absent, torch.nan)


def looks(attention: Attention) -> Tensor:
    """-> [B, H, G, Q, S] float32: the probabilities of all queries over the slots; 0 for a query that is not there."""
    return _weights(attention, slice(None))


def _weights(attention: Attention, asking: slice) -> Tensor:
    """-> [B, H, G, Q, S] float32: the probabilities of these queries; 0 for a query that sees nothing."""
    batch, heads, slots, dim = attention.keys.shape
    some = attention.queries[:, :, asking]
    queries = some.shape[2]
    rule = attention.rule
    logits = rule.capped(scaled_products(some.reshape(batch, heads, -1, dim), attention.keys, rule.scaling).float())
    seen = visible(attention, asking)[:, :, None]
    by_query = (batch, heads, -1, queries, slots)
    logits.view(by_query).masked_fill_(~seen, LEAST)
    return rule.softmax(logits).reshape(by_query) * seen.any(-1, keepdim=True)


def pooled(scores: Tensor, kernel: int, tail: int) -> Tensor:
    """Max-pool scores [B, H, S] along the slots, over `kernel` slots. The last `tail` take no part and get 0."""
    middle = scores[..., : scores.shape[-1] - tail]
    return F.pad(F.max_pool1d(middle, kernel, stride=1, padding=kernel // 2), (0, tail))


def age(attention: Attention) -> Tensor:
    """-> [B, H, S]: the position, so that newer slots are kept."""
    return attention.positions.float()


def noise(attention: Attention, seed: int) -> Tensor:
    """-> [B, H, S] in [0, 1): a hash of seed, layer, head, time and position. It does not depend on the batch."""
    heads = torch.arange(attention.positions.shape[1], device=attention.positions.device)[None, :, None]
    mixed: int | Tensor = 0
    for part in (
        seed,
        attention.layer,
        heads,
        attention.now,
        attention.positions,
    ):  # the largest last
        mixed = (mixed + part + 1) * 0x2545F491 & 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 15) * 0x2C1B3C6D & 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 12) * 0x297A2D39 & 0xFFFFFFFF
        mixed = mixed ^ mixed >> 15
    assert isinstance(mixed, Tensor)
    return (mixed >> 8).float() / 2**24


def neighbourhood(weights: Tensor, positions: Tensor, kernel: int, average: bool = False) -> Tensor:
    """Pool weights [B, H, ..., S] over the `kernel` slots around each slot, in the order of positions [B, H, S].

    The pool is the maximum, or with `average` the mean, where places past either end count as 0. The weight of an empty
    slot has to be 0.
    """
    order = positions.argsort(-1)
    order = order.view(*order.shape[:2], *[1] * (weights.ndim - 3), order.shape[-1]).expand_as(weights)
    pool = F.avg_pool1d if average else F.max_pool1d
    row = weights.gather(-1, order).flatten(0, -2)[:, None]
    found: Tensor = pool(row, kernel, stride=1, padding=kernel // 2)
    return torch.empty_like(weights).scatter(-1, order, found.view_as(weights))


def ranks(worth: Tensor, positions: Tensor) -> Tensor:
    """-> [B, H, S] int: the rank of each slot by its worth, 0 = the least; of equal worth the older ranks lower.

    worth, positions [B, H, S].
    """
    by_age = positions.argsort(-1)
    order = by_age.gather(-1, worth.gather(-1, by_age).argsort(dim=-1, stable=True))
    place = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(-1, order, place)


def across_heads(weights: Tensor, attention: Attention) -> Tensor:
    """-> [B, H, S]: the weight of a slot's token, averaged over all heads. A head without the token counts as 0.

    weights [B, H, S]. Heads may hold different tokens, and in different slots.
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
    """-> [B, H, S]: minus the norm of the key."""
    norm: Tensor = torch.linalg.vector_norm(attention.keys.float(), dim=-1)
    return -norm


def key_difference(attention: Attention) -> Tensor:
    """-> [B, H, S]: minus the cosine similarity of the key to the mean direction of all stored keys."""
    return difference(attention.keys, attention.positions >= 0)


def difference(states: Tensor, among: Tensor) -> Tensor:
    """-> [B, H, S]: minus the cosine similarity of each vector to the mean direction of some of them.

    states [B, H, S, D]. among [B, H, S] bool: the vectors that the mean is of.
    """
    states = states.float()
    length: Tensor = torch.linalg.vector_norm(states, dim=-1, keepdim=True).clamp_min_(1e-12)
    length = length.transpose(-1, -2)
    mean: Tensor = (among[:, :, None] / length) @ states  # a sum is enough: only its direction counts
    mean /= torch.linalg.vector_norm(mean, dim=-1, keepdim=True).clamp_min_(1e-12).neg_()
    along: Tensor = mean @ states.transpose(-1, -2)
    return along.div_(length)[..., 0, :]


def distinctness(attention: Attention, among: Tensor, keys: float, values: float) -> Tensor:
    """-> [B, H, S]: `keys` times the `difference` of the keys, plus `values` times that of the values.

    among [B, H, S] bool: the slots that the mean directions are of. One of the two weights has to be above 0.
    """
    parts = ((keys, attention.keys), (values, attention.values))
    found = [weight * difference(states, among) for weight, states in parts if weight]
    return found[0] if len(found) == 1 else found[0] + found[1]


def standardised(weights: Tensor, among: Tensor) -> Tensor:
    """Weights [B, H, G, S] less their mean, over their standard deviation; both are over some of the slots.

    among: [B, H, 1, S] bool, those slots. A deviation below 1e-6 counts as 1e-6.
    """
    count = among.sum(-1, keepdim=True).clamp_min(1)
    weights = weights.masked_fill(~among, 0.0)
    apart = weights - weights.sum(-1, keepdim=True) / count
    deviation = ((apart * among).square().sum(-1, keepdim=True) / count).sqrt()
    return apart / deviation.clamp_min(1e-6)
