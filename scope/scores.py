"""Scores that say which slots to keep: attention votes, pooling, age, noise. Pure tensors; higher is kept.

Shapes: B batch, Hq query heads, H key/value heads, G = Hq / H that share one, Q queries, S slots, D head dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Attention:
    """What a score may look at: one layer's attention, over the whole prompt or in one decode step.

    A decode step has one query, Q = 1, or the last Q of them, in no order, for a strategy that asks for more.
    """

    queries: Tensor  # [B, Hq, Q, D], rotated
    keys: Tensor  # [B, H, S, D], rotated
    values: Tensor  # [B, H, S, D]
    positions: Tensor  # [B, H, S] int: the slot's token, -1 = empty or padding
    query_positions: Tensor  # [B, Q] int, -1 = padding or none yet
    scaling: float
    layer: int
    sliding_window: int | None = None  # where the model itself looks back only so far
    probabilities: Tensor | None = None  # [B, H, G, S], or [B, H, 1, S] of a group's mean: a decode step's own
    channels: Mapping[str, Tensor] = field(default_factory=dict)  # [B, H, S] float32: what the strategy noted of a slot

    @property
    def decoding(self) -> bool:
        """Whether this is a decode step, whose slots lie in any order, and not a prompt, with a query for each slot."""
        return self.probabilities is not None or self.queries.shape[2] != self.keys.shape[2]


def received(attention: Attention) -> Tensor:
    """-> [B, H, S]: what each slot gets of this step's one query, averaged over the query heads that share it."""
    if attention.probabilities is None:
        return votes(attention)
    return attention.probabilities.mean(2)


def votes(attention: Attention, last: int | None = None, block: int = 256, causal_within: int | None = None) -> Tensor:
    """-> [B, H, S]: attention probability summed over the `last` queries (None = all), mean over each group's heads.

    Queries are taken `block` at a time, so that the L x L matrix never exists. Softmax is in float32.
    `causal_within=w` is the released code's mask: only the last w queries are kept from looking ahead.
    """
    batch, query_heads, queries, dim = attention.queries.shape
    heads, slots = attention.keys.shape[1:3]
    group = query_heads // heads
    grouped = attention.queries.reshape(batch, heads, group, queries, dim)
    total = attention.keys.new_zeros(batch, heads, slots, dtype=torch.float32)
    first = 0 if last is None else max(0, queries - last)
    ahead = attention.decoding or causal_within is not None  # otherwise slots lie in the order of the queries
    for start in range(first, queries, block):
        stop = min(start + block, queries)
        count, looked_at = stop - start, slots if ahead else stop
        some = grouped[:, :, :, start:stop].reshape(batch, heads, group * count, dim)
        logits = (some @ attention.keys[:, :, :looked_at].transpose(-1, -2)).float()
        hidden = ~_visible(attention, start, stop, causal_within, looked_at)[:, :, None]
        weights = logits.view(batch, heads, group, count, looked_at).mul_(attention.scaling)
        weights = weights.masked_fill_(hidden, -torch.inf).softmax(-1)
        asks = (attention.query_positions[:, start:stop] >= 0)[:, None, None, :, None]
        weights.masked_fill_(~asks, 0.0)  # a padding query sees nothing: its row is not a number
        total[..., :looked_at] += weights.sum((2, 3))
    return total / group


def _visible(
    attention: Attention, start: int, stop: int, causal_within: int | None, slots: int | None = None
) -> Tensor:
    """-> [B, H or 1, Q, S] bool: what the queries start..stop may look at, of the first `slots` (None: all)."""
    asking = attention.query_positions[:, None, start:stop, None]
    heads = None if attention.decoding else 1  # a prompt lies alike in all heads
    looked_at = attention.positions[:, :heads, None, :slots]
    seen = looked_at <= asking
    if causal_within is not None:
        last = attention.query_positions[:, -1, None, None, None]
        seen = seen | (asking <= last - causal_within)
    if attention.sliding_window is not None:
        seen = seen & (looked_at > asking - attention.sliding_window)
    return seen & (looked_at >= 0)


def probabilities(attention: Attention, first: int, last: int) -> Tensor:
    """-> [B, Hq, last - first, S] float32: what the prompt's queries first..last look at; a padding query: NaN."""
    group = attention.queries.shape[1] // attention.keys.shape[1]
    logits = attention.queries[:, :, first:last] @ attention.keys.repeat_interleave(group, 1).transpose(-1, -2)
    seen = _visible(attention, first, last, None)
    seen = seen if seen.shape[1] == 1 else seen.repeat_interleave(group, 1)
    return (logits.float() * attention.scaling).masked_fill(~seen, -torch.inf).softmax(-1)


def pooled(scores: Tensor, kernel: int, tail: int) -> Tensor:
    """Max-pool [B, H, S] along the slots before the last `tail` (same length); the tail itself gets 0."""
    middle = scores[..., : scores.shape[-1] - tail]
    return F.pad(F.max_pool1d(middle, kernel, stride=1, padding=kernel // 2), (0, tail))


def age(attention: Attention) -> Tensor:
    """-> [B, H, S]: newer is better."""
    return attention.positions.float()


def noise(attention: Attention, seed: int) -> Tensor:
    """-> [B, H, S] in [0, 1): a hash of seed, layer, head, slot's token and time, so the same whatever the batch."""
    heads = torch.arange(attention.positions.shape[1], device=attention.positions.device)[None, :, None]
    now = attention.query_positions[:, -1, None, None]
    mixed = torch.zeros_like(attention.positions, dtype=torch.int64)
    for part in (seed, attention.layer, heads, attention.positions, now):
        mixed = (mixed + part + 1) * 0x2545F491 & 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 15) * 0x2C1B3C6D & 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 12) * 0x297A2D39 & 0xFFFFFFFF
        mixed = mixed ^ mixed >> 15
    return (mixed >> 8).float() / 2**24
