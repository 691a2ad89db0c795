"""The cache that transformers sees: it asks the policies, and does to its storage what they decide.

One cache for one batch of samples: made for it, dropped after it. Within a step the order is the paper's: append the
new pair, attend over everything stored, then evict.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import Cache, PretrainedConfig
from transformers.cache_utils import CacheLayerMixin

from scope.cache.slots import GROWTH, Slots, Storage, StorageFactory
from scope.decoding import DecodingStrategy, KeepAll
from scope.errors import ScopeError
from scope.plan import Plan, View
from scope.prefill import Full, PrefillMethod
from scope.scores import Attention


@dataclass
class Prompts:
    """What the layers of one cache share: how long each row's prompt is, known once the first layer has seen it."""

    lengths: list[int] = field(default_factory=list)
    positions: Tensor | None = None  # [B, P] int32, -1 = padding

    def settle(self, padding: Tensor | None, keys: Tensor) -> None:
        """padding [B, P] bool: True where a real token is; None = everywhere. Prompts are padded on the left."""
        batch, _, longest, _ = keys.shape
        if padding is None:
            self.lengths = [longest] * batch
        else:
            self.lengths = padding.sum(-1).tolist()
        first = longest - torch.tensor(self.lengths, dtype=torch.int32, device=keys.device)
        column = torch.arange(longest, dtype=torch.int32, device=keys.device)
        self.positions = (column - first[:, None]).clamp(min=-1)


class CompressedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # transformers' __init_subclass__
    """One layer: holds the prompt until its attention has run, then storage with what the prefill method left."""

    is_compileable = False  # generate() would compile the forward on its own otherwise
    is_croppable = False
    is_sliding = False

    def __init__(
        self,
        index: int,
        layers: int,
        prefill: PrefillMethod,
        decode: DecodingStrategy,
        prompts: Prompts,
        storage: StorageFactory,
        tokens: int | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.index, self.layers = index, layers
        self.prefill, self.decode = prefill, decode
        self.prompts = prompts
        self.make_storage, self.tokens = storage, tokens
        self.storage: Storage | None = None
        self.seen = 0  # tokens of the longest row, padding included: transformers makes positions from it
        self.step = -1  # t of the step under way
        self.views: list[View] = []  # per row, as the prefill left it
        self.history: list[list[int]] = []  # slots stored per row after the prefill and after each step
        self.peak: list[list[int]] = []  # the most slots stored so far, per row, at the same times

    # transformers' interface

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store [B, H, n, D]: the whole prompt at once, then token by token. What comes back is to be attended to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.storage is None:
            if self.seen:
                raise ScopeError(
                    "the prompt must come in one piece, through scope's attention: load the model with scope.models"
                )
            keys, values = key_states.view_as(key_states), value_states
        elif key_states.shape[2] > 1:
            raise ScopeError("a compressed cache takes one prompt; a second turn or chunk needs a new cache")
        else:
            self.step += 1
            positions = self.positions_of_step(self.step)
            self.storage.append(key_states, value_states, positions)
            keys, values = self.storage.keys, self.storage.values
        self.seen += key_states.shape[2]
        keys.scope_layer = self  # type: ignore[attr-defined]  # how the attention function finds us
        return keys, values

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        raise ScopeError("a compressed cache serves one batch; make a new one for the next")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        raise ScopeError("beam search cannot run on a compressed cache: rows would have to share what each has evicted")

    # what the attention function calls

    def positions_of_step(self, step: int) -> Tensor:
        """-> [B]: the position of the token that this step feeds."""
        assert self.prompts.positions is not None
        return self.prompts.positions[:, -1] + 1 + step

    def visible(self, sliding_window: int | None) -> Tensor | None:
        """-> [B, H, S] bool: the slots that hold something this step may look at; None = all of them."""
        assert self.storage is not None
        positions = self.storage.positions
        visible = positions >= 0 if min(self.storage.stored) < positions.shape[-1] else None
        if sliding_window is not None:
            near = positions > self.positions_of_step(self.step)[:, None, None] - sliding_window
            visible = near if visible is None else visible & near
        return visible

    def compress(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        padding: Tensor | None,
        scaling: float,
        sliding_window: int | None,
    ) -> None:
        """After the prompt's attention: keep what the prefill method says. Shapes as in `Attention`; padding [B, P]."""
        if self.prompts.positions is None:
            self.prompts.settle(padding, keys)
        assert self.prompts.positions is not None
        rows = self.prompts.positions
        by_head = rows[:, None].expand(-1, keys.shape[1], -1)
        attention = Attention(query, keys, values, by_head, rows, scaling, self.index, sliding_window)
        lengths = self.prompts.lengths
        asked = [View(self.index, self.layers, prompt=n, stored=n) for n in lengths]
        plans = [self.prefill.plan(view) for view in asked]
        scores = self.prefill.score(attention) if any(plan and plan.best for plan in plans) else None
        _, heads, longest, _ = keys.shape
        kept = [
            _kept(plan, n, longest - n, heads, None if scores is None else scores[b])
            for b, (plan, n) in enumerate(zip(plans, lengths, strict=True))
        ]
        stored = [len(index[0]) for index in kept]
        index = torch.zeros(len(lengths), heads, max(stored), dtype=torch.long, device=self.device)
        positions = torch.full_like(index, -1)
        for b, slots in enumerate(kept):
            slots = slots.to(self.device)
            index[b, :, : stored[b]] = slots
            positions[b, :, : stored[b]] = slots - (longest - lengths[b])
        self.views = [
            View(self.index, self.layers, n, stored=left, capacity=self.prefill.capacity(view), prefilled=left)
            for view, n, left in zip(asked, lengths, stored, strict=True)
        ]
        at = index[..., None]
        self.storage = self.make_storage(
            keys.gather(2, at.expand(-1, -1, -1, keys.shape[-1])),
            values.gather(2, at.expand(-1, -1, -1, values.shape[-1])),
            positions,
            stored,
            max(map(self._room, self.views)),
        )
        self._note(stored, stored)

    def evict(self, query: Tensor, probabilities: Tensor, scaling: float, sliding_window: int | None) -> None:
        """After a step's attention, query [B, Hq, 1, D] and its probabilities: keep what the decoding strategy says."""
        storage = self.storage
        assert storage is not None
        before = storage.stored
        plans = self._plans(before)
        if any(plans):
            scores = None
            if any(plan and plan.best for plan in plans):
                now = self.positions_of_step(self.step)[:, None]
                keys, values, positions = storage.keys, storage.values, storage.positions
                scores = self.decode.score(
                    Attention(query, keys, values, positions, now, scaling, self.index, sliding_window, probabilities)
                )
            storage.evict(plans, scores)
        self._note(storage.stored, before)

    def _plans(self, stored: Sequence[int]) -> list[Plan | None]:
        """Each row's plan; rows that are alike share one call."""
        made: dict[View, Plan | None] = {}
        plans = []
        for left, n in zip(self.views, stored, strict=True):
            view = View(left.layer, left.layers, left.prompt, n, left.capacity, left.prefilled, self.step)
            if view not in made:
                made[view] = self.decode.plan(view)
            plans.append(made[view])
        return plans

    def _room(self, view: View) -> int:
        """Slots to allocate for a row: what the strategy can ever need, or what the generation can."""
        most = self.decode.most(view)
        grown = None if self.tokens is None else view.prefilled + self.tokens
        bounds = [n for n in (most, grown) if n is not None]
        return min(bounds) if bounds else view.prefilled + GROWTH

    def _note(self, stored: Sequence[int], before: Sequence[int]) -> None:
        last = self.peak[-1] if self.peak else [0] * len(stored)
        self.history.append(list(stored))
        self.peak.append([max(pair) for pair in zip(last, before, strict=True)])


def _kept(plan: Plan | None, prompt: int, first: int, heads: int, scores: Tensor | None) -> Tensor:
    """-> [H, n] columns of the padded prompt that a row keeps, ascending; its tokens start at column `first`."""
    if plan is None:
        return torch.arange(first, first + prompt).expand(heads, -1)
    head = torch.arange(first, first + plan.head).expand(heads, -1)
    tail = torch.arange(first + prompt - plan.tail, first + prompt).expand(heads, -1)
    if scores is None or not plan.best:
        return torch.cat([head, tail], -1)
    start, stop = first + plan.head, first + prompt - plan.tail
    best = scores[:, start:stop].topk(plan.best, dim=-1).indices.sort(-1).values + start
    return torch.cat([head.to(best.device), best, tail.to(best.device)], -1)


class CompressedCache(Cache):
    """A transformers cache whose prompt is compressed by `prefill` and whose generation by `decode`.

        cache = CompressedCache(model.config, prefill=SnapKV(2048, 8), decode=Slide(512, 256))

    The model must run scope's attention (`scope.models.load` sees to it). `tokens` is the most that will be generated,
    where it is known: a strategy without a bound then gets its room at once instead of piece by piece.
    Raises ScopeError for what eviction cannot support: a second prompt, beam search, cropping.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        prefill: PrefillMethod | None = None,
        decode: DecodingStrategy | None = None,
        tokens: int | None = None,
        storage: StorageFactory = Slots,
    ) -> None:
        layers = config.get_text_config(decoder=True).num_hidden_layers
        self.prompts = Prompts()
        prefill, decode = prefill or Full(), decode or KeepAll()
        self._layers = [
            CompressedLayer(i, layers, prefill, decode, self.prompts, storage, tokens) for i in range(layers)
        ]
        super().__init__(layers=[*self._layers])

    def crop(self, max_length: int) -> None:
        raise ScopeError("a compressed cache cannot be rolled back (assisted decoding needs that)")

    def require_prompt(self) -> None:
        """Raises ScopeError where a prompt went by without being compressed: the model runs another attention."""
        if any(layer.seen and layer.storage is None for layer in self._layers):
            raise ScopeError("the model does not run scope's attention: load it with scope.models")

    def positions(self, layer: int) -> Tensor:
        """-> [B, H, S] int32: the position of the token in each slot, -1 = empty."""
        return self._storage(layer).positions

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, as allocated, in all layers."""
        return sum(self._storage(i).nbytes for i in range(len(self._layers)))

    def slots(self, row: int, steps: int) -> list[int]:
        """Slots stored in each layer for that row, `steps` decode steps after the prefill."""
        return [layer.history[steps][row] for layer in self._layers]

    def peak_slots(self, row: int, steps: int) -> list[int]:
        """The most slots that row needed at once in each layer, up to `steps` decode steps after the prefill."""
        return [layer.peak[steps][row] for layer in self._layers]

    def slot_bytes(self, layer: int) -> int:
        """Bytes of one token's keys and values in one layer, all heads."""
        storage = self._storage(layer)
        return sum(x.shape[1] * x.shape[3] * x.element_size() for x in (storage.keys, storage.values))

    def _storage(self, layer: int) -> Storage:
        storage = self._layers[layer].storage
        if storage is None:
            raise ScopeError("the cache is empty: no prompt has gone through it yet")
        return storage
