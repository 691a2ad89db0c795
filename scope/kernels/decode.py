"""One decode step over fixed slots, keys and values read once: attention, what each slot received, which one goes.

`attend` and its twin `attend_twin` take and give the same; so do `free` and `free_twin`, `write` and `write_twin`. With
a `Workspace` nothing is allocated, and nothing waits for the device, so that a step can be a CUDA graph: what changes
from step to step are tensors, which the caller updates in place. The first launch compiles, so it comes before capture.

Shapes: B batch, Hq query heads, H key/value heads, G = Hq / H that share one, S slots, D head dim.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from scope.kernels.shapes import check_contiguous, check_same, check_shape, padded, power_of_two

TILE_BYTES = 16384  # of keys, and of values, that a program reads at a time: with three stages 83 KB at the most
MOST_SPLITS = 64
FINISHED = 1024  # slots that the second kernel takes at a time
ALONE = 8 * FINISHED  # up to so many slots one program finishes a head
OLDEST = torch.iinfo(torch.int32).max


class Eligible(NamedTuple):
    """Which slots may be freed: ordinals from `head` to `newest - tail`. Each B int32, contiguous, on the device."""

    head: Tensor
    tail: Tensor
    surplus: Tensor  # a row without loses none
    newest: Tensor  # the ordinal of the token that asks


class Cached(NamedTuple):
    """A layer's slots. All may be views of larger buffers whose last dimension is contiguous."""

    keys: Tensor  # [B, H, S, D]
    values: Tensor  # [B, H, S, D]; those of empty slots must be finite
    ordinals: Tensor  # [B, H, S] int32, -1 = empty
    positions: Tensor  # [B, H, S] int32


class Token(NamedTuple):
    """One token per row, as it is stored."""

    key: Tensor  # [B, H, D]
    value: Tensor  # [B, H, D]
    ordinal: Tensor  # [B] int32
    position: Tensor  # [B]


class Attended(NamedTuple):
    output: Tensor  # [B, Hq, D] in the query's dtype
    received: Tensor | None  # [B, H, S] float32


