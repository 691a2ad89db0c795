"""Slots whose steps run as Triton kernels. Same results as `Slots`, with fewer passes over memory."""

from collections.abc import Hashable

import torch
from torch import Tensor

from scope import kernels
from scope.cache.slots import Slots
from scope.cache.storage import Kept
from scope.kernels import decode
from scope.kernels.decode import Cached, Eligible, Token, Workspace
from scope.policy.rule import Rule


class Storages:
    """Makes the storages of one cache: `FusedSlots` if the kernels run on the device and take the states, else `Slots`.

    Layers run one after the other, so they share a workspace.
    """

    def __init__(self) -> None:
        self._workspaces: dict[Hashable, Workspace] = {}

    def __call__(self, kept: Kept, capacity: int, whole: bool) -> Slots:
        plain = kept.precision == "float"  # the kernels read the model's own numbers
        if plain and kernels.runs_on(kept.keys.device) and kernels.takes(kept.keys, kept.values):
            return FusedSlots(kept, capacity, whole, self)
        return Slots(kept, capacity, whole)

    def workspace(self, query: Tensor, keys: Tensor, capacity: int) -> Workspace:
        """The shared buffers for query [B, Hq, D] and keys [B, H, S, D]. capacity: the most slots of a layer."""
        batch, query_heads, dim = query.shape
        heads = keys.shape[1]
        key = (batch, query_heads, heads, dim, query.dtype, query.device)  # layers may lie on several devices
        if key not in self._workspaces or self._workspaces[key].slots < capacity:
            self._workspaces[key] = Workspace(batch, query_heads, heads, capacity, dim, query.dtype, query.device)
        return self._workspaces[key]


class FusedSlots(Slots):
    """Attention and the scores from it take one pass over keys and values. Writing a token and freeing a slot take one
    kernel each.

    A step attends as `Slots` does if the layer has soft caps or sinks, which the kernels do not know.
    A step evicts as `Slots` does if it frees several slots, if it has gaps (`Move.gaps`), or if the layer has a sliding
    window.
    """

    def __init__(self, kept: Kept, capacity: int, whole: bool, storages: Storages) -> None:
        super().__init__(kept, capacity, whole)
        self._storages = storages

    def append(self, keys: Tensor, values: Tensor) -> None:
        self._last += 1
        if self._move.remembered:
            at = self._empty[..., 0]
        elif self._move.full:
            at = torch.full(self._empty.shape[:2], self._width - 1, device=keys.device)
        else:
            at = self.ordinals.argmin(-1)
        ordinal, position = self._last[..., 0, 0]
        decode.write(self._cached(), at, Token(keys[:, :, 0], values[:, :, 0], ordinal, position))
        if self._names:
            self._channels.scatter_(3, at.expand(len(self._names), -1, -1)[..., None], 0.0)

    def attend(self, query: Tensor, rule: Rule, scored: bool) -> tuple[Tensor, Tensor | None]:
        if not rule.plain:
            return super().attend(query, rule, scored)
        row = query[:, :, 0]
        found = decode.attend(
            row,
            self._cached(),
            rule.scaling,
            minimum=None if rule.sight.window is None else rule.sight.first(self.newest),
            scored=scored,
            workspace=self._storages.workspace(row, self.keys, self._keys.capacity),
        )
        received = None if found.received is None else found.received[:, :, None]
        return found.output[:, None], received

    def ahead(self, query: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> None:
        return None  # a kernel reads keys and values once for both products

    def evict(self, scores: Tensor | None) -> None:
        if self._move.most != 1 or self._move.gaps or self._window is not None:
            return super().evict(scores)
        worth = self.ordinals.float() if scores is None else scores.float()
        head, tail, surplus = self._control[..., 0, 0]
        decode.free(
            worth.contiguous(),
            self.ordinals,
            Eligible(head, tail, surplus, self._last[0, :, 0, 0]),
            positions=self.positions,
            empties=True,
            out=self._empty[..., 0],
        )
        return None

    def _cached(self) -> Cached:
        ordinals, positions = self._marks[..., : self._width]
        return Cached(self.keys, self.values, ordinals, positions)
