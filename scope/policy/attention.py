"""What scores look at: one layer's attention, its masks, and parts of it.

Shapes: B batch, Hq query heads, H key/value heads, G = Hq / H that share one, Q queries, S slots, D head dim.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

ROWS_BYTES = 2**21  # of logits in a decode step, on a CPU
LEAST = torch.finfo(torch.float32).min  # the logit of a masked slot; unlike with -inf, a fully masked row gives no NaN


@dataclass(frozen=True)
class LayerInputs:
    """What a layer's attention was given: only for a prefill method that declares the need (`layer_inputs`)."""

    module: nn.Module  # the layer's attention
    hidden_states: Tensor  # [B, P, E]
    position_embeddings: tuple[Tensor, Tensor]  # cosine and sine, [B or 1, P, D]


@dataclass(frozen=True)
class Attention:
    """What a score may look at: one layer's attention, over the whole prompt or in one decode step.

    A decode step has one query, Q = 1, or the last Q of them, in no order, for a strategy that asks for more.
    """

    queries: Tensor  # [B, Hq, Q, D], rotated
    keys: Tensor  # [B, H, S, D], rotated
    values: Tensor  # [B, H, S, D]
    positions: Tensor  # [B, H, S] int: the slot's token, -1 = empty or padding
    query_positions: Tensor  # [B, Q] int, -1 = padding or none yet
    scaling: float
    layer: int
    sliding_window: int | None = None  # where the model itself looks back only so far
    probabilities: Tensor | None = None  # [B, H, G, S], or [B, H, 1, S] of a group's mean: a decode step's own
    channels: Mapping[str, Tensor] = field(default_factory=dict)  # [B, H, S] float32: what the strategy noted of a slot
    prompt: Tensor | None = None  # [B] int, in a decode step: tokens of the row's prompt; what was decoded comes after
    front: int = 0  # in a decode step: the first so many slots hold, in every row, what is protected
    alike: bool = False  # all heads hold the same tokens, in the same slots
    inputs: LayerInputs | None = None

    @property
    def now(self) -> Tensor:
        """[B, 1, 1]: the position of the newest query."""
        return self.query_positions.amax(-1)[:, None, None]

    @property
    def decoding(self) -> bool:
        """Whether this is a decode step, whose slots lie in any order, and not a prompt, with a query for each slot."""
        return self.prompt is not None

    def of_rows(self, rows: slice) -> "Attention":
        """A decode step's, of these rows alone."""
        assert self.prompt is not None
        return replace(
            self,
            queries=self.queries[rows],
            keys=self.keys[rows],
            values=self.values[rows],
            positions=self.positions[rows],
            query_positions=self.query_positions[rows],
            probabilities=None if self.probabilities is None else self.probabilities[rows],
            channels={name: marks[rows] for name, marks in self.channels.items()},
            prompt=self.prompt[rows],
        )


def by_rows(score: Callable[[Attention], Tensor], attention: Attention) -> Tensor:
    """-> score(attention) [B, H, S] of a decode step, so many rows at a time as fit into the processor's cache.

    It is for many queries, whose logits for all rows would go through memory at each operation, and be fresh memory.
    """
    batch, heads, queries, _ = attention.queries.shape
    together = max(1, ROWS_BYTES // (4 * heads * queries * attention.keys.shape[2]))
    if together >= batch or attention.keys.is_cuda or torch.compiler.is_compiling():
        return score(attention)
    return torch.cat([score(attention.of_rows(slice(row, row + together))) for row in range(0, batch, together)])


def latest(attention: Attention, count: int) -> Attention:
    """The same with its last `count` queries only."""
    return replace(
        attention,
        queries=attention.queries[:, :, -count:],
        query_positions=attention.query_positions[:, -count:],
        probabilities=None,
    )


def beyond(attention: Attention) -> Attention:
    """The same keys, values and positions without the slots at the front that are protected in every row."""
    front = attention.front
    return replace(
        attention,
        keys=attention.keys[:, :, front:],
        values=attention.values[:, :, front:],
        positions=attention.positions[..., front:],
    )


def prompt_of(attention: Attention, row: int, padding: int) -> Attention:
    """One prompt of the batch, without what it was padded with on its left."""
    return replace(
        attention,
        queries=attention.queries[row : row + 1, :, padding:],
        keys=attention.keys[row : row + 1, :, padding:],
        values=attention.values[row : row + 1, :, padding:],
        positions=attention.positions[row : row + 1, :, padding:],
        query_positions=attention.query_positions[row : row + 1, padding:],
    )


def scaled_products(queries: Tensor, keys: Tensor, scaling: float, out: Tensor | None = None) -> Tensor:
    """queries [..., Q, D] and keys [..., S, D] -> logits [..., Q, S], float32 or wider; `out`: for the products.

    The scaling goes onto the queries; of narrower ones only its power of two, which rounds nothing: float16 holds no
    product above 65504.
    """
    if queries.dtype in (torch.float32, torch.float64):
        return torch.matmul(queries * scaling, keys.transpose(-1, -2), out=out)
    rest, power = math.frexp(scaling)
    return torch.matmul(queries * 2.0**power, keys.transpose(-1, -2), out=out).float().mul_(rest)


def visible(
    attention: Attention, asking: slice, causal_within: int | None = None, looked_at: slice = slice(None)
) -> Tensor:
    """-> [B, H or 1, Q, S] bool: which of these slots these queries may look at."""
    queries = attention.query_positions[:, None, asking, None]
    heads = None if attention.decoding else 1  # a prompt lies alike in all heads
    slots = attention.positions[:, :heads, None, looked_at]
    seen = slots <= queries
    if causal_within is not None:
        last = attention.query_positions[:, -1, None, None, None]
        seen = seen | (queries <= last - causal_within)
    if attention.sliding_window is not None:
        seen = seen & (slots > queries - attention.sliding_window)
    return seen & (slots >= 0)
