"""One layer of the cache: asks the policies, and does to its storage what they decide.

Within a step the order is the paper's: append the new pair, attend over everything stored, then evict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from scope.cache.slots import GROWTH, Storage, StorageFactory
from scope.decoding import DecodingStrategy
from scope.errors import ScopeError
from scope.plan import Plan, View
from scope.prefill import PrefillMethod
from scope.scores import Attention


@dataclass
class Prompts:
    """What the layers of one cache share: how long each row's prompt is, known once the first layer has seen it."""

    lengths: list[int] = field(default_factory=list)
    positions: Tensor | None = None  # [B, P] int32, -1 = padding
    kept: list[list[int]] = field(default_factory=list)  # slots that the prefill left, per layer and row

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
        by_query_head: bool,
        watch: Callable[[Attention], None] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.index, self.layers = index, layers
        self.prefill, self.decode = prefill, decode
        self.prompts = prompts
        self.make_storage, self.tokens = storage, tokens
        self.by_query_head = by_query_head
        self.watch = watch
        self.copies = 1  # of each key/value head that are stored
        self.storage: Storage | None = None
        self.seen = 0  # tokens of the longest row, padding included: transformers makes positions from it
        self.step = -1  # t of the step under way
        self._alike: list[int] = []  # per row: the first row that is planned alike
        self.views: list[View] = []  # per row, as the prefill left it; complete once all layers have been through it
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
            self.storage.append(self._copied(key_states), self._copied(value_states), positions)
            keys, values = self.storage.keys, self.storage.values
        self.seen += key_states.shape[2]
        keys.scope_layer = self  # type: ignore[attr-defined]  # how the attention function finds us
        return keys, values

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (0 if self.seen else query_length), 0  # 0: a step's mask is made here, in `visible`

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
        return self.prompts.positions[:, -1].to(self.device) + 1 + step

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
        if self.by_query_head:
            self.copies = query.shape[1] // keys.shape[1]
            keys, values = self._copied(keys), self._copied(values)
        rows = self.prompts.positions.to(keys.device)  # layers may lie on several
        by_head = rows[:, None].expand(-1, keys.shape[1], -1)
        attention = Attention(query, keys, values, by_head, rows, scaling, self.index, sliding_window)
        if self.watch:
            self.watch(attention)
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
        self.prompts.kept.append(stored)
        self.views = [
            replace(view, budget=self.prefill.slots(view.prompt), capacity=self.prefill.capacity(view))
            for view in self._with_prefilled(asked)
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
        needed = any(plan and plan.best for plan in plans)
        scores = None
        if needed or self.watch:
            now = self.positions_of_step(self.step)[:, None]
            keys, values, positions = storage.keys, storage.values, storage.positions
            attention = Attention(
                query, keys, values, positions, now, scaling, self.index, sliding_window, probabilities
            )
            if self.watch:
                self.watch(attention)
            scores = self.decode.score(attention) if needed else None
        if any(plans):
            storage.evict(plans, scores)
        self._note(storage.stored, before)

    def _plans(self, stored: Sequence[int]) -> list[Plan | None]:
        """Each row's plan; rows that are alike share one call."""
        if self.step == 0:
            self.views = self._with_prefilled(self.views)
            distinct = list(dict.fromkeys(self.views))
            self._alike = [distinct.index(view) for view in self.views]
        made: dict[int, Plan | None] = {}
        for kind, view, n in zip(self._alike, self.views, stored, strict=True):
            if kind not in made:
                made[kind] = self.decode.plan(replace(view, stored=n, step=self.step))
        return [made[kind] for kind in self._alike]

    def _with_prefilled(self, views: Sequence[View]) -> list[View]:
        """The rows' views with what the prefill left in each layer that has been through it."""
        return [
            replace(view, prefilled=left)
            for view, left in zip(views, zip(*self.prompts.kept, strict=True), strict=True)
        ]

    def _copied(self, states: Tensor) -> Tensor:
        """Keys or values [B, Hkv, n, D] for every head that is stored."""
        return states if self.copies == 1 else states.repeat_interleave(self.copies, 1)

    def _room(self, view: View) -> int:
        """Slots to allocate for a row: what the strategy can ever need, or what the generation can."""
        most = self.decode.most(view)
        grown = None if self.tokens is None else view.kept + self.tokens
        bounds = [n for n in (most, grown) if n is not None]
        return min(bounds) if bounds else view.kept + GROWTH

    def _note(self, stored: Sequence[int], before: Sequence[int]) -> None:
        last = self.peak[-1] if self.peak else [0] * len(stored)
        self.history.append(list(stored))
        self.peak.append([max(pair) for pair in zip(last, before, strict=True)])


def _kept(plan: Plan | None, prompt: int, first: int, heads: int, scores: Tensor | None) -> Tensor:
    """-> [H, n] columns of the padded prompt that a row keeps, as they will lie; its tokens start at `first`."""
    if plan is None:
        return torch.arange(first, first + prompt).expand(heads, -1)
    head = torch.arange(first, first + plan.head).expand(heads, -1)
    tail = torch.arange(first + prompt - plan.tail, first + prompt).expand(heads, -1)
    if scores is None or not plan.best:
        return torch.cat([head, tail], -1)
    start, stop = first + plan.head, first + prompt - plan.tail
    best = scores[:, start:stop].topk(plan.best, dim=-1).indices + start  # highest first
    if not plan.ranked:
        best = best.sort(-1).values
    return torch.cat([head.to(best.device), best, tail.to(best.device)], -1)
