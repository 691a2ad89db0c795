"""The attention of decode steps whose queries are all known: products with keys and values for many steps at once.

What is evicted at a step depends on the step's probabilities, so the steps themselves go one by one. But which keys a
query meets can be had before: those that are stored at the start, and those of the tokens that come. A slot that gets a
token takes over that token's products from then on.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from scope.cache.states import States
from scope.policy.attention import LEAST, scaled_products
from scope.policy.rule import Rule

STEPS = 32  # taken together at the most
BYTES = 2**26  # of their products


def steps_together(query: Tensor, slots: int) -> int:
    """How many steps of query [B, Hq, T, D] are taken together over so many slots."""
    batch, heads, steps, _ = query.shape
    return max(1, min(steps, STEPS, BYTES // (4 * batch * heads * slots)))


class Known(Protocol):
    """The attention of steps whose queries are known."""

    def outputs(self) -> Tensor:
        """After the last step -> what all of them attended to, [B, n, Hq, D]."""
        ...


class Ahead:
    """n steps over one layer's slots: G query heads share a key/value head, W slots are in use at the start."""

    def __init__(
        self, stored: tuple[States, States], slots: int, query: Tensor, new: tuple[Tensor, Tensor], rule: Rule
    ) -> None:
        """stored: keys and values, of which the first W = `slots` slots are in use at the start; of the n steps query
        [B, Hq, n, D], and new keys and values [B, H, n, D]."""
        keys, values = (states.rounded(some) for states, some in zip(stored, new, strict=True))
        batch, heads, n, _ = keys.shape
        asked = query.reshape(batch, heads, -1, query.shape[-1])  # [B, H, G * n, D]
        shape = (batch, heads, -1, n)
        self._rule = rule
        self._new = rule.capped(scaled_products(asked, keys, rule.scaling)).view(*shape, n)
        products = rule.capped(stored[0].products(asked, rule.scaling, slots))
        # [B, H, G, n, W + n]: of the steps to come logits, of those that were taken probabilities
        self._table = F.pad(products, (0, n)).view(*shape, products.shape[-1] + n)
        self._values = stored[1].copied(slots), values  # a slot's own is overwritten by the tokens that come
        self._slots = torch.empty(batch, heads, n, dtype=torch.long, device=keys.device)  # where each new token went
        self._step = 0

    def attend(self, slot: Tensor, visible: Tensor | None, width: int) -> Tensor:
        """The next step, whose token went into `slot` [B, H, 1]; visible [B, H, S] bool or None; S = width.

        -> probabilities [B, H, G, S].
        """
        t = self._step
        self._slots[:, :, t : t + 1] = slot
        later = self._table[:, :, :, t:]
        at = slot[:, :, None, None].expand(*later.shape[:-1], 1)
        later.scatter_(-1, at, self._new[:, :, :, t:, t : t + 1])
        logits = self._table[:, :, :, t, :width]
        if visible is not None:
            logits += visible.logical_not().float().mul_(LEAST)[:, :, None]
        probabilities = self._rule.softmax(logits)
        logits.copy_(probabilities)
        self._step += 1
        return probabilities

    def outputs(self) -> Tensor:
        """After the last step -> what all of them attended to, [B, n, Hq, D]."""
        table, slots, (stored, new) = self._table, self._slots, self._values
        batch, heads, group, n, _ = table.shape
        token = torch.arange(n, device=slots.device)
        step = token[:, None]
        same = slots[..., None] == slots[..., None, :]  # [B, H, n, n]: two tokens went into one slot
        first = torch.where(same, token, n).amin(-1)[:, :, None, None]  # [B, H, 1, 1, n]: the first that did
        until = torch.where(same & (token > step), token, n).amin(-1)[:, :, None, None]  # when the next one does
        at = slots[:, :, None, None].expand(-1, -1, group, n, -1)
        there = table.gather(-1, at)  # [B, H, G, n, n]: what each step gave to the slot of each new token
        to_new = there.masked_fill((step < token) | (step >= until), 0)
        table.scatter_(-1, at, there.masked_fill(step >= first, 0))  # what is left went to what was stored
        output = stored.mixed(table[..., : stored.capacity].flatten(2, 3)) + to_new.to(new.dtype).flatten(2, 3) @ new
        return output.view(batch, heads * group, n, -1).transpose(1, 2)
