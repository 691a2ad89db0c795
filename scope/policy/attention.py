"""What a score looks at: the attention of one layer, parts of it, and its mask.

Shapes: B batch, Hq query heads, H key/value heads, G = Hq / H that share one, Q queries, S slots, D head dim.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from scope.policy.rotary import Rotary
from scope.policy.rule import Rule

ROWS_BYTES = 2**21  # bytes of logits that are computed together in a decode step on a CPU
LEAST = torch.finfo(torch.float32).min  # the logit of a masked slot; unlike with -inf, a fully masked row gives no NaN


@dataclass(frozen=True)
class LayerInputs:
    """The inputs of a layer's attention. Only a prefill method with `layer_inputs = True` gets them."""

    module: nn.Module  # the attention module of the layer
    hidden_states: Tensor  # [B, P, E]
    position_embeddings: tuple[Tensor, Tensor]  # cosine and sine, [B or 1, P, D]


class Stored:
    """A field of `Attention`: a tensor [B, H, S, D], given as it is, or by a function that makes it at the first look.

    So a cache that stores its slots rounded makes keys or values only for a score that reads them.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, instance: object | None, owner: type) -> Tensor:
        if instance is None:
            raise AttributeError  # so the field has no default value
        found: Tensor | Callable[[], Tensor] = instance.__dict__[self._name]
        if not isinstance(found, Tensor):
            found = instance.__dict__[self._name] = found()
        return found

    def __set__(self, instance: object, given: Tensor | Callable[[], Tensor]) -> None:
        instance.__dict__[self._name] = given


@dataclass(frozen=True)
class Attention:
    """What a score looks at: the attention of one layer, over the whole prompt or in one decode step.

    Over a prompt, Q = S = P, and slots are in the order of the text. Over a later turn of Q tokens these come last, in
    their order, behind what was stored before. In a decode step slots are in no order, and Q = 1,
    or more for a strategy that asks for the last Q queries (`queries`), which are in no order either.
    H is the number of heads that are stored: key/value heads, or query heads with granularity `query_head`.
    """

    queries: Tensor  # [B, Hq, Q, D], rotated
    keys: Stored = Stored()  # [B, H, S, D], rotated
    values: Stored = Stored()  # [B, H, S, D]
    # mypy takes the two above for fields with a default, after which no field without one may come
    positions: Tensor  # type: ignore[misc]  # [B, H, S] int: of the token in each slot, from 0; -1 = empty or padding
    query_positions: Tensor  # type: ignore[misc]  # [B, Q] int, -1 = padding or none yet
    rule: Rule  # type: ignore[misc]  # how products of queries and keys become probabilities, and who sees what
    layer: int  # type: ignore[misc]  # from 0
    probabilities: Tensor | None = None  # decode step: [B, H, G, S] float32, or their mean over G [B, H, 1, S]
    channels: Mapping[str, Tensor] = field(default_factory=dict)  # [B, H, S] float32: what the strategy remembers
    prompt: Tensor | None = None  # decode step: [B] int, the length of each row's prompt; None over a prompt
    front: int = 0  # decode step: so many slots at the front are protected in every row
    alike: bool = False  # decode step: all heads hold the same tokens in the same slots
    leaving: Tensor | None = None  # decode step: [B] int, slots that each row's plan evicts; None: none by score
    summed: Tensor | None = None  # over a prompt that came in chunks: the votes of all queries, where only these count
    inputs: LayerInputs | None = None  # over a prompt, for a method with `layer_inputs = True`
    rotary: Rotary | None = None  # decode step: how queries and keys were rotated, for a strategy with `rotary = True`
    stored: int = 0  # over a later turn: so many slots come first that were stored before it, in no order
    turns: Tensor | None = None  # decode step: [B, K, 2] int, the first position of each later turn, and that behind it

    @property
    def scaling(self) -> float:
        """Logits are this times the products of queries and keys, but for a soft cap."""
        return self.rule.scaling

    @property
    def sliding_window(self) -> int | None:
        """Tokens that a query of this layer sees at the most; None: all."""
        return self.rule.sight.window

    @property
    def now(self) -> Tensor:
        """[B, 1, 1]: the position of the newest query."""
        return self.query_positions.amax(-1)[:, None, None]

    @property
    def decoding(self) -> bool:
        """Whether this is a decode step; else it is a whole prompt."""
        return self.prompt is not None

    @property
    def of_prompt(self) -> Tensor:
        """[B, H, S] bool, in a decode step: the slots of the prompt and of later turns, and the empty ones."""
        assert self.prompt is not None
        found = self.positions < self.prompt[:, None, None]
        if self.turns is None:
            return found
        first, behind = self.turns[:, None, None].unbind(-1)
        at = self.positions[..., None]
        return found | ((at >= first) & (at < behind)).any(-1)

    def of_rows(self, rows: slice) -> "Attention":
        """These rows of a decode step."""
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
            leaving=None if self.leaving is None else self.leaving[rows],
            turns=None if self.turns is None else self.turns[rows],
        )


def by_rows(score: Callable[[Attention], Tensor], attention: Attention) -> Tensor:
    """-> score(attention) [B, H, S] in a decode step, computed on a CPU for a few rows at a time.

    With many queries the logits of all rows do not fit into the processor's cache, and memory makes the score slow.
    """
    batch, heads, queries, _ = attention.queries.shape
    together = max(1, ROWS_BYTES // (4 * heads * queries * attention.positions.shape[2]))
    if together >= batch or attention.queries.is_cuda or torch.compiler.is_compiling():
        return score(attention)
    return torch.cat([score(attention.of_rows(slice(row, row + together))) for row in range(0, batch, together)])


def latest(attention: Attention, count: int) -> Attention:
    """The attention with only its last `count` queries, or all where there are no more."""
    queries, positions = attention.queries, attention.query_positions
    if not attention.decoding:
        queries, positions = queries[:, :, -count:], positions[:, -count:]
    elif count < positions.shape[1]:  # in no order
        positions, at = positions.topk(count, dim=-1)
        queries = queries.gather(2, at[:, None, :, None].expand(-1, queries.shape[1], -1, queries.shape[3]))
    return replace(attention, queries=queries, query_positions=positions, probabilities=None)


def beyond(attention: Attention) -> Attention:
    """The attention without the slots at the front that are protected in every row. Queries stay as they are."""
    front = attention.front
    return replace(
        attention,
        keys=attention.keys[:, :, front:],
        values=attention.values[:, :, front:],
        positions=attention.positions[..., front:],
    )


def prompt_of(attention: Attention, row: int, padding: int) -> Attention:
    """One prompt of the batch, or a chunk of one, without its `padding` columns on the left."""
    asking = max(0, padding - (attention.keys.shape[2] - attention.queries.shape[2]))
    return replace(
        attention,
        queries=attention.queries[row : row + 1, :, asking:],
        keys=attention.keys[row : row + 1, :, padding:],
        values=attention.values[row : row + 1, :, padding:],
        positions=attention.positions[row : row + 1, :, padding:],
        query_positions=attention.query_positions[row : row + 1, asking:],
    )


def scaled_products(queries: Tensor, keys: Tensor, scaling: float, out: Tensor | None = None) -> Tensor:
    """queries [..., Q, D] and keys [..., S, D] -> logits [..., Q, S], float32 or float64.

    out: memory for the products. The queries are scaled before the product, since float16 holds no number above 65504.
    In half precision they are scaled by a power of two only, which rounds nothing, and the logits by the rest.
    """
    if queries.dtype in (torch.float32, torch.float64):
        return torch.matmul(queries * scaling, keys.transpose(-1, -2), out=out)
    rest, power = math.frexp(scaling)
    return torch.matmul(queries * 2.0**power, keys.transpose(-1, -2), out=out).float().mul_(rest)


def visible(
    attention: Attention, asking: slice, causal_within: int | None = None, looked_at: slice = slice(None)
) -> Tensor:
    """-> [B, H or 1, Q, S] bool: which slots each query may see.

    asking: which of the queries. looked_at: which of the slots. causal_within=w: only the last w queries of a prompt
    are kept from looking ahead, as in the released code; None: all are.
    """
    queries = attention.query_positions[:, None, asking, None]
    heads = None if attention.decoding or attention.stored else 1  # a prompt lies alike in all heads
    slots = attention.positions[:, :heads, None, looked_at]
    seen = slots <= queries
    if causal_within is not None:
        last = attention.query_positions[:, -1, None, None, None]
        seen = seen | (queries <= last - causal_within)
    if attention.sliding_window is not None:
        seen = seen & (slots >= attention.rule.sight.first(queries))
    return seen & (slots >= 0)
