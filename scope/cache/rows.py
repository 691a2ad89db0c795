"""What the layers of one cache share: the prompts' lengths and positions, and the masks that were checked."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig

from scope.cache.masks import real_tokens, require_causal, require_consecutive, with_answer
from scope.cache.policy import Policy
from scope.cache.sizes import after_prefill, require_fit, stored_slot_bytes
from scope.cache.turns import Turn, admitted
from scope.policy.attention import Attention
from scope.policy.plan import View
from scope.policy.rule import Sight
from scope.util.errors import ScopeError, shown


@dataclass
class Rows:
    """What the layers of one cache share. Layer 0 sets it when the prompt comes."""

    config: PretrainedConfig
    sights: tuple[Sight, ...]  # of each layer: what its queries see
    lengths: list[int] = field(default_factory=list)  # tokens of each row's prompt
    positions: Tensor | None = None  # [B, P] int32: of the prompts' tokens, -1 = padding
    views: dict[int, list[View]] = field(default_factory=dict)  # by prompt length: the views after the prefill
    columns: int | None = None  # P if the prompts come in chunks, else None
    forced: int = 0  # tokens of a known continuation that come all at once with the next call; 0: none
    told: Callable[[], None] | None = None  # called after each layer that has taken its steps over them
    attended: bool = False  # scope's attention has run
    entered: int = 0  # layers that a whole prompt has come to, or a later turn of it
    filled: int = 0  # layers that have stored what they chose of it
    ready: bool = False  # a later turn may come: something was generated, or this is a copy
    turn: Turn | None = None  # what comes is this later turn
    real: Tensor | None = None  # [B, S] bool: the columns up to a later turn's end, True for a token; None: no turn yet
    _admitted: list[tuple[weakref.ref[Tensor], Sight]] = field(default_factory=list)  # masks, and what they show

    @cached_property
    def windows(self) -> tuple[int | None, ...]:
        """Of each layer: how many tokens a query sees at the most; None: all."""
        return tuple([sight.window for sight in self.sights])

    @property
    def failed(self) -> bool:
        """Between two calls of the model: whether the prompt came to a layer that then did not store it."""
        return self.filled < self.entered

    def settle(self, real: Tensor | None, batch: int, columns: int, device: torch.device) -> None:
        """Take the prompts' lengths and positions.

        real [B, P] bool: True for a token, False for padding, which is on the left; None: no padding.
        """
        if real is None:
            self.lengths = [columns] * batch
        else:
            self.lengths = real.sum(-1).tolist()
        first = columns - torch.tensor(self.lengths, dtype=torch.int32, device=device)
        column = torch.arange(columns, dtype=torch.int32, device=device)
        self.positions = (column - first[:, None]).clamp(min=-1)

    def admit(self, mask: Tensor | None, positions: Tensor | None, query: Tensor, keys: Tensor, layer: int) -> None:
        """Check that a prompt's mask, or that of a chunk, is the one that the decode steps will use.

        query [B, Hq, n, D], keys [B, H, S, D]: the last n of S columns are new. Waits for the device once for each
        mask. Raises ScopeError for any other mask.
        """
        sight, batch, n, seen = self.sights[layer], keys.shape[0], query.shape[2], keys.shape[2]
        if mask is not None and self._known(mask, sight):
            return
        if self.positions is None:
            self.settle(real_tokens(mask, batch, n), batch, n, keys.device)
        assert self.positions is not None
        ragged = min(self.lengths) < self.positions.shape[1]
        real = self.positions[:, :seen] >= 0
        if mask is not None or (ragged and layer == 0):
            require_causal(mask, real, n, sight)
        if layer == 0:
            require_consecutive(positions, real[:, -n:] if ragged else None)

    def admit_step(self, mask: Tensor, seen: int, layer: int, steps: Sequence[int]) -> None:
        """Check the mask of a decode step, if the caller gives one. scope's engine gives none, so nothing waits.

        steps: t of each row. Raises ScopeError if the mask does not show the prompt's tokens and all tokens after
        them, and no others.
        """
        if self._known(mask, self.sights[layer]):
            return
        lengths = [length + step + 1 for length, step in zip(self.lengths, steps, strict=True)]
        require_causal(mask, self._real_until(seen, lengths, mask.device), 1, self.sights[layer])

    def begin_turn(
        self, mask: Tensor | None, positions: Tensor | None, query: Tensor, seen: int, steps: Sequence[int]
    ) -> None:
        """Take a later turn of n columns, query [B, Hq, n, D], after `seen` columns; t of each row: `steps`.

        Raises ScopeError as `turns.admitted` does, and for another number of rows.
        """
        begins = [length + step + 1 for length, step in zip(self.lengths, steps, strict=True)]
        if len(begins) != query.shape[0]:
            own, given = len(begins), query.shape[0]
            raise ScopeError(f"the cache has {own} rows, and this turn {given}: cache.fork chooses rows")
        before = self._real_until(seen, begins, query.device)
        self.turn = admitted(mask, positions, before, begins, query.shape[2])
        self.real = torch.cat([before, self.turn.real], -1)

    def end_turn(self, prompt: bool) -> None:
        """All layers have taken the turn. prompt: its tokens count as tokens of the prompts."""
        assert self.turn is not None
        if prompt:
            self.lengths = [old + new for old, new in zip(self.lengths, self.turn.lengths, strict=True)]
        self.turn = None

    def _real_until(self, seen: int, lengths: Sequence[int], device: torch.device) -> Tensor:
        """-> [B, S] bool: so many columns up to now, True for a token. lengths: tokens of each row."""
        if self.real is None:
            return with_answer(lengths, seen, device)
        return F.pad(self.real.to(device), (0, seen - self.real.shape[1]), value=True)

    def views_of(self, policy: Policy, attention: Attention, lengths: Sequence[int]) -> list[View]:
        """The view of each row after the prefill, in the layer of this attention. Made once for each prompt length.

        lengths: tokens of each row's prompt, or later turn; behind them those of prompts that will take rows later.
        Raises ScopeError where the policy's bound is too small.
        """
        if any(n not in self.views for n in lengths):
            bytes_of = stored_slot_bytes(self.config, policy, attention) if policy.max_bytes is not None else ()
            require_fit(policy, lengths, self.windows, bytes_of)
            for n in set(lengths):
                self.views[n] = after_prefill(policy, n, self.windows, bytes_of)
        return [self.views[n][attention.layer] for n in lengths]

    def replace(self, rows: Sequence[int], other: "Rows") -> None:
        """Put the prompts of `other` in place of these rows'."""
        for row, length in zip(rows, other.lengths, strict=True):
            self.lengths[row] = length
        self.real = None  # the rows' columns are no longer those of one text

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order. Masks are then those of another batch."""
        assert self.positions is not None
        self.lengths, self.positions = [self.lengths[row] for row in rows], self.positions[list(rows)]
        self.real = None if self.real is None else self.real[list(rows)]
        self._admitted = []

    def state(self) -> dict[str, object]:
        """What a later cache of the same model goes on with."""
        apart = ("config", "sights", "windows", "views", "told", "_admitted")
        return {name: each for name, each in vars(self).items() if name not in apart}

    def _known(self, mask: Tensor, sight: Sight) -> bool:
        """Whether this mask was checked already, in another layer; if not, remember it."""
        sight = Sight() if mask.ndim == 2 else sight
        self._admitted = [(seen, shown) for seen, shown in self._admitted if seen() is not None]
        if any(seen() is mask and shown == sight for seen, shown in self._admitted):
            return True
        self._admitted.append((weakref.ref(mask), sight))
        return False


def rows_of(given: Sequence[int], batch: int) -> list[int]:
    """Row indices as they were given for a batch of so many rows. Raises ScopeError for a row that is not there."""
    if not batch:
        raise ScopeError("fork: the prompts go through the cache first")
    try:
        rows = [index(row) for row in given]
    except TypeError as error:
        raise ScopeError(f"rows={shown(given)}: must be whole numbers, the indices of rows") from error
    if not rows:
        raise ScopeError("rows=[]: must be one row at least")
    for row in rows:
        if not 0 <= row < batch:
            raise ScopeError(f"rows={shown(rows)}: there is no row {row}: must be from 0 to {batch - 1}")
    return rows
