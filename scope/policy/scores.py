"""Scores that say which slots to keep: attention votes, pooling, age, noise. Pure tensors; higher is kept.

Shapes: B batch, Hq query heads, H key/value heads, G = Hq / H that share one, Q queries, S slots, D head dim.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# How much attention is looked at together: bytes for each core or GPU, rows, and columns. On a CPU or a GPU:
TILE_BYTES = {False: 2**26, True: 2**28}
TILE_ROWS = 512
TILE_COLUMNS = {False: 1024, True: 2**16}
ROWS_BYTES = 2**21  # of logits in a decode step, on a CPU
LEAST = torch.finfo(torch.float32).min  # a logit that is looked at by nobody; unlike -inf, it has a softmax


@dataclass(frozen=True)
class LayerInputs:
    """What a layer's attention was given: only for a prefill method that declares the need (`layer_inputs`)."""

    module: nn.Module  # the layer's attention
    hidden_states: Tensor  # [B, P, E]
    position_embeddings: tuple[Tensor, Tensor]  # cosine and sine, [B or 1, P, D]


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
    prompt: Tensor | None = None  # [B] int, in a decode step: tokens of the row's prompt; what was decoded comes after
    head: int = 0  # in a decode step: the first so many slots hold, in every row, what is protected
    alike: bool = False  # all heads hold the same tokens, in the same slots
    inputs: LayerInputs | None = None

    @property
    def now(self) -> Tensor:
        """[B, 1, 1]: the position of the newest query."""
        return self.query_positions.amax(-1)[:, None, None]

    @property
    def decoding(self) -> bool:
        """Whether this is a decode step, whose slots lie in any order, and not a prompt, with a query for each slot."""
        return self.prompt is not None

    def of_rows(self, rows: slice) -> "Attention":
        """A decode step's, of these rows alone."""
        assert self.prompt is not None
        return replace(
            self,
            queries=self.queries[rows],
            keys=self.keys[rows],
            values=self.values[rows],
            positions=self.positions[rows],
            query_positions=self.query_positions[rows],
            probabilities=None if self.probabilities is None else self.probabilities[rows],
            channels={name: marks[rows] for name, marks in self.channels.items()},
            prompt=self.prompt[rows],
        )


