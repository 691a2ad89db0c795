"""The votes of all queries of a prompt as CUDA kernels: the same as `scope.policy.scores.votes`.

As in flash attention, no matrix of queries by keys is stored. A first pass stores the log-sum-exp of each query, which
takes 4 bytes per query and head. A second pass sums the probabilities. For a few queries, as in snapkv's window, the
matrix product of the twin is as fast.
"""

import math

import torch
from torch import Tensor

from scope.kernels.shapes import check_contiguous, check_same, check_shape, padded
from scope.policy.attention import Attention
from scope.policy.rule import Rule, Sight
from scope.policy.scores import votes as votes_of

HELD_BYTES = 32768  # of keys or queries that a program keeps
TILE_BYTES = 16384  # of keys or queries that it reads at a time


def votes(
    queries: Tensor,
    keys: Tensor,
    scaling: float,
    *,
    begin: Tensor | None = None,
    sliding_window: int | None = None,
) -> Tensor:
    """-> [B, H, P] float32: the probabilities that a slot gets from all queries, summed, and averaged over its group.

    queries [B, Hq, P, D] and keys [B, H, P, D], with a contiguous last dimension. Attention is causal. Rows are padded
    on the left: begin [B] int is the first column with a token; None: no padding. sliding_window: tokens that a query
    sees; None: all. Softmax is in float32.

    Raises ValueError for a shape, dtype or layout that the kernels do not take.
    """
    batch, query_heads, columns, dim = queries.shape
    heads = keys.shape[1]
    group = check_shape(query_heads, heads, dim, queries.dtype)
    check_same(queries, keys, keys)
    check_contiguous(queries=queries, keys=keys)
    if keys.shape[2] != columns:
        raise ValueError(f"keys: {keys.shape[2]} columns, must be the {columns} of the queries")
    if begin is None:
        begin = torch.zeros(batch, dtype=torch.int32, device=keys.device)
    sums = torch.empty(batch, query_heads, columns, dtype=torch.float32, device=keys.device)
    result = torch.empty(batch, heads, columns, dtype=torch.float32, device=keys.device)
    rows, tile = _sizes(dim, queries.dtype)
    shared = (
        *queries.stride()[:3],
        *keys.stride()[:3],
        columns,
        0 if sliding_window is None else sliding_window,
        scaling * math.log2(math.e),
        heads,
        group,
        dim,
        padded(dim),
        rows,
        tile,
        sliding_window is not None,
    )
    from scope.kernels import votes_triton

    votes_triton.normalise[(math.ceil(columns / rows), batch * query_heads)](
        queries, keys, begin, sums, *shared, num_warps=4, num_stages=3
    )
    votes_triton.collect[(math.ceil(columns / rows), batch * heads)](
        queries, keys, begin, sums, result, *shared, num_warps=8, num_stages=3
    )
    return result


def _sizes(dim: int, dtype: torch.dtype) -> tuple[int, int]:
    """-> how many queries or keys a program keeps, and how many it reads at a time."""
    width = padded(dim) * dtype.itemsize
    if dtype == torch.float32:  # tensor cores are not used, and products are held in registers
        width *= 2
    return max(16, min(128, HELD_BYTES // width)), max(16, min(64, TILE_BYTES // width))


def votes_twin(
    queries: Tensor,
    keys: Tensor,
    scaling: float,
    *,
    begin: Tensor | None = None,
    sliding_window: int | None = None,
) -> Tensor:
    """`votes` by `scope.policy.scores.votes`, in blocks of queries."""
    batch, heads, columns, _ = keys.shape
    positions = torch.arange(columns, dtype=torch.int32, device=keys.device).expand(batch, -1)
    if begin is not None:
        positions = (positions - begin[:, None]).clamp(min=-1)
    attention = Attention(
        queries=queries,
        keys=keys,
        values=keys,  # not looked at
        positions=positions[:, None].expand(-1, heads, -1),
        query_positions=positions,
        rule=Rule(scaling, Sight(sliding_window)),
        layer=0,
    )
    return votes_of(attention)
