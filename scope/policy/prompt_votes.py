"""The votes of a prompt's queries for its slots, computed in tiles: a matrix of all queries by all keys never exists.

Shapes are those of `scope.policy.attention`. N is a number of key/value heads, L the tokens of one prompt.
"""

import math

import torch
from torch import Tensor

from scope.policy.attention import LEAST, Attention, prompt_of, scaled_products, visible

# The size of a tile: bytes for each core or GPU, queries, and slots. False: on a CPU; True: on a GPU.
TILE_BYTES = {False: 2**26, True: 2**28}
TILE_ROWS = 512
TILE_COLUMNS = {False: 1024, True: 2**16}


def prompt_votes(attention: Attention, last: int | None, block: int | None, causal_within: int | None) -> Tensor:
    """-> [B, H, S] float32: the probabilities that a slot gets from queries, summed, and averaged over a head's group.

    attention: of a prompt, or of a chunk of one: its Q queries are those of the last Q slots.
    last: how many of these queries vote, from the end; None: all. block: queries that are computed together; None: a
    fast number. causal_within=w: only the last w queries are kept from looking ahead, as in the released code.
    Softmax is in float32.
    """
    batch, heads, slots, _ = attention.keys.shape
    group = attention.queries.shape[1] // heads
    together = heads if attention.keys.is_cuda else min(heads, torch.get_num_threads())  # a head for each core
    fitting = TILE_BYTES[attention.keys.is_cuda] // (4 * group * slots * (together if attention.keys.is_cuda else 1))
    block = min(block or max(1, min(fitting, TILE_ROWS // group)), slots if last is None else last)
    tiles = _Tiles(attention.keys, together * group * min(block, slots))
    total = attention.keys.new_zeros(batch, heads, slots, dtype=torch.float32)
    for row, padding in enumerate((attention.positions[:, 0] < 0).sum(-1).tolist()):
        of_row = prompt_of(attention, row, padding)
        queries = of_row.queries.shape[2]
        for head in range(0, heads, together):
            some = slice(head, head + together)
            for start in range(0 if last is None else max(0, queries - last), queries, block):
                asking = slice(start, min(start + block, queries))
                tiles.add_votes(total[row, some, padding:], of_row, some, asking, causal_within)
    return total / group


class _Tiles:
    """Computes votes in tiles of some queries by some slots, so small that they stay in the processor's cache.

    The memory of a tile is allocated once, since new memory is slow at first.
    """

    def __init__(self, keys: Tensor, rows: int) -> None:
        """keys [B, H, S, D]. rows: the most heads x queries that are computed together."""
        self.width = min(keys.shape[2], TILE_COLUMNS[keys.is_cuda])
        self._product = keys.new_empty(rows * self.width)
        self._shares = keys.new_empty(rows * keys.shape[2], dtype=torch.float32)

    def add_votes(
        self, total: Tensor, attention: Attention, heads: slice, asking: slice, causal_within: int | None
    ) -> None:
        """Add the votes of some queries to total [N, S], for one prompt and N of its key/value heads.

        The softmax over all slots is computed from parts: the softmax within a part, times the share of the part. The
        shares are the softmax of the parts' log-sum-exps.
        """
        keys, rule = attention.keys[0, heads], attention.rule
        group = attention.queries.shape[1] // attention.keys.shape[1]
        queries = attention.queries[0, :, asking].view(-1, group, asking.stop - asking.start, keys.shape[-1])
        queries = queries[heads].flatten(1, 2)
        in_order = causal_within is None  # no query looks ahead
        before = keys.shape[1] - attention.queries.shape[2]  # slots before that of the first query
        end = before + asking.stop if in_order else keys.shape[1]
        parts = [slice(low, min(low + self.width, end)) for low in range(0, end, self.width)]
        shares, sums, used = [], [], 0
        for part in parts:
            shape = (*queries.shape[:2], part.stop - part.start)
            size = math.prod(shape)
            out = self._product[:size].view(shape)
            logits = rule.capped(scaled_products(queries, keys[:, part], rule.scaling, out).float())
            if not in_order or attention.sliding_window is not None or part.stop > before + asking.start:
                hidden = ~visible(attention, asking, causal_within, part)[0]
                logits.view(shape[0], group, -1, shape[2]).masked_fill_(hidden, LEAST)
            share = torch.softmax(logits, -1, out=self._shares[used : used + size].view(shape))
            sums.append(logits.amax(-1) - share.amax(-1).log())
            shares.append(share)
            used += size
        sinks = rule.sinks_of(attention.keys.shape[1], queries.shape[1])
        if sinks is not None:
            sums.append(sinks[heads].to(sums[0]))  # as a part that gives its share to no slot
        for part, share, weight in zip(parts, shares, torch.stack(sums).softmax(0)[: len(parts)], strict=True):
            total[:, part] += (weight[:, None] @ share)[:, 0]