def by_rows(score: Callable[[Attention], Tensor], attention: Attention) -> Tensor:
    """-> score(attention) [B, H, S] of a decode step, so many rows at a time as fit into the processor's cache.

    It is for many queries, whose logits for all rows would go through memory at each operation, and be fresh memory.
    """
    batch, heads, queries, _ = attention.queries.shape
    together = max(1, ROWS_BYTES // (4 * heads * queries * attention.keys.shape[2]))
    if together >= batch or attention.keys.is_cuda or torch.compiler.is_compiling():
        return score(attention)
    return torch.cat([score(attention.of_rows(slice(row, row + together))) for row in range(0, batch, together)])


def scaled_products(queries: Tensor, keys: Tensor, scaling: float, out: Tensor | None = None) -> Tensor:
    """queries [..., Q, D] and keys [..., S, D] -> logits [..., Q, S], float32 or wider; `out`: room for the products.

    The scaling goes onto the queries; of narrower ones only its power of two, which rounds nothing: float16 holds no
    product above 65504.
    """
    if queries.dtype in (torch.float32, torch.float64):
        return torch.matmul(queries * scaling, keys.transpose(-1, -2), out=out)
    rest, power = math.frexp(scaling)
    return torch.matmul(queries * 2.0**power, keys.transpose(-1, -2), out=out).float().mul_(rest)


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

    Of a prompt, queries are taken `block` at a time (None: as many as are quick), so that the L x L matrix never
    exists. Softmax is in float32. `causal_within=w` is the released code's mask: only the last w queries are kept from
    looking ahead.
    """
    if attention.decoding:
        return _decoded_votes(attention if last is None else latest(attention, last))
    batch, heads, slots, _ = attention.keys.shape
    group = attention.queries.shape[1] // heads
    together = heads if attention.keys.is_cuda else min(heads, torch.get_num_threads())  # a head for each core
    fitting = TILE_BYTES[attention.keys.is_cuda] // (4 * group * slots * (together if attention.keys.is_cuda else 1))
    block = min(block or max(1, min(fitting, TILE_ROWS // group)), slots if last is None else last)
    tiles = _Tiles(attention.keys, together * group * min(block, slots))
    total = attention.keys.new_zeros(batch, heads, slots, dtype=torch.float32)
    for row, padding in enumerate((attention.query_positions < 0).sum(-1).tolist()):
        of_row = _only(attention, row, padding)
        queries = slots - padding
        for head in range(0, heads, together):
            some = slice(head, head + together)
            for start in range(0 if last is None else max(0, queries - last), queries, block):
                asking = slice(start, min(start + block, queries))
                tiles.add_votes(total[row, some, padding:], of_row, some, asking, causal_within)
    return total / group


def _decoded_votes(attention: Attention) -> Tensor:
    """The same in a decode step, of all its queries at once."""
    batch, heads, slots, dim = attention.keys.shape
    queries = attention.queries.shape[2]
    asked = attention.queries.reshape(batch, heads, -1, dim)
    logits = scaled_products(asked, attention.keys, attention.scaling).float()
    seen = _visible(attention, slice(None))
    hidden = seen.logical_not().float().mul_(LEAST)[:, :, None]
    logits.view(batch, heads, -1, queries, slots).add_(hidden)  # to fill where they are would take longer
    shares = torch.softmax(logits, -1, out=None if logits.is_cuda else logits)
    group = shares.shape[2] // queries
    looking = seen.any(-1).float().repeat(1, 1, group)[:, :, None] / group  # not one that sees nothing
    return (looking @ shares)[:, :, 0]


def _only(attention: Attention, row: int, padding: int) -> Attention:
    """One prompt of the batch, without what it was padded with on its left."""
    return replace(
        attention,
        queries=attention.queries[row : row + 1, :, padding:],
        keys=attention.keys[row : row + 1, :, padding:],
        values=attention.values[row : row + 1, :, padding:],
        positions=attention.positions[row : row + 1, :, padding:],
        query_positions=attention.query_positions[row : row + 1, padding:],
    )


class _Tiles:
    """Room for the attention of some of a prompt's queries, a part of the slots at a time: what is looked at again soon
    is then still in the processor's cache. It is made once, since memory fresh from the system is slow."""

    def __init__(self, keys: Tensor, rows: int) -> None:
        """keys [B, H, S, D]; rows: heads x queries that are looked at together, at the most."""
        self.width = min(keys.shape[2], TILE_COLUMNS[keys.is_cuda])
        self._product = keys.new_empty(rows * self.width)
        self._shares = keys.new_empty(rows * keys.shape[2], dtype=torch.float32)

    def add_votes(
        self, total: Tensor, attention: Attention, heads: slice, asking: slice, causal_within: int | None
    ) -> None:
        """Adds to total [N, S] what these queries look at, in one row and N of its key/value heads.

        The softmax over all slots is the softmax over a part of them, times the part's share of all: the softmax of the
        parts' log-sum-exps.
        """
        keys = attention.keys[0, heads]
        group = attention.queries.shape[1] // attention.keys.shape[1]
        queries = attention.queries[0, :, asking].view(-1, group, asking.stop - asking.start, keys.shape[-1])
        queries = queries[heads].flatten(1, 2)
        in_order = causal_within is None  # no query sees the slots behind its own
        end = asking.stop if in_order else keys.shape[1]
        parts = [slice(low, min(low + self.width, end)) for low in range(0, end, self.width)]
        shares, sums, used = [], [], 0
        for part in parts:
            shape = (*queries.shape[:2], part.stop - part.start)
            size = math.prod(shape)
            room = self._product[:size].view(shape)
            logits = scaled_products(queries, keys[:, part], attention.scaling, room).float()
            if not in_order or attention.sliding_window is not None or part.stop > asking.start:
                hidden = ~_visible(attention, asking, causal_within, part)[0]
                logits.view(shape[0], group, -1, shape[2]).masked_fill_(hidden, LEAST)
            share = torch.softmax(logits, -1, out=self._shares[used : used + size].view(shape))
            sums.append(logits.amax(-1) - share.amax(-1).log())
            shares.append(share)
            used += size
        for part, share, weight in zip(parts, shares, torch.stack(sums).softmax(0), strict=True):
            total[:, part] += (weight[:, None] @ share)[:, 0]


def _visible(
    attention: Attention, asking: slice, causal_within: int | None = None, looked_at: slice = slice(None)
) -> Tensor:
    """-> [B, H or 1, Q, S] bool: which of these slots these queries may look at."""
    queries = attention.query_positions[:, None, asking, None]
    heads = None if attention.decoding else 1  # a prompt lies alike in all heads
    slots = attention.positions[:, :heads, None, looked_at]
    seen = slots <= queries
    if causal_within is not None:
        last = attention.query_positions[:, -1, None, None, None]
        seen = seen | (queries <= last - causal_within)
    if attention.sliding_window is not None:
        seen = seen & (slots > queries - attention.sliding_window)
    return seen & (slots >= 0)


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
    seen = _visible(attention, asking)[:, :, None]
    logits = logits.view(batch, heads, -1, queries, slots).masked_fill_(~seen, LEAST)
    return logits.softmax(-1) * seen.any(-1, keepdim=True)


def latest(attention: Attention, count: int) -> Attention:
    """The same with its last `count` queries only."""
    return replace(
        attention,
        queries=attention.queries[:, :, -count:],
        query_positions=attention.query_positions[:, -count:],
        probabilities=None,
    )


def pooled(scores: Tensor, kernel: int, tail: int) -> Tensor:
    """Max-pool [B, H, S] along the slots before the last `tail` (same length); the tail itself gets 0."""
    middle = scores[..., : scores.shape[-1] - tail]
    return F.pad(F.max_pool1d(middle, kernel, stride=1, padding=kernel // 2), (0, tail))


def age(attention: Attention) -> Tensor:
    """-> [B, H, S]: newer is better."""
    return attention.positions.float()


def beyond(attention: Attention) -> Attention:
    """The same keys, values and positions without the `head` slots at the front that are protected in every row."""
    head = attention.head
    return replace(
        attention,
        keys=attention.keys[:, :, head:],
        values=attention.values[:, :, head:],
        positions=attention.positions[..., head:],
    )


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
