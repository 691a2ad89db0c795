"""Segments of a row's slots, and how many slots each may keep: the parts of AMS (Yang and Shen 2026, arXiv 2605.23200).

Here the slots lie in order of position: B rows, H heads, S places, of which the first `count` [B, H, 1] hold a slot.
N is the most segments that there can be.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def segments(mass: Tensor, count: Tensor, share: float, shortest: int, longest: int) -> Tensor:
    """mass [B, H, S], which adds up to 1 -> [B, H, S] int: the segment of each place, from 0.

    A segment begins where the mass up to and with a place reaches the next multiple of `share`. Segments of more than
    `longest` places are split into pieces of that length. Then, from the first on, each that has less than `shortest`
    is joined with those behind it, until it has as many; only the last may stay shorter.
    """
    place = torch.arange(mass.shape[-1], device=mass.device)
    steps = torch.arange(share, 1.0, share, device=mass.device, dtype=mass.dtype)
    steps = steps.expand(*mass.shape[:2], -1).contiguous()
    cuts = torch.searchsorted(mass.cumsum(-1), steps).clamp_min(1).minimum((count - 1).clamp_min(0))
    begins = torch.zeros_like(mass, dtype=torch.bool).scatter(-1, cuts, True) | (place == 0)
    first = torch.where(begins, place, 0).cummax(-1).values
    begins = ((place - first) % longest == 0) & (place < count)
    return (_joined(begins, shortest).cumsum(-1) - 1).clamp_min(0)


def _joined(begins: Tensor, shortest: int) -> Tensor:
    """begins [B, H, S] bool: where segments begin -> the same after each was joined to at least `shortest` places.

    A segment that begins at a place ends at the first beginning that is far enough. So beginnings form a chain from
    place 0 on. Its links are found by jumps that double in length, instead of one after the other.
    """
    slots = begins.shape[-1]
    place = torch.arange(slots + 1, device=begins.device)  # the last one is the end
    there = torch.where(F.pad(begins, (0, 1), value=True), place, slots)
    behind = there.flip(-1).cummin(-1).values.flip(-1)  # the first beginning at this place or after it
    jump = behind.gather(-1, (place + shortest).clamp_max(slots).expand_as(behind))
    reached = (place == 0).long().expand_as(jump)
    for _ in range((slots // shortest + 1).bit_length()):
        reached = (reached + torch.zeros_like(jump).scatter_add(-1, jump, reached)).clamp_max(1)
        jump = jump.gather(-1, jump)
    return reached[..., :slots] > 0


def quotas(lengths: Tensor, mass: Tensor, places: Tensor, least: int) -> Tensor:
    """-> [B, H, N] int: how many slots of each segment stay, `places` [B, H, 1] in all.

    lengths [B, H, N] int and mass [B, H, N]: of the segments. Each gets `least` slots, and a share of the rest in
    proportion to its mass, but no more than its length. What rounding and this bound leave over, or what is too much,
    is given or taken one by one, in turns from the first segment on. Where `least` is too much for all, no segment
    gets less than 1 slot.
    """
    floor = lengths.clamp_max(least)
    rest = (places - floor.sum(-1, keepdim=True)).clamp_min(0)
    parts = (rest * mass / mass.sum(-1, keepdim=True).clamp_min(1e-30)).round().long()
    given = torch.minimum(lengths, floor + parts)
    over = given.sum(-1, keepdim=True) - places
    floor = torch.where(rest > 0, floor, floor.clamp_max(1))
    return given + in_turns(lengths - given, -over) - in_turns(given - floor, over)


def in_turns(room: Tensor, units: Tensor) -> Tensor:
    """Hand out units [B, H, 1] one by one, in turns from the first segment on, to those that have room [B, H, N] left.

    After t whole turns each got min(room, t). Together these are the least, over all i, of the i smallest rooms plus t
    for each of the others. So the most turns that the units allow are the most that any i allows.
    """
    ordered = room.sort(-1).values
    smaller = ordered.cumsum(-1) - ordered
    others = torch.arange(room.shape[-1], 0, -1, device=room.device)
    turns = ((units - smaller) // others).amax(-1, keepdim=True).clamp_min(0)
    given = room.minimum(turns)
    further = room > turns
    return given + (further & (further.cumsum(-1) <= units - given.sum(-1, keepdim=True)))
