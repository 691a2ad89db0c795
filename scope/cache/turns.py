"""Later turns: tokens of which several come at once after the prompt, when something has been generated.

With `turns=protect` they are prompt. Each query of the turn sees what is stored, and the turn's tokens up to its own.
Then the prefill method chooses among them, as if they were a prompt of their own. With `turns=flow` they are generated
tokens: append, attend, evict, one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from scope.cache.masks import CURE, require_consecutive
from scope.cache.storage import Storage
from scope.policy.attention import Attention, LayerInputs, visible
from scope.policy.plan import View
from scope.policy.scores import probabilities
from scope.util.errors import ScopeError

OTHER = "for another prompt make a new cache"
TOGETHER = 256  # queries whose mask exists at a time


@dataclass(frozen=True)
class Turn:
    """The tokens of a turn in n columns. The caller may have padding anywhere but in a row's last column.

    `aligned` puts it on the left. transformers' generate feeds the last token that it wrote, and behind it a turn that
    is padded on the left.
    """

    real: Tensor  # [B, n] bool: True for a token, in the caller's columns
    positions: Tensor  # [B, n] int32: of the tokens when they are aligned, -1 = padding
    order: Tensor | None  # [B, n]: the caller's column of each aligned one; None: they are aligned already
    lengths: tuple[int, ...]  # tokens of each row
    begins: tuple[int, ...]  # the position of each row's first token

    def aligned(self, states: Tensor, dim: int) -> Tensor:
        """States with columns in `dim`, with each row's padding on the left."""
        return states if self.order is None else states.gather(dim, self._index(states, dim))

    def given(self, states: Tensor, dim: int) -> Tensor:
        """Aligned states in the order of the caller's columns."""
        if self.order is None:
            return states
        return torch.empty_like(states).scatter_(dim, self._index(states, dim), states)

    def _index(self, states: Tensor, dim: int) -> Tensor:
        assert self.order is not None
        shape = [1] * states.ndim
        shape[0], shape[dim] = self.order.shape
        return self.order.view(shape).expand(states.shape).to(states.device)

    @property
    def spans(self) -> Tensor:
        """[B, 1, 2] int32: the positions of each row's first token, and that behind its last."""
        first = torch.tensor(self.begins, dtype=torch.int32, device=self.positions.device)
        return torch.stack([first, self.positions[:, -1] + 1], -1)[:, None]


def admitted(
    mask: Tensor | None, positions: Tensor | None, before: Tensor, begins: Sequence[int], columns: int
) -> Turn:
    """A turn of so many columns, from what the caller says of it.

    mask: [B, S + n], over all columns so far; None: no padding. positions [B or 1, n]. before [B, S] bool: the columns
    that came earlier, True for a token. begins: tokens of each row so far.
    Raises ScopeError for a mask that hides what came before, for a row that ends with padding, and for positions that
    do not go on where the row was.
    """
    batch, seen = before.shape
    real = torch.ones(batch, columns, dtype=torch.bool, device=before.device)
    if mask is not None:
        if tuple(mask.shape) != (batch, seen + columns):
            shape, wanted = " x ".join(map(str, mask.shape)), f"{batch} x {seen + columns}"
            raise ScopeError(
                f"attention_mask: its shape is {shape}, and must be {wanted}, of all tokens so far: {OTHER}"
            )
        if not torch.equal(mask[:, :seen].bool(), before):
            raise ScopeError("attention_mask: it must stay as it was, with a 1 for each token that came after")
        real = mask[:, seen:].bool()
    for row, ends in enumerate(real[:, -1].tolist()):
        if not ends:
            raise ScopeError(f"attention_mask: row {row} of this turn ends with padding: {CURE}")
    lengths = real.sum(-1)
    first = torch.tensor(begins, device=before.device)
    column = torch.arange(columns, device=before.device) - (columns - lengths)[:, None]
    places = torch.where(column < 0, -1, first[:, None] + column).int()
    order = real.byte().argsort(dim=-1, stable=True) if bool((real != (places >= 0)).any()) else None
    require_consecutive(positions, real)
    if positions is not None and positions.ndim == 2 and not bool((positions[:, -1].to(places) == places[:, -1]).all()):
        told, own = positions[:, -1].tolist(), places[:, -1].tolist()
        raise ScopeError(
            f"position_ids: this turn ends at {told}, and must end at {own}, by the tokens so far: {OTHER}"
        )
    return Turn(real, places, order, tuple(lengths.tolist()), tuple(begins))


