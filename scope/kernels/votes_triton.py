"""Device code of the votes of all queries of a prompt. `votes.py` launches it and says what it computes.

There are two passes over queries and keys, and neither stores a matrix of both. The first finds the log-sum-exp of each
query, the second sums probabilities over the queries. Columns are counted from the left of the padded prompt. They may
stand for positions, since only differences of positions matter. Logits are multiplied by log2(e), since the hardware
computes exp2.
Arguments in capitals are constants of the compiled kernel.
"""

import triton
import triton.language as tl

from scope.kernels.decode_triton import product


@triton.jit(do_not_specialize=["columns", "window"])
def normalise(
    queries,  # [B, Hq, P, D]
    keys,  # [B, H, P, D]
    begin,  # [B]: the first column that is no padding
    sums,  # [B, Hq, P] out: log-sum-exp; +inf for padding
    queries_row,
    queries_head,
    queries_column,
    keys_row,
    keys_head,
    keys_column,
    columns,  # P
    window,  # read where WINDOWED
    scaling,  # times log2(e)
    HEADS: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,  # queries of a program
    TILE: tl.constexpr,  # keys at a time
    WINDOWED: tl.constexpr,
):
    block = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest first
    pair = tl.program_id(1).to(tl.int64)
    row = pair // (HEADS * G)
    head = pair % (HEADS * G)
    d = tl.arange(0, DIM)
    i = block * ROWS + tl.arange(0, ROWS)
    earliest = block * ROWS
    queries += row * queries_row + head * queries_head
    keys += row * keys_row + (head // G) * keys_head
    wanted = (i < columns)[:, None] & (d < D)[None, :]
    q = tl.load(queries + i[:, None].to(tl.int64) * queries_column + d[None, :], mask=wanted, other=0.0)
    real = tl.load(begin + row).to(tl.int32)
    first = real
    if WINDOWED:
        first = tl.maximum(real, earliest - window + 1)
    last = tl.minimum(earliest + ROWS, columns)
    diagonal = first + tl.maximum(earliest + 1 - first, 0) // TILE * TILE  # up to here every query sees every key

    peak = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for phase in tl.static_range(2):
        low = first if phase == 0 else diagonal
        high = diagonal if phase == 0 else last
        for start in range(low, high, TILE):
            at = start + tl.arange(0, TILE)
            tile = (at < columns)[:, None] & (d < D)[None, :]
            k = tl.load(keys + at[:, None].to(tl.int64) * keys_column + d[None, :], mask=tile, other=0.0)
            logit = product(q, tl.trans(k)) * scaling
            if phase == 1:
                logit = tl.where(at[None, :] <= i[:, None], logit, -float("inf"))
            if WINDOWED:
                logit = tl.where(at[None, :] > i[:, None] - window, logit, -float("inf"))
            higher = tl.maximum(peak, tl.max(logit, 1))
            base = tl.where(higher == -float("inf"), 0.0, higher)
            total = total * tl.exp2(peak - base) + tl.sum(tl.exp2(logit - base[:, None]), 1)
            peak = higher
    summed = tl.where(total > 0, peak + tl.log2(tl.where(total > 0, total, 1.0)), float("inf"))
    tl.store(sums + pair * columns + i, summed, mask=i < columns)


@triton.jit(do_not_specialize=["columns", "window"])
def collect(
    queries,  # [B, Hq, P, D]
    keys,  # [B, H, P, D]
    begin,  # [B]: the first column that is no padding
    sums,  # [B, Hq, P]: log-sum-exp; +inf for padding
    votes,  # [B, H, P] out
    queries_row,
    queries_head,
    queries_column,
    keys_row,
    keys_head,
    keys_column,
    columns,  # P
    window,  # read where WINDOWED
    scaling,  # times log2(e)
    HEADS: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,  # keys of a program
    TILE: tl.constexpr,  # queries at a time
    WINDOWED: tl.constexpr,
):
    block = tl.program_id(0)  # the first key has the most queries
    pair = tl.program_id(1).to(tl.int64)
    row = pair // HEADS
    head = pair % HEADS
    d = tl.arange(0, DIM)
    at = block * ROWS + tl.arange(0, ROWS)
    keys += row * keys_row + head * keys_head
    tile = (at < columns)[:, None] & (d < D)[None, :]
    k = tl.load(keys + at[:, None].to(tl.int64) * keys_column + d[None, :], mask=tile, other=0.0)
    first = block * ROWS
    last = columns
    if WINDOWED:
        last = tl.minimum(columns, (block + 1) * ROWS - 1 + window)
    past = ROWS - 1  # queries that may not see all of these keys
    diagonal = first + (past + TILE - 1) // TILE * TILE

    given = tl.zeros([ROWS], tl.float32)
    for h in range(G):
        asked = queries + row * queries_row + (head * G + h) * queries_head
        their = sums + (pair * G + h) * columns
        for phase in tl.static_range(2):
            low = first if phase == 0 else diagonal
            high = tl.minimum(diagonal, last) if phase == 0 else last
            for start in range(low, high, TILE):
                i = start + tl.arange(0, TILE)
                wanted = (i < columns)[:, None] & (d < D)[None, :]
                q = tl.load(asked + i[:, None].to(tl.int64) * queries_column + d[None, :], mask=wanted, other=0.0)
                summed = tl.load(their + i, mask=i < columns, other=float("inf"))
                share = tl.exp2(product(k, tl.trans(q)) * scaling - summed[None, :])
                if phase == 0:
                    share = tl.where(at[:, None] <= i[None, :], share, 0.0)
                if WINDOWED:
                    share = tl.where(at[:, None] > i[None, :] - window, share, 0.0)
                given += tl.sum(share, 1)
    given = tl.where(at >= tl.load(begin + row), given / G, 0.0)
    tl.store(votes + pair * columns + at, given, mask=at < columns)
