"""The kernels of a decode step: attend over the slots, free the slot with the lowest score, write a token into a slot.

Each kernel has a twin in plain torch that takes and gives the same: `attend` and `attend_twin`, and so on. With a
`Workspace` a step allocates nothing and never waits for the device, so it can be captured as a CUDA graph. What differs
between steps lies in tensors that the caller updates in place. The first launch compiles a kernel, so it has to come
before the capture.

Shapes: B batch, Hq query heads, H key/value heads, G = Hq / H that share one, S slots, D head dim.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from scope.kernels.shapes import check_contiguous, check_same, check_shape, padded, power_of_two

TILE_BYTES = 16384  # of keys, and as many of values, that a program reads at a time: at most 83 KB in three stages
MOST_SPLITS = 64  # programs per row and head
FINISHED = 1024  # slots that a program of the second kernel takes at a time
ALONE = 8 * FINISHED  # up to so many slots, one program finishes a head
NEVER = torch.iinfo(torch.int32).max  # larger than every ordinal


class Eligible(NamedTuple):
    """Which slots may be freed: those with ordinals from `head` to `newest - tail`. Each is [B] int32, contiguous."""

    head: Tensor
    tail: Tensor
    surplus: Tensor  # if it is 0, the row frees no slot
    newest: Tensor  # the ordinal of the row's newest token


class Cached(NamedTuple):
    """The slots of a layer. Each may be a view of a larger buffer whose last dimension is contiguous."""

    keys: Tensor  # [B, H, S, D]
    values: Tensor  # [B, H, S, D]; finite in empty slots too
    ordinals: Tensor  # [B, H, S] int32, -1 = empty
    positions: Tensor  # [B, H, S] int32


class Token(NamedTuple):
    """A new token in each row."""

    key: Tensor  # [B, H, D]
    value: Tensor  # [B, H, D]
    ordinal: Tensor  # [B] int32
    position: Tensor  # [B]


class Attended(NamedTuple):
    """The results of `attend`."""

    output: Tensor  # [B, Hq, D] in the query's dtype
    received: Tensor | None  # [B, H, S] float32: each slot's probability, averaged over its query heads


class Workspace:
    """The buffers of `attend`, allocated once for all layers of the same shape.

    `attend` returns views of them, which are overwritten by its next call.
    """

    def __init__(
        self, batch: int, query_heads: int, heads: int, slots: int, dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """slots: the most that a call will have. dtype: of queries, keys and values. Raises ValueError for a shape that
        the kernels do not take."""
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
        """Bytes of all buffers."""
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
    """Attend with one query per row, query [B, Hq, D], over the slots of a layer. Softmax is in float32.

    minimum [B]: the first position that a sliding window shows; None: no window. scored: whether to give `received`.
    workspace: None allocates a new one. A slot is seen if its ordinal is not negative and its position is at least
    `minimum`. A row that sees nothing gets zeros.

    Raises ValueError for a shape, dtype or layout that the kernels do not take.
    """
    batch, query_heads, dim = query.shape
    keys, values, ordinals, positions = cached
    heads, slots = keys.shape[1:3]
    check_shape(query_heads, heads, dim, query.dtype)
    check_same(query, keys, values)
    check_contiguous(query=query, keys=keys, values=values, ordinals=ordinals, positions=positions)
    if workspace is None:
        workspace = Workspace(batch, query_heads, heads, slots, dim, query.dtype, query.device)
    _check_fits(workspace, query, heads, slots)
    _launch_split(query, cached, scaling, minimum, scored, workspace)
    _launch_finish(slots, scored, workspace)
    return Attended(workspace.output, workspace.received[..., :slots] if scored else None)


def _launch_split(
    query: Tensor, cached: Cached, scaling: float, minimum: Tensor | None, scored: bool, workspace: Workspace
) -> None:
    """The first kernel: each program attends over its share of the slots and leaves its part in the workspace."""
    from scope.kernels import decode_triton

    keys, values, ordinals, positions = cached
    batch, heads, slots, dim = keys.shape
    group = query.shape[1] // heads
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


def _launch_finish(slots: int, scored: bool, workspace: Workspace) -> None:
    """The second kernel: joins the parts into the output and, if `scored`, gives what each slot received."""
    from scope.kernels import decode_triton

    output, received = workspace.output, workspace.received[..., :slots]
    batch, heads, splits, group, dim = workspace.partial.shape
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
        SPLITS=splits,
        SCORED=scored,
        num_warps=8 if scored else 4,
    )


def attend_twin(
    query: Tensor,
    cached: Cached,
    scaling: float,
    *,
    minimum: Tensor | None = None,
    scored: bool = True,
    workspace: Workspace | None = None,
) -> Attended:
    """`attend` in plain torch, on any device, and in float64 too. `workspace` is ignored."""
    batch, query_heads, dim = query.shape
    keys, values, ordinals, positions = cached
    heads = keys.shape[1]
    seen = ordinals >= 0
    if minimum is not None:
        seen = seen & (positions >= minimum.view(-1, 1, 1))
    logits = query.reshape(batch, heads, query_heads // heads, dim) @ keys.transpose(-1, -2)
    logits = (logits if logits.dtype == torch.float64 else logits.float()) * scaling
    probabilities = logits.masked_fill(~seen[:, :, None], -torch.inf).softmax(-1)
    probabilities = probabilities.masked_fill(~seen[:, :, None], 0.0)  # NaN in a row that sees nothing
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
    """Find the eligible slot with the lowest score in each row and head -> [B, H] int64; -1 = no slot is eligible.

    scores [B, H, S]: of equal scores the oldest slot is taken. empties: set the ordinal of this slot to -1, and its
    position if `positions` [B, H, S] are given. out: memory for the result, [B, H] int64, contiguous.
    Raises ValueError for a layout that the kernel does not take.
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
    """`free` in plain torch."""
    head, tail, surplus, newest = (count.view(-1, 1, 1) for count in eligible)
    may = (ordinals >= 0) & (ordinals >= head) & (ordinals <= newest - tail) & (surplus > 0)
    scores = scores.masked_fill(~may, torch.inf)
    lowest = may & (scores == scores.amin(-1, keepdim=True))
    at = torch.where(lowest, ordinals, NEVER).argmin(-1, keepdim=True)
    found = may.any(-1, keepdim=True)
    if empties:
        for marks in (ordinals,) if positions is None else (ordinals, positions):
            marks.scatter_(2, at, torch.where(found, -1, marks.gather(2, at)))
    freed = torch.where(found, at, -1)[..., 0]
    return freed if out is None else out.copy_(freed)


def write(cached: Cached, at: Tensor, token: Token) -> None:
    """Write the token of each row into the slot `at` [B, H] int64; -1 = nowhere.

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
    """`write` in plain torch."""
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
    """Programs per row and head: a power of two that gives each multiprocessor about three.

    It depends on shapes and device only, so that results can be repeated.
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
