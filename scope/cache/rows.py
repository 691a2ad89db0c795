"""What the layers of one cache share: the prompts' lengths and positions, and the masks that were checked."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import index

import torch
from torch import Tensor
from transformers import PretrainedConfig

from scope.cache.masks import real_tokens, require_causal, require_consecutive, with_answer
from scope.cache.policy import Policy
from scope.cache.sizes import after_prefill, require_fit, stored_slot_bytes
from scope.policy.attention import Attention
from scope.policy.plan import View
from scope.util.errors import ScopeError, shown


@dataclass
class Rows:
    """What the layers of one cache share. Layer 0 sets it when the prompt comes."""

    config: PretrainedConfig
    windows: tuple[int | None, ...]  # the sliding window of each layer, None = none
    lengths: list[int] = field(default_factory=list)  # tokens of each row's prompt
    positions: Tensor | None = None  # [B, P] int32: of the prompts' tokens, -1 = padding
    views: dict[int, list[View]] = field(default_factory=dict)  # by prompt length: the views after the prefill
    columns: int | None = None  # P if the prompts come in chunks, else None
    forced: int = 0  # tokens of a known continuation that come all at once with the next call; 0: none
    told: Callable[[], None] | None = None  # called after each layer that has taken its steps over them
    attended: bool = False  # scope's attention has run
    entered: int = 0  # layers that a whole prompt has come to
    filled: int = 0  # layers that have a storage
    _admitted: list[tuple[weakref.ref[Tensor], int | None]] = field(default_factory=list)  # masks and windows

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
        window, batch, n, seen = self.windows[layer], keys.shape[0], query.shape[2], keys.shape[2]
        if mask is not None and self._known(mask, window):
            return
        if self.positions is None:
            self.settle(real_tokens(mask, batch, n), batch, n, keys.device)
        assert self.positions is not None
        ragged = min(self.lengths) < self.positions.shape[1]
        real = self.positions[:, :seen] >= 0
        if mask is not None or (ragged and layer == 0):
            require_causal(mask, real, n, window)
        if layer == 0:
            require_consecutive(positions, real[:, -n:] if ragged else None)

    def admit_step(self, mask: Tensor, seen: int, layer: int, steps: Sequence[int]) -> None:
        """Check the mask of a decode step, if the caller gives one. scope's engine gives none, so nothing waits.

        steps: t of each row. Raises ScopeError if the mask does not show the prompt's tokens and all tokens after
        them, and no others.
        """
        if self._known(mask, self.windows[layer]):
            return
        lengths = [length + step + 1 for length, step in zip(self.lengths, steps, strict=True)]
        require_causal(mask, with_answer(lengths, seen, mask.device), 1, self.windows[layer])

    def views_of(self, policy: Policy, attention: Attention, later: Sequence[int] = ()) -> list[View]:
        """The view of each row after the prefill, in the layer of this attention. Made once for each prompt length.

        later: tokens of prompts that will take rows later. Their views follow those of the rows.
        Raises ScopeError where the policy's bound is too small for a prompt.
        """
        lengths = [*self.lengths, *later]
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

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order. Masks are then those of another batch."""
        assert self.positions is not None
        self.lengths, self.positions = [self.lengths[row] for row in rows], self.positions[list(rows)]
        self._admitted = []

    def state(self) -> dict[str, object]:
        """What a later cache of the same model goes on with."""
        apart = ("config", "windows", "views", "told", "_admitted")
        return {name: each for name, each in vars(self).items() if name not in apart}

    def _known(self, mask: Tensor, window: int | None) -> bool:
        """Whether this mask was checked already, in another layer; if not, remember it."""
        window = None if mask.ndim == 2 else window
        self._admitted = [(seen, size) for seen, size in self._admitted if seen() is not None]
        if any(seen() is mask and size == window for seen, size in self._admitted):
            return True
        self._admitted.append((weakref.ref(mask), window))
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
