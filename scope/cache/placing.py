"""Which slots of a prompt stay, and copying them out: what a storage starts with.

P is the length of the longest prompt. Shorter ones are padded on the left, so a prompt of n tokens takes the columns
P - n to P - 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from scope.cache.checks import require_numbers, shaped
from scope.cache.policy import Policy
from scope.cache.sizes import most_slots, reached
from scope.cache.slots import GROWTH
from scope.cache.storage import Kept
from scope.decoding import DecodingStrategy
from scope.policy.attention import Attention
from scope.policy.plan import Plan, View


def left_by_prefill(
    policy: Policy, attention: Attention, views: Sequence[View], channels: Mapping[str, Tensor] | None = None
) -> Kept:
    """What the prefill leaves of the prompts in one layer, with the channels that the decoding strategy starts from.

    attention: of the whole prompts. views: of each row, after the prefill. channels: [B, H, P] each, of the prompts;
    None: those that the strategy gives them. In a layer with a sliding window the method chooses among the tokens that
    the next token can see.
    """
    prefill, window = policy.prefill, attention.sliding_window
    seen = [reached(view.prompt, window) for view in views]
    plans = [prefill.plan(view) for view in views]
    plans = [plan if plan and plan.slots <= n else None for plan, n in zip(plans, seen, strict=True)]
    scores = None
    if any(plan and plan.best for plan in plans):
        scores = shaped(prefill.score(attention), attention, prefill)
        require_numbers(scores, attention.positions, prefill, attention.layer)
    columns = kept_columns(plans, seen, attention.keys.shape[1:3], scores)
    del scores  # to free its memory before the copies are made
    stored = [plan.slots if plan else n for plan, n in zip(plans, seen, strict=True)]
    kept = gathered(
        attention, columns, stored, _first_channels(policy.decoding, attention) if channels is None else channels
    )
    return replace(kept, precision=policy.precision)


def _first_channels(decoding: DecodingStrategy, attention: Attention) -> Mapping[str, Tensor]:
    """The channels [B, H, P] that the decoding strategy gives to the prompt's slots."""
    if not decoding.channels:
        return {}
    none = attention.keys.new_zeros(attention.keys.shape[:3], dtype=torch.float32)
    return decoding.observe(replace(attention, channels=dict.fromkeys(decoding.channels, none)))


def kept_columns(
    plans: Sequence[Plan | None], seen: Sequence[int], shape: Sequence[int], scores: Tensor | None
) -> list[Tensor]:
    """The columns of the padded prompt that each row keeps.

    plans: one for each row; None keeps all. seen: how many of each prompt's last tokens a plan chooses from. shape: H
    and P. scores [B, H, P]: needed where a plan has a `best`.
    -> for each row [H, n], in the order in which the slots will lie; -1 behind the last of a head that keeps fewer.
    """
    heads, longest = shape
    return [
        _of_row(plan, n, longest - n, heads, None if scores is None else scores[row])
        for row, (plan, n) in enumerate(zip(plans, seen, strict=True))
    ]


def _of_row(plan: Plan | None, seen: int, first: int, heads: int, scores: Tensor | None) -> Tensor:
    """-> [H, n]: the columns that one row keeps. first: the column of the first token that the plan chooses from."""
    if plan is None:
        return torch.arange(first, first + seen).expand(heads, -1)
    head = torch.arange(first, first + plan.head).expand(heads, -1)
    tail = torch.arange(first + seen - plan.tail, first + seen).expand(heads, -1)
    if scores is None or not plan.best:
        return torch.cat([head, tail], -1)
    start, stop = first + plan.head, first + seen - plan.tail
    if plan.least is not None:
        return _of_shared(scores[:, start:stop], plan.best, plan.least, start, (head, tail))
    best = scores[:, start:stop].topk(plan.best, dim=-1).indices + start  # highest first
    if not plan.ranked:
        best = best.sort(-1).values
    return torch.cat([head.to(best.device), best, tail.to(best.device)], -1)


def _of_shared(scores: Tensor, best: int, least: int, start: int, ends: tuple[Tensor, Tensor]) -> Tensor:
    """-> [H, n]: the columns of one row whose heads share `best` * H slots, each getting at least `least`.

    scores [H, M]: of the columns from `start` on. ends: the columns [H, .] before and behind these, which all stay.
    """
    scores = scores.float()
    sure = scores.topk(least, dim=-1).indices
    scores = scores.scatter(-1, sure, torch.inf)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen.view(-1)[scores.flatten().topk(best * len(scores)).indices] = True
    rows = [
        torch.cat([head, columns.nonzero()[:, 0].to(head.device) + start, tail])
        for columns, head, tail in zip(chosen, *ends, strict=True)
    ]
    return pad_sequence(rows, batch_first=True, padding_value=-1)


def gathered(
    attention: Attention, columns: Sequence[Tensor], stored: Sequence[int], channels: Mapping[str, Tensor]
) -> Kept:
    """Copy the kept columns out of the prompt, so that the rest of its keys and values can be freed.

    columns: of each row, [H, n]; -1: none. stored: tokens of each row, in the mean over the heads. channels
    [B, H, P]: of the whole prompt.
    """
    keys, values = attention.keys, attention.values
    width = max(kept.shape[1] for kept in columns)
    given = torch.full((len(columns), keys.shape[1], width), -1, device=keys.device)
    for row, kept in enumerate(columns):
        given[row, :, : kept.shape[1]] = kept
    slots = given.clamp_min(0)
    positions = attention.positions.gather(-1, slots).masked_fill(given < 0, -1)
    at = slots[..., None]
    return Kept(
        keys.gather(2, at.expand(-1, -1, -1, keys.shape[-1])),
        values.gather(2, at.expand(-1, -1, -1, values.shape[-1])),
        positions,
        tuple(stored),
        attention.query_positions[:, -1],
        {name: marks.gather(2, slots) for name, marks in channels.items()},
        attention.sliding_window,
    )


def capacity_of(decoding: DecodingStrategy, view: View, tokens: int | None) -> int:
    """Slots to allocate for a row: the most that it can ever hold, or GROWTH more than now if that is not known.

    tokens: T, the most tokens that will be generated; None: unknown.
    """
    most = decoding.most(view)
    grown = view.kept + (GROWTH if tokens is None else tokens)
    if tokens is None and most is not None:
        grown = most
    return most_slots(decoding, view, grown)
