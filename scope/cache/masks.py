"""Which attention masks a compressed cache takes: causal ones, over rows that are padded on the left.

A decode step makes its own mask, from the positions of the stored tokens. With any other mask the prompt would follow
the mask and the generation would not. So another mask is refused.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from scope.policy.rule import Sight
from scope.util.errors import ScopeError

BLOCK = 2**22  # entries of a mask that are compared at a time
HIDDEN = -1e4  # a token with this, or less, added to its logit has probability 0 in every dtype
CURE = 'pad prompts on the left: tokenizer.padding_side = "left"'


def real_tokens(mask: Tensor | None, batch: int, columns: int) -> Tensor | None:
    """Find the padding in a prompt's mask -> [B, P] bool: True for a token; None: no padding.

    mask: [B, P]; or [B or 1, H or 1, P, P], bool (True is seen) or numbers that are added to logits. In such a mask a
    token sees itself, and padding does not. Raises ScopeError for padding that is not on the left, and for a row
    without a token.
    """
    if mask is None:
        return None
    _require_shape(mask, batch, columns, columns)
    real = mask.bool() if mask.ndim == 2 else _seen(mask)[:, 0].diagonal(dim1=-2, dim2=-1)
    real = real.expand(batch, columns)
    broken, empty = (real[:, :-1] & ~real[:, 1:]).any(-1), ~real.any(-1)
    for row, (after, none) in enumerate(torch.stack([broken, empty], -1).tolist()):
        if none:
            raise ScopeError(f"attention_mask: row {row} has no token; a compressed cache needs one at least")
        if after:
            raise ScopeError(f"attention_mask: row {row} has padding after a token, or a hole; {CURE}")
    return real


def require_causal(mask: Tensor | None, real: Tensor, queries: int, sight: Sight) -> None:
    """Raises ScopeError if a mask is not the causal one of these rows.

    mask: as in `real_tokens`, for the queries of the last `queries` columns. real [B, S] bool: True for a token. What
    padding sees does not matter. sight: what a query sees.
    """
    batch, columns = real.shape
    if mask is None:
        if not bool(real.all()):
            raise ScopeError("attention_mask: none was given for a prompt that is padded")
        return
    _require_shape(mask, batch, queries, columns)
    if mask.ndim == 2:
        if not torch.equal(mask.bool(), real.to(mask.device)):
            raise ScopeError("attention_mask: it must stay the prompt's, with a 1 for each token that came after")
        return
    column, wrong = torch.arange(columns, device=mask.device), []
    real = real.to(mask.device)
    padding = (columns - real.sum(-1))[:, None, None]
    rows = max(1, BLOCK // (mask.shape[1] * columns * batch))
    for first in range(0, queries, rows):
        some = mask[:, :, first : first + rows]
        at = column[columns - queries + first :][: some.shape[2], None]
        visible = column <= at
        if sight.window is not None:
            visible = visible & (column - padding >= sight.first(at - padding))  # [B, q, S]
        expected = visible & real[:, None]  # [B, q, S]
        differs = (_seen(some) != expected[:, None]) & real[:, at[:, 0]][:, None, :, None]
        wrong.append(differs.any() | _between(some).any())
    if bool(torch.stack(wrong).any()):
        raise ScopeError(f"attention_mask: it must be causal and the same for all heads; and {CURE}")


def require_consecutive(positions: Tensor | None, real: Tensor | None) -> None:
    """Raises ScopeError if position_ids [B or 1, n] do not count up by one, as when a row holds several texts.

    real [B, n] bool: True for a token; None: no padding.
    """
    if positions is None or positions.ndim != 2:  # models of images have several axes
        return
    apart = positions.diff(dim=-1) != 1
    if real is not None:
        apart = apart & real[:, 1:].to(apart.device) & real[:, :-1].to(apart.device)
    if bool(apart.any()):
        raise ScopeError("position_ids: must count up by one in each row; a compressed cache takes one text a row")


def with_answer(lengths: Sequence[int], columns: int, device: torch.device) -> Tensor:
    """-> [B, S] bool: in each row the last `lengths[row]` of `columns` columns are tokens, the others padding."""
    first = columns - torch.tensor(lengths, device=device)
    return torch.arange(columns, device=device) >= first[:, None]


def _seen(mask: Tensor) -> Tensor:
    return mask if mask.dtype == torch.bool else mask == 0


def _between(mask: Tensor) -> Tensor:
    """Entries that are a bias: they neither leave a token's logit as it is nor hide the token."""
    if mask.dtype == torch.bool:
        return torch.zeros((), dtype=torch.bool, device=mask.device)
    return (mask != 0) & ~(mask <= HIDDEN)


def _require_shape(mask: Tensor, batch: int, queries: int, columns: int) -> None:
    if mask.ndim == 2:
        fits = tuple(mask.shape) == (batch, columns)
        wanted = f"{batch} x {columns}"
    else:
        fits = mask.ndim == 4 and mask.shape[0] in (1, batch) and tuple(mask.shape[2:]) == (queries, columns)
        wanted = f"{batch} x 1 x {queries} x {columns}"
    if not fits:
        shape = " x ".join(map(str, mask.shape))
        why = "a used cache takes one new token a row at a time"
        raise ScopeError(f"attention_mask: its shape is {shape}, and must be {wanted}; {why}")