def attended(turn: Attention) -> Tensor:
    """The attention of a turn's queries over what is stored and over the turn -> [B, n, Hq, D]. 0 for padding."""
    group = turn.queries.shape[1] // turn.keys.shape[1]
    values, queries = turn.values.repeat_interleave(group, 1), turn.queries.shape[2]
    parts = [slice(start, min(start + TOGETHER, queries)) for start in range(0, queries, TOGETHER)]
    if turn.rule.plain:
        keys = turn.keys.repeat_interleave(group, 1)
        outputs = [_plainly(turn, some, keys, values) for some in parts]
    else:
        weights = (probabilities(turn, some.start, some.stop).nan_to_num_(0.0) for some in parts)
        outputs = [of_part.to(values.dtype) @ values for of_part in weights]
    return torch.cat(outputs, 2).transpose(1, 2)


def _plainly(turn: Attention, some: slice, keys: Tensor, values: Tensor) -> Tensor:
    """The attention of some of the queries, without soft caps and sinks, by torch's own kernel -> [B, Hq, Q, D].

    keys, values [B, Hq, S, D].
    """
    seen = visible(turn, some).repeat_interleave(keys.shape[1] // turn.keys.shape[1], 1)
    asks = (turn.query_positions[:, some] >= 0)[:, None, :, None]
    queries = turn.queries[:, :, some]
    found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen | ~asks, scale=turn.scaling)
    return found * asks


def aligned_inputs(inputs: LayerInputs | None, turn: Turn) -> LayerInputs | None:
    """The inputs of a layer's attention, with each row's padding on the left; None: none were recorded."""
    if inputs is None or turn.order is None:
        return inputs
    cos, sin = (part.expand(len(turn.order), -1, -1) for part in inputs.position_embeddings)
    hidden = turn.aligned(inputs.hidden_states, 1)
    return replace(inputs, hidden_states=hidden, position_embeddings=(turn.aligned(cos, 1), turn.aligned(sin, 1)))


def beside(turn: Attention, storage: Storage) -> Attention:
    """The attention of a turn with the slots that are stored before its own. turn: as of a prompt of its own."""
    none = turn.keys.new_zeros(turn.keys.shape[:3], dtype=torch.float32)
    return replace(
        turn,
        keys=torch.cat([storage.keys, turn.keys], 2),
        values=torch.cat([storage.values, turn.values], 2),
        positions=torch.cat([storage.positions, turn.positions], 2),
        channels={name: torch.cat([marks, none], -1) for name, marks in storage.channels.items()},
        inputs=None,
        stored=storage.positions.shape[2],
    )


def with_rows(own: Tensor | None, rows: Sequence[int], other: Tensor | None, batch: int) -> Tensor | None:
    """The spans [B, K, 2] of the turns of a batch, after rows were replaced; None: no row has later turns.

    A row with fewer turns has empty spans at the end. Where K stays, the tensor does.
    """
    some = next((spans for spans in (own, other) if spans is not None), None)
    if some is None:
        return None
    own = some.new_zeros(batch, 0, 2) if own is None else own
    other = some.new_zeros(len(rows), 0, 2) if other is None else other
    more = other.shape[1] - own.shape[1]
    if more > 0:
        own = F.pad(own, (0, 0, 0, more))
    own[list(rows)] = F.pad(other, (0, 0, 0, max(0, -more)))
    return own


def joined(before: View, turn: View) -> View:
    """The view of a row after a turn. turn: as of a prompt of its own. The clock and D go on.

    The prompt's part has grown by what the method left of the turn: C of a turn that is shorter is not used up.
    """
    left = turn.prefilled
    return replace(
        before,
        prompt=before.prompt + turn.prompt,
        budget=before.budget + min(turn.budget, turn.prompt),
        capacity=before.capacity + left[before.layer],
        prefilled=tuple(old + new for old, new in zip(before.prefilled, left, strict=True)),
    )
