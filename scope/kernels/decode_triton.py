"""Device code of a decode step. `decode.py` launches it and says what each kernel computes.

The method is flash-decoding (Dao et al. 2023): the slots are split between programs. Each program computes a softmax of
its own, and a second kernel joins these by their log-sum-exps. Logits are multiplied by log2(e), since the hardware
computes exp2. The G query heads that share a key/value head are one operand of a matrix product, padded to GROUP rows.
Arguments in capitals are constants of the compiled kernel.
"""

import triton
import triton.language as tl

NEVER = tl.constexpr(2147483647)  # larger than every ordinal
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def product(a, b):
    """A matrix product, summed in float32. The interpreter gets float32, since it multiplies bfloat16 wrongly."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _finite(peak):
    """0 in place of -inf, since -inf minus -inf is NaN. It is -inf if no slot was seen."""
    return tl.where(peak == -float("inf"), 0.0, peak)


@triton.jit(do_not_specialize=["slots", "share"])
def split(
    query,  # [B, Hq, D]
    keys,  # [B, H, S, D]
    values,  # [B, H, S, D]
    ordinals,  # [B, H, S]
    positions,  # [B, H, S], read where WINDOWED
    minimum,  # [B], read where WINDOWED
    logits,  # [B, H, G, width], written where SCORED
    partial,  # [B, H, SPLITS, G, D]
    peaks,  # [B, H, SPLITS, G]
    sums,  # [B, H, SPLITS, G]
    query_row,
    query_head,
    keys_row,
    keys_head,
    keys_slot,
    values_row,
    values_head,
    values_slot,
    ordinals_row,
    ordinals_head,
    positions_row,
    positions_head,
    slots,
    share,  # slots per program, a multiple of BLOCK
    width,
    scaling,  # times log2(e)
    HEADS: tl.constexpr,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    SCORED: tl.constexpr,
    WINDOWED: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    row = pair // HEADS
    head = pair % HEADS
    g = tl.arange(0, GROUP)
    d = tl.arange(0, DIM)
    within = (g < G)[:, None] & (d < D)[None, :]
    asked = query + row * query_row + (head * G + g[:, None]) * query_head + d[None, :]
    q = tl.load(asked, mask=within, other=0.0)
    keys += row * keys_row + head * keys_head
    values += row * values_row + head * values_head
    ordinals += row * ordinals_row + head * ordinals_head
    positions += row * positions_row + head * positions_head
    logits += pair * G * width
    earliest = tl.load(minimum + row) if WINDOWED else 0

    peak = tl.full([GROUP], -float("inf"), tl.float32)
    total = tl.zeros([GROUP], tl.float32)
    mixed = tl.zeros([GROUP, DIM], tl.float32)
    first = part * share
    for start in range(first, tl.minimum(first + share, slots), BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < slots
        seen = tl.load(ordinals + at, mask=inside, other=-1) >= 0
        if WINDOWED:
            seen = seen & (tl.load(positions + at, mask=inside, other=-1) >= earliest)
        tile = inside[:, None] & (d < D)[None, :]
        k = tl.load(keys + at[:, None].to(tl.int64) * keys_slot + d[None, :], mask=tile, other=0.0)
        v = tl.load(values + at[:, None].to(tl.int64) * values_slot + d[None, :], mask=tile, other=0.0)
        logit = product(q, tl.trans(k)) * scaling
        logit = tl.where(seen[None, :], logit, -float("inf"))
        if SCORED:
            tl.store(logits + g[:, None] * width + at[None, :], logit, mask=(g < G)[:, None] & inside[None, :])
        higher = tl.maximum(peak, tl.max(logit, 1))
        base = _finite(higher)
        weight = tl.exp2(logit - base[:, None])
        fade = tl.exp2(peak - base)
        total = total * fade + tl.sum(weight, 1)
        mixed = mixed * fade[:, None] + product(weight.to(v.dtype), v)
        peak = higher

    out = (pair * SPLITS + part) * G + g
    tl.store(peaks + out, peak, mask=g < G)
    tl.store(sums + out, total, mask=g < G)
    tl.store(partial + out[:, None] * D + d[None, :], mixed, mask=within)


@triton.jit(do_not_specialize=["slots"])
def finish(
    partial,  # [B, H, SPLITS, G, D]
    peaks,  # [B, H, SPLITS, G]
    sums,  # [B, H, SPLITS, G]
    logits,  # [B, H, G, width]
    output,  # [B, Hq, D]
    received,  # [B, H, S], written where SCORED
    output_row,
    output_head,
    received_row,
    received_head,
    slots,
    width,
    HEADS: tl.constexpr,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    SCORED: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    row = pair // HEADS
    head = pair % HEADS
    i = tl.arange(0, SPLITS)
    d = tl.arange(0, DIM)
    if part == 0:
        for h in tl.static_range(G):
            of_part = (pair * SPLITS + i) * G + h
            peak = tl.load(peaks + of_part)
            rise = tl.exp2(peak - _finite(tl.max(peak, 0)))
            total = tl.sum(tl.load(sums + of_part) * rise, 0)
            some = tl.load(partial + of_part[:, None] * D + d[None, :], mask=(d < D)[None, :], other=0.0)
            mixed = tl.sum(some * rise[:, None], 0) / tl.where(total > 0, total, 1.0)  # 0 if no slot was seen
            out = output + row * output_row + (head * G + h) * output_head + d
            tl.store(out, mixed.to(output.dtype.element_ty), mask=d < D)
    if SCORED:
        g = tl.arange(0, GROUP)
        ours = g < G
        of_parts = (pair * SPLITS + i[:, None]) * G + g[None, :]
        peak = tl.load(peaks + of_parts, mask=ours[None, :], other=-float("inf"))
        base = _finite(tl.max(peak, 0))
        total = tl.sum(tl.load(sums + of_parts, mask=ours[None, :], other=0.0) * tl.exp2(peak - base[None, :]), 0)
        base += tl.log2(tl.where(total > 0, total, 1.0))
        received += row * received_row + head * received_head
        logits += pair * G * width
        for start in range(part * BLOCK, slots, tl.num_programs(1) * BLOCK):
            at = start + tl.arange(0, BLOCK)
            inside = at < slots
            logit = tl.load(
                logits + g[:, None] * width + at[None, :], mask=ours[:, None] & inside[None, :], other=-float("inf")
            )
            score = tl.sum(tl.exp2(logit - base[:, None]), 0) / G
            tl.store(received + at, score, mask=inside)


@triton.jit
def _between(head_count, tail_count, surplus, newest, row):
    """-> the first and the last ordinal that may be freed."""
    last = tl.load(newest + row) - tl.load(tail_count + row)
    return tl.maximum(tl.load(head_count + row), 0), tl.where(tl.load(surplus + row) > 0, last, -1)


@triton.jit
def _lowest(score, order, may, at, best, oldest, slot):
    """-> the lowest score so far, with the ordinal and the slot that have it; of equal scores the oldest."""
    score = tl.where(may, score, float("inf"))
    low = tl.min(score, 0)
    age = tl.min(tl.where(may & (score == low), order, NEVER), 0)
    where = tl.max(tl.where(may & (order == age), at, -1), 0)
    wins = (age != NEVER) & ((low < best) | ((low == best) & (age < oldest)))
    return tl.where(wins, low, best), tl.where(wins, age, oldest), tl.where(wins, where, slot)


@triton.jit
def _leave(freed, ordinals, positions, pair, slot, EMPTIES: tl.constexpr, PLACED: tl.constexpr):
    """Store the slot that was found, and empty it if EMPTIES."""
    tl.store(freed + pair, slot)
    if EMPTIES:
        tl.store(ordinals + slot, -1, mask=slot >= 0)
        if PLACED:
            tl.store(positions + slot, -1, mask=slot >= 0)


@triton.jit(do_not_specialize=["slots"])
def free(
    scores,  # [B, H, S]
    ordinals,  # [B, H, S]
    positions,  # [B, H, S], written where EMPTIES and PLACED
    head_count,  # [B]
    tail_count,  # [B]
    surplus,  # [B]
    newest,  # [B]
    freed,  # [B, H]
    scores_row,
    scores_head,
    ordinals_row,
    ordinals_head,
    positions_row,
    positions_head,
    slots,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    EMPTIES: tl.constexpr,
    PLACED: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64)
    row = pair // HEADS
    head = pair % HEADS
    scores += row * scores_row + head * scores_head
    ordinals += row * ordinals_row + head * ordinals_head
    positions += row * positions_row + head * positions_head
    oldest_may, newest_may = _between(head_count, tail_count, surplus, newest, row)
    best = float("inf")
    oldest = NEVER
    slot = -1
    for start in range(0, slots, BLOCK):
        at = start + tl.arange(0, BLOCK)
        order = tl.load(ordinals + at, mask=at < slots, other=-1)
        may = (order >= oldest_may) & (order <= newest_may)
        score = tl.load(scores + at, mask=may, other=float("inf")).to(tl.float32)
        best, oldest, slot = _lowest(score, order, may, at, best, oldest, slot)
    _leave(freed, ordinals, positions, pair, slot, EMPTIES, PLACED)


@triton.jit
def write(
    keys,  # [B, H, S, D]
    values,  # [B, H, S, D]
    ordinals,  # [B, H, S]
    positions,  # [B, H, S]
    at,  # [B, H]
    key,  # [B, H, D]
    value,  # [B, H, D]
    ordinal,  # [B]
    position,  # [B]
    keys_row,
    keys_head,
    keys_slot,
    values_row,
    values_head,
    values_slot,
    ordinals_row,
    ordinals_head,
    positions_row,
    positions_head,
    key_row,
    key_head,
    value_row,
    value_head,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    DIM: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64)
    row = pair // HEADS
    head = pair % HEADS
    slot = tl.load(at + pair).to(tl.int64)
    d = tl.arange(0, DIM)
    if slot >= 0:
        k = tl.load(key + row * key_row + head * key_head + d, mask=d < D)
        v = tl.load(value + row * value_row + head * value_head + d, mask=d < D)
        tl.store(keys + row * keys_row + head * keys_head + slot * keys_slot + d, k, mask=d < D)
        tl.store(values + row * values_row + head * values_head + slot * values_slot + d, v, mask=d < D)
        tl.store(ordinals + row * ordinals_row + head * ordinals_head + slot, tl.load(ordinal + row))
        tl.store(positions + row * positions_row + head * positions_head + slot, tl.load(position + row))
