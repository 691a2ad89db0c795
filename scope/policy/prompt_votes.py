"""What a prompt's queries look at, summed: tile by tile, so that no matrix of all queries by all keys exists.

Shapes as in `scope.policy.attention`; N key/value heads, L tokens of the prompt.
"""

import math

import torch
from torch import Tensor

from scope.policy.attention import LEAST, Attention, prompt_of, scaled_products, visible

# How much attention is looked at together: bytes for each core or GPU, rows, and columns. On a CPU or a GPU:
TILE_BYTES = {False: 2**26, True: 2**28}
TILE_ROWS = 512
TILE_COLUMNS = {False: 1024, True: 2**16}


def prompt_votes(attention: Attention, last: int | None, block: int | None, causal_within: int | None) -> Tensor:
    """-> [B, H, S]: attention probability of a prompt summed over its `last` queries (None = all), mean over each
    group's heads.

    Queries are taken `block` at a time (None: as many as are quick), so that the L x L matrix never exists. Softmax is
    in float32. `causal_within=w` is the released code's mask: only the last w queries are kept from looking ahead.
    """
    batch, heads, slots, _ = attention.keys.shape
    group = attention.queries.shape[1] // heads
    together = heads if attention.keys.is_cuda else min(heads, torch.get_num_threads())  # a head for each core
    fitting = TILE_BYTES[attention.keys.is_cuda] // (4 * group * slots * (together if attention.keys.is_cuda else 1))
    block = min(block or max(1, min(fitting, TILE_ROWS // group)), slots if last is None else last)
    tiles = _Tiles(attention.keys, together * group * min(block, slots))
    total = attention.keys.new_zeros(batch, heads, slots, dtype=torch.float32)
    for row, padding in enumerate((attention.query_positions < 0).sum(-1).tolist()):
        of_row = prompt_of(attention, row, padding)
        queries = slots - padding
        for head in range(0, heads, together):
            some = slice(head, head + together)
            for start in range(0 if last is None else max(0, queries - last), queries, block):
                asking = slice(start, min(start + block, queries))
                tiles.add_votes(total[row, some, padding:], of_row, some, asking, causal_within)
    return total / group


class _Tiles:
    """Scratch memory for the attention of some of a prompt's queries, a part of the slots at a time. What is read again
    soon is then still in the processor's cache. It is allocated once, since memory fresh from the system is slow."""

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
            out = self._product[:size].view(shape)
            logits = scaled_products(queries, keys[:, part], attention.scaling, out).float()
            if not in_order or attention.sliding_window is not None or part.stop > asking.start:
                hidden = ~visible(attention, asking, causal_within, part)[0]
                logits.view(shape[0], group, -1, shape[2]).masked_fill_(hidden, LEAST)
            share = torch.softmax(logits, -1, out=self._shares[used : used + size].view(shape))
            sums.append(logits.amax(-1) - share.amax(-1).log())
            shares.append(share)
            used += size
        for part, share, weight in zip(parts, shares, torch.stack(sums).softmax(0), strict=True):
            total[:, part] += (weight[:, None] @ share)[:, 0]