class Workspace:
    """Buffers of a step, made once for all layers of one shape that run after each other.

    `attend` returns views of it: a layer's results hold until the next call.
    """

    def __init__(
        self, batch: int, query_heads: int, heads: int, slots: int, dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """`slots`: the most that a call will have. `dtype`: of queries, keys and values."""
        check_shape(query_heads, heads, dim, dtype)
        group = query_heads // heads
        self.slots = slots
        self.block = max(16, min(128, TILE_BYTES // (padded(dim) * dtype.itemsize)))
        self.splits = _splits(batch * heads, math.ceil(slots / self.block), device)

        def buffer(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=device)

        self.logits = buffer(batch, heads, group, slots)
        self.partial = buffer(batch, heads, self.splits, group, dim)
        self.peaks = buffer(batch, heads, self.splits, group)
        self.sums = buffer(batch, heads, self.splits, group)
        self.output = torch.empty(batch, query_heads, dim, dtype=dtype, device=device)
        self.received = buffer(batch, heads, slots)

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in vars(self).values() if isinstance(buffer, Tensor))


def attend(
    query: Tensor,
    cached: Cached,
    scaling: float,
    *,
    minimum: Tensor | None = None,
    scored: bool = True,
    workspace: Workspace | None = None,
) -> Attended:
    """One query per row, query [B, Hq, D], over cached slots, as CUDA kernels.

    A slot is seen where its ordinal is not negative and, with `minimum` [B] (a sliding window's first position), its
    position is at least that. Softmax is in float32; a row that sees nothing gets zeros. scored: give `received`, the
    probability of each slot averaged over the query heads that share it.

    Raises ValueError for a shape, dtype or layout that the kernels do not take.
    """
    batch, query_heads, dim = query.shape
    keys, values, ordinals, positions = cached
    heads, slots = keys.shape[1:3]
    group = check_shape(query_heads, heads, dim, query.dtype)
    check_same(query, keys, values)
    check_contiguous(query=query, keys=keys, values=values, ordinals=ordinals, positions=positions)
    if workspace is None:
        workspace = Workspace(batch, query_heads, heads, slots, dim, query.dtype, query.device)
    _check_fits(workspace, query, heads, slots)
    output, received = workspace.output, workspace.received[..., :slots]
    from scope.kernels import decode_triton

    share = math.ceil(slots / (workspace.splits * workspace.block)) * workspace.block
    decode_triton.split[(batch * heads, workspace.splits)](
        query,
        keys,
        values,
        ordinals,
        positions,
        ordinals if minimum is None else minimum,
        workspace.logits,
        workspace.partial,
        workspace.peaks,
        workspace.sums,
        *query.stride()[:2],
        *keys.stride()[:3],
        *values.stride()[:3],
        *ordinals.stride()[:2],
        *positions.stride()[:2],
        slots,
        share,
        workspace.slots,
        scaling * math.log2(math.e),
        HEADS=heads,
        G=group,
        GROUP=max(16, padded(group)),
        D=dim,
        DIM=padded(dim),
        BLOCK=workspace.block,
        SPLITS=workspace.splits,
        SCORED=scored,
        WINDOWED=minimum is not None,
        num_warps=4,
        num_stages=3,
    )
    parts = math.ceil(slots / FINISHED) if scored and slots > ALONE else 1
    decode_triton.finish[(batch * heads, parts)](
        workspace.partial,
        workspace.peaks,
        workspace.sums,
        workspace.logits,
        output,
        received,
        *output.stride()[:2],
        *received.stride()[:2],
        slots,
        workspace.slots,
        HEADS=heads,
        G=group,
        GROUP=power_of_two(group),
        D=dim,
        DIM=padded(dim),
        BLOCK=FINISHED,
        SPLITS=workspace.splits,
        SCORED=scored,
        num_warps=8 if scored else 4,
    )
    return Attended(output, received if scored else None)


def attend_twin(
    query: Tensor,
    cached: Cached,
    scaling: float,
    *,
    minimum: Tensor | None = None,
    scored: bool = True,
    workspace: Workspace | None = None,
) -> Attended:
    """`attend` in torch, on any device, in float64 too; it makes its own tensors, and `workspace` is not used."""
    batch, query_heads, dim = query.shape
    keys, values, ordinals, positions = cached
    heads = keys.shape[1]
    seen = ordinals >= 0
    if minimum is not None:
        seen = seen & (positions >= minimum.view(-1, 1, 1))
    logits = query.reshape(batch, heads, query_heads // heads, dim) @ keys.transpose(-1, -2)
    logits = (logits if logits.dtype == torch.float64 else logits.float()) * scaling
    probabilities = logits.masked_fill(~seen[:, :, None], -torch.inf).softmax(-1)
    probabilities = probabilities.masked_fill(~seen[:, :, None], 0.0)  # a row that sees nothing: not a number
    output = (probabilities.to(values.dtype) @ values).reshape(batch, query_heads, dim)
    return Attended(output, probabilities.mean(2) if scored else None)


def free(
    scores: Tensor,
    ordinals: Tensor,
    eligible: Eligible,
    *,
    positions: Tensor | None = None,
    empties: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """-> [B, H] int64: of the eligible slots the one with the lowest score [B, H, S], of equals the oldest; else -1.

    empties: set the freed slot's ordinal, and its position where `positions` [B, H, S] is given, to -1. out: where to
    leave the result, [B, H] int64 contiguous.
    """
    batch, heads, slots = scores.shape
    check_contiguous(scores=scores, ordinals=ordinals, positions=positions)
    placed = ordinals if positions is None else positions
    freed = torch.empty(batch, heads, dtype=torch.int64, device=scores.device) if out is None else out
    from scope.kernels import decode_triton

    decode_triton.free[(batch * heads,)](
        scores,
        ordinals,
        placed,
        *eligible,
        freed,
        *scores.stride()[:2],
        *ordinals.stride()[:2],
        *placed.stride()[:2],
        slots,
        HEADS=heads,
        BLOCK=FINISHED,
        EMPTIES=empties,
        PLACED=positions is not None,
        num_warps=4,
    )
    return freed


def free_twin(
    scores: Tensor,
    ordinals: Tensor,
    eligible: Eligible,
    *,
    positions: Tensor | None = None,
    empties: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """`free` in torch."""
    head, tail, surplus, newest = (count.view(-1, 1, 1) for count in eligible)
    may = (ordinals >= 0) & (ordinals >= head) & (ordinals <= newest - tail) & (surplus > 0)
    scores = scores.masked_fill(~may, torch.inf)
    lowest = may & (scores == scores.amin(-1, keepdim=True))
    at = torch.where(lowest, ordinals, OLDEST).argmin(-1, keepdim=True)
    found = may.any(-1, keepdim=True)
    if empties:
        for marks in (ordinals,) if positions is None else (ordinals, positions):
            marks.scatter_(2, at, torch.where(found, -1, marks.gather(2, at)))
    freed = torch.where(found, at, -1)[..., 0]
    return freed if out is None else out.copy_(freed)


def write(cached: Cached, at: Tensor, token: Token) -> None:
    """Store each row's token in slot `at` [B, H] int64; -1 = nowhere.

    Raises ValueError for a shape, dtype or layout that the kernel does not take.
    """
    keys, values, ordinals, positions = cached
    key, value, ordinal, position = token
    batch, heads, _, dim = keys.shape
    check_same(key, keys, values)
    check_contiguous(
        keys=keys, values=values, ordinals=ordinals, positions=positions, key=key, value=value, ordinal=ordinal
    )
    if not at.is_contiguous():
        raise ValueError(f"at: strides {at.stride()}, must be contiguous")
    from scope.kernels import decode_triton

    decode_triton.write[(batch * heads,)](
        keys,
        values,
        ordinals,
        positions,
        at,
        key,
        value,
        ordinal,
        position,
        *keys.stride()[:3],
        *values.stride()[:3],
        *ordinals.stride()[:2],
        *positions.stride()[:2],
        *key.stride()[:2],
        *value.stride()[:2],
        HEADS=heads,
        D=dim,
        DIM=power_of_two(dim),
        num_warps=1,
    )


def write_twin(cached: Cached, at: Tensor, token: Token) -> None:
    """`write` in torch."""
    keys, values, ordinals, positions = cached
    key, value, ordinal, position = token
    there = at[..., None] >= 0
    slot = at[..., None].clamp(min=0)
    for marks, mark in ((ordinals, ordinal), (positions, position)):
        new = mark.to(marks.dtype)[:, None, None].expand_as(slot)
        marks.scatter_(2, slot, torch.where(there, new, marks.gather(2, slot)))
    wide = slot[..., None].expand(-1, -1, -1, keys.shape[-1])
    for stored, new in ((keys, key), (values, value)):
        stored.scatter_(2, wide, torch.where(there[..., None], new[:, :, None], stored.gather(2, wide)))


def _splits(pairs: int, blocks: int, device: torch.device) -> int:
    """Programs per row and key/value head: a power of two that gives each multiprocessor about three.

    Fixed by shapes and device, so that results repeat.
    """
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
    wanted = min(math.ceil(3 * processors / pairs), blocks, MOST_SPLITS)
    return 1 << (max(wanted, 1).bit_length() - 1)


def _check_fits(workspace: Workspace, query: Tensor, heads: int, slots: int) -> None:
    made = (*workspace.output.shape, workspace.logits.shape[1], workspace.output.dtype)
    if made != (*query.shape, heads, query.dtype) or slots > workspace.slots:
        raise ValueError(
            f"workspace: made for {made} and {workspace.slots} slots, not for {(*query.shape, heads, query.dtype)} "
            f"and {slots}"
        )
