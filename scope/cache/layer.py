"""One layer of the cache: asks the policies, and does to its storage what they decide.

Within a step the order is the paper's: append the new pair, attend over everything stored, then evict.
"""

import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.cache_utils import CacheLayerMixin

from scope.cache.account import Account
from scope.cache.ahead import steps_together
from scope.cache.inputs import taken
from scope.cache.masks import real_tokens, require_causal, require_consecutive, with_answer
from scope.cache.policy import Policy
from scope.cache.ring import Ring
from scope.cache.sizes import after_prefill, most_slots, reached, slot_bytes, slot_bytes_of
from scope.cache.slots import GROWTH, Kept, Layout, Slots, Storage
from scope.policy.attention import Attention, by_rows
from scope.policy.plan import Plan, View
from scope.util.errors import ScopeError

USED = (
    "this compressed cache has had its one prompt: make a new cache for the next prompt, shorter or longer; "
    "chunks and use_cache=False cannot be had with it"
)
COARSE = 64  # slots by which the protected front is told


@dataclass
class Rows:
    """What the layers of one cache share: each row's prompt, known once the first layer has seen it."""

    config: PretrainedConfig
    windows: tuple[int | None, ...]  # of each layer
    lengths: list[int] = field(default_factory=list)
    positions: Tensor | None = None  # [B, P] int32 of the prompts, -1 = padding
    left: dict[int, list[View]] = field(default_factory=dict)  # by prompt length: each layer's view after the prefill
    columns: int | None = None  # P where the prompts come in chunks; None: they come in one piece
    forced: int = 0  # tokens of a known continuation that come at once with the next call; 0: none
    told: Callable[[], None] | None = None  # called after each layer that has taken its steps over them
    filled: int = 0  # layers whose prompts have been through
    _admitted: list[tuple[weakref.ref[Tensor], int | None]] = field(default_factory=list)  # masks, and for which window

    def settle(self, real: Tensor | None, batch: int, columns: int, device: torch.device) -> None:
        """real [B, P] bool: True where a token is; None = everywhere. Prompts are padded on the left."""
        if real is None:
            self.lengths = [columns] * batch
        else:
            self.lengths = real.sum(-1).tolist()
        first = columns - torch.tensor(self.lengths, dtype=torch.int32, device=device)
        column = torch.arange(columns, dtype=torch.int32, device=device)
        self.positions = (column - first[:, None]).clamp(min=-1)

    def admit(self, mask: Tensor | None, positions: Tensor | None, query: Tensor, keys: Tensor, layer: int) -> None:
        """See that the mask of a prompt, or of a piece of it, is one that the steps will go on with.

        query [B, Hq, n, D], keys [B, H, S, D]: the last n of S columns are new. Waits for the device, once for each
        mask. Raises ScopeError where it is another.
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
        """The same of a step's mask, where the caller gives one. An engine gives none, and nothing waits.

        steps: each row's t. Raises ScopeError where it says anything else than that the prompt's tokens, and all after
        them, are seen.
        """
        if self._known(mask, self.windows[layer]):
            return
        lengths = [length + step + 1 for length, step in zip(self.lengths, steps, strict=True)]
        require_causal(mask, with_answer(lengths, seen, mask.device), 1, self.windows[layer])

    def replace(self, rows: Sequence[int], other: "Rows") -> None:
        for row, length in zip(rows, other.lengths, strict=True):
            self.lengths[row] = length

    def _known(self, mask: Tensor, window: int | None) -> bool:
        """Whether another layer was given this very mask; if not, remember it."""
        window = None if mask.ndim == 2 else window
        self._admitted = [(seen, size) for seen, size in self._admitted if seen() is not None]
        if any(seen() is mask and size == window for seen, size in self._admitted):
            return True
        self._admitted.append((weakref.ref(mask), window))
        return False


class _Chunks:
    """A prompt that comes in pieces: what its attention needs of it until the last has come, and the policies then."""

    def __init__(self, columns: int, recent: int | None) -> None:
        """recent: how many of the last queries are looked at; None: all."""
        self._columns = columns
        self._unseen = 0 if recent is None else max(0, columns - recent)
        self._whole: dict[str, Tensor] = {}
        self._queries: Tensor | None = None

    def add(self, name: str, states: Tensor, at: int) -> Tensor:
        """Put [B, H, n, D] at columns `at`.. -> [B, H, at + n, D], all of them so far."""
        batch, heads, n, dim = states.shape
        if name not in self._whole:
            self._whole[name] = states.new_empty(batch, heads, self._columns, dim)
        self._whole[name][:, :, at : at + n] = states
        return self._whole[name][:, :, : at + n]

    def add_queries(self, states: Tensor, at: int) -> Tensor | None:
        """The same of queries -> after the last of them all columns, 0 where nobody looks at them."""
        batch, heads, n, dim = states.shape
        if self._queries is None:
            self._queries = states.new_empty(batch, heads, self._columns - self._unseen, dim)
        skipped = max(0, self._unseen - at)
        if skipped < n:
            self._queries[:, :, at + skipped - self._unseen : at + n - self._unseen] = states[:, :, skipped:]
        return None if at + n < self._columns else F.pad(self._queries, (0, 0, self._unseen, 0))


class CompressedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # transformers' __init_subclass__
    """One layer: holds the prompt until its attention has run, then storage with what the prefill method left."""

    is_compileable = False  # generate() would compile the forward on its own otherwise
    is_croppable = False
    is_sliding = False

    def __init__(
        self,
        index: int,
        policy: Policy,
        rows: Rows,
        layout: Layout,
        watch: Callable[[Attention], None] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.index, self.layers = index, rows.config.num_hidden_layers
        self.policy, self.prefill, self.decoding = policy, policy.prefill, policy.decoding
        self.rows = rows
        self.layout = layout
        self.watch = watch
        self.window = rows.windows[index]
        self.copies = 1  # of each key/value head that are stored
        self.storage: Storage | None = None
        self.prompt: Tensor | None = None  # [B] int32: tokens of each row's
        self.recent_queries: Ring | None = None  # where the strategy wants more than this step's
        self.seen = 0  # tokens of the longest row, padding included: transformers makes positions from it
        self._chunks: _Chunks | None = None
        self.views: list[View] = []  # per row, as the prefill left it
        self.accounts: list[Account] = []  # per row
        self.steps: list[int] = []  # t of the step under way, per row
        self._begun = False  # the coming step has been settled already
        self._scored = False  # the step under way evicts by score
        self._front = 0  # slots at the front that it protects in every row, where the strategy asks for it
        self._alike = False  # all heads hold the same tokens in the same slots, and the strategy keeps it so

    # transformers' interface

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store [B, H, n, D]: the prompt, at once or in chunks, then token by token. -> what is to be attended to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.storage is None:
            if self.rows.columns is not None:
                recent = None if self.watch else self.policy.recent_queries
                self._chunks = self._chunks or _Chunks(self.rows.columns, recent)
                keys = self._chunks.add("keys", key_states, self.seen)
                values = self._chunks.add("values", value_states, self.seen)
            elif self.seen:
                raise ScopeError(
                    "the prompt must come in one piece, through scope's attention: make the cache from model.config"
                )
            else:
                # A tensor of our own: the attribute below must not stay on a tensor of the model's.
                keys, values = key_states.view_as(key_states), value_states
        elif key_states.shape[2] != (self.rows.forced or 1):
            raise ScopeError(USED)
        elif self.rows.forced:  # the attention function, which has the queries, takes the steps
            keys, values = key_states.view_as(key_states), value_states
        else:
            if not self._begun:
                self.begin()
            self._begun = False
            self.storage.append(self._copied(key_states), self._copied(value_states))
            keys, values = self.storage.keys, self.storage.values
        self.seen += key_states.shape[2]
        keys.scope_layer = self  # type: ignore[attr-defined]  # how the attention function finds us
        return keys, values

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The prompt's; of decode steps none, since the storage knows which slots are empty.

        Raises ScopeError for what is no step, before a model fails at it.
        """
        if self.storage is not None and query_length != (self.rows.forced or 1):
            raise ScopeError(USED)
        return (self.seen + query_length if self.storage is None else 0), 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        raise ScopeError("a compressed cache serves one batch; make a new one for the next")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        raise ScopeError("beam search cannot run on a compressed cache: rows would have to share what each has evicted")

    # what an engine calls, and a step that no engine has begun

    def begin(self) -> Hashable:
        """Settle on the host what the coming step does. -> see CompressedCache.begin."""
        storage = self.storage
        assert storage is not None
        if self.rows.filled < self.layers:
            made, ran = self.layers, self.rows.filled
            raise ScopeError(f"the cache was made for a model of {made} layers, and this one has {ran}")
        self.steps = [t + 1 for t in self.steps]
        held = [n + 1 for n in storage.stored]
        plans = self._plans(held)
        self._scored = any(plan and plan.best and n > plan.slots for plan, n in zip(plans, held, strict=True))
        fronts, self._front = [plan.head for plan in plans if plan], 0
        if (
            fronts and self.decoding.skips_protected and self.window is None
        ):  # out of a window, the protected go as well
            front = min(fronts + [view.kept for view in self.views])
            self._front = front - front % COARSE  # other prompts come and go, and steps are recorded by it
        move = storage.begin(plans)
        for account, had, left in zip(self.accounts, held, storage.stored, strict=True):
            account.step(had - left)
        self._begun = True
        return None if move is None else (self._scored, self._front, self._alike, move)

    # what the attention function calls

    def admit(
        self,
        query: Tensor,
        keys: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        sliding_window: int | None,
    ) -> None:
        """Before the prompt's attention. Shapes as in `Attention`; mask as the model gives it to its backend, positions
        [B or 1, P]. Raises ScopeError for a mask, positions or a window that the steps could not go on with.
        """
        if sliding_window != self.window:
            told = f"layer {self.index} has a window of {sliding_window} and by the configuration {self.window}"
            raise ScopeError(f"the cache was not made from this model's configuration: {told}")
        self.rows.admit(mask, positions, query, keys, self.index)

    def compress(
        self,
        module: nn.Module,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scaling: float,
        sliding_window: int | None,
    ) -> None:
        """After the prompt's attention: keep what the prefill method says. Shapes as in `Attention`.

        In a layer with a window it chooses among the tokens that the next one sees, and has no say where it would keep
        more. Of a prompt in chunks, only after the last one; the method is shown the queries that it asks for.
        """
        if self._chunks is not None:
            queries = self._chunks.add_queries(query, self.seen - query.shape[2])
            if queries is None:
                return
            query, self._chunks = queries, None
        attention = self._prompt_attention(module, query, keys, values, scaling, sliding_window)
        if self.watch:
            self.watch(attention)
        self.views = self._views_after(attention)
        slots, positions, stored = self._places(attention, self._chosen(attention))
        self._store(attention, slots, positions, stored)
        if self.decoding.queries > 1:
            self.recent_queries = Ring(query, attention.query_positions, self.decoding.queries)
        self.prompt = attention.query_positions[:, -1] + 1
        self._alike = self.decoding.heads_agree and bool((positions == positions[:, :1]).all())
        self.accounts = [Account(n) for n in stored]
        self.steps = [-1] * len(stored)
        self.rows.filled += 1

    def _prompt_attention(
        self, module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, scaling: float, window: int | None
    ) -> Attention:
        """What the policies see of the prompt; keys and values for every head that is stored."""
        positions = self.rows.positions
        assert positions is not None
        if self.policy.granularity == "query_head":
            self.copies = query.shape[1] // keys.shape[1]
            keys, values = self._copied(keys), self._copied(values)
        columns = positions.to(keys.device)  # layers may lie on several
        by_head = columns[:, None].expand(-1, keys.shape[1], -1)
        attention = Attention(query, keys, values, by_head, columns, scaling, self.index, window)
        return replace(attention, inputs=taken(module))

    def _views_after(self, attention: Attention) -> list[View]:
        """Each row's view of this layer after the prefill. It is computed once for a length and all layers."""
        rows = self.rows
        if any(n not in rows.left for n in rows.lengths):
            bounded = self.policy.max_bytes is not None
            bytes_of = self._slot_bytes(attention.keys, attention.values) if bounded else ()
            for n in set(rows.lengths):
                rows.left[n] = after_prefill(self.policy, n, rows.windows, bytes_of)
        return [rows.left[n][self.index] for n in rows.lengths]

    def _chosen(self, attention: Attention) -> list[Tensor]:
        """-> for each row [H, n]: the columns of the padded prompt that it keeps, as they will lie."""
        plans = [self.prefill.plan(view) for view in self.views]
        near = [reached(n, self.window) for n in self.rows.lengths]
        plans = [plan if plan and plan.slots <= n else None for plan, n in zip(plans, near, strict=True)]
        scores = self.prefill.score(attention) if any(plan and plan.best for plan in plans) else None
        _, heads, longest, _ = attention.keys.shape
        return [
            _kept(plan, n, longest - n, heads, None if scores is None else scores[b])
            for b, (plan, n) in enumerate(zip(plans, near, strict=True))
        ]

    def _places(self, attention: Attention, chosen: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[int]]:
        """The chosen columns as one tensor [B, H, n], the positions of their tokens [B, H, n], -1 = none, and how many
        each row has."""
        _, heads, longest, _ = attention.keys.shape
        stored = [columns.shape[1] for columns in chosen]
        slots = torch.zeros(len(chosen), heads, max(stored), dtype=torch.long, device=self.device)
        positions = torch.full_like(slots, -1)
        for b, (columns, n) in enumerate(zip(chosen, stored, strict=True)):
            columns = columns.to(self.device)
            slots[b, :, :n] = columns
            positions[b, :, :n] = columns - (longest - self.rows.lengths[b])
        return slots, positions, stored

    def _store(self, attention: Attention, slots: Tensor, positions: Tensor, stored: Sequence[int]) -> None:
        """Copy what stays into the storage; the rest of the prompt's keys and values can then be freed."""
        keys, values, at = attention.keys, attention.values, slots[..., None]
        kept = Kept(
            keys.gather(2, at.expand(-1, -1, -1, keys.shape[-1])),
            values.gather(2, at.expand(-1, -1, -1, values.shape[-1])),
            positions,
            tuple(stored),
            attention.query_positions[:, -1],
            {name: marks.gather(2, slots) for name, marks in self._observed(attention).items()},
            self.window,
        )
        make = self.layout.storage or Slots
        self.storage = make(kept, max(map(self._capacity, self.views)), self.layout.whole)

    def _observed(self, attention: Attention) -> Mapping[str, Tensor]:
        """The prompt's channels [B, H, P], as the strategy has them start."""
        if not self.decoding.channels:
            return {}
        none = attention.keys.new_zeros(attention.keys.shape[:3], dtype=torch.float32)
        return self.decoding.observe(replace(attention, channels=dict.fromkeys(self.decoding.channels, none)))

    def step(self, query: Tensor, scaling: float, sliding_window: int | None, mask: Tensor | None = None) -> Tensor:
        """A decode step's attention, query [B, Hq, 1, D] -> [B, 1, Hq, D]; then evict as the strategy says.

        mask: the caller's, [B, S] or [B, H, 1, S] over all tokens so far, where there is one: it may say nothing new.
        """
        storage = self.storage
        assert storage is not None
        if mask is not None:
            self.rows.admit_step(mask, self.seen, self.index, self.steps)
        output, probabilities = storage.attend(query, scaling, sliding_window, self._looked_at)
        self._settle(query, probabilities, scaling, sliding_window)
        return output

    def _settle(self, query: Tensor, probabilities: Tensor | None, scaling: float, sliding_window: int | None) -> None:
        """After a step's attention: note what the strategy remembers, and evict as it says."""
        storage = self.storage
        assert storage is not None
        queries, query_positions = query, storage.newest[:, None]
        if self.recent_queries is not None:
            self.recent_queries.add(query, storage.newest)
            queries, query_positions = self.recent_queries.queries, self.recent_queries.positions
        scores = None
        if self._looked_at:
            attention = Attention(
                queries,
                storage.keys,
                storage.values,
                storage.positions,
                query_positions,
                scaling,
                self.index,
                sliding_window,
                probabilities,
                storage.channels,
                self.prompt,
                self._front,
                self._alike,
            )
            if self.watch:
                self.watch(attention)
            if self.decoding.channels:
                storage.write(self.decoding.observe(attention))
                attention = replace(attention, channels=storage.channels)
            if self._scored:
                scores = by_rows(self.decoding.score, attention)
        storage.evict(scores)

    @property
    def _looked_at(self) -> bool:
        """Whether anyone looks at the attention of the step under way."""
        return self._scored or bool(self.decoding.channels) or self.watch is not None

    @property
    def forced(self) -> bool:
        """Whether what comes is a continuation that is known, all its tokens at once."""
        return bool(self.rows.forced)

    def take_steps(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float, sliding_window: int | None
    ) -> Tensor:
        """The decode steps of a known continuation of n tokens, one after the other, as if they had come one by one.

        query [B, Hq, n, D], keys, values [B, H, n, D] -> [B, n, Hq, D].
        """
        storage, rows = self.storage, self.rows
        assert storage is not None
        keys, values = self._copied(keys), self._copied(values)
        outputs = []
        together = steps_together(query, storage.keys.shape[2])
        for some in zip(*(torch.split(states, together, 2) for states in (query, keys, values)), strict=True):
            ahead = storage.ahead(some[0], some[1], some[2], scaling)
            for asked, key, value in zip(*(torch.split(states, 1, 2) for states in some), strict=True):
                self.begin()
                storage.append(key, value)
                if ahead is None:
                    outputs.append(self.step(asked, scaling, sliding_window))
                else:
                    self._settle(asked, storage.look(ahead, sliding_window), scaling, sliding_window)
            if ahead is not None:
                outputs.append(ahead.outputs())
        self._begun = False
        if rows.told:
            rows.told()
        if self.index == self.layers - 1:
            rows.forced, rows.told = 0, None
        return torch.cat(outputs, 1)

    def replace(self, rows: Sequence[int], other: "CompressedLayer") -> None:
        """These rows become those of another cache's layer, whose prompts have just been through."""
        assert self.storage is not None
        assert other.storage is not None
        self.storage.replace(rows, other.storage)
        assert self.prompt is not None
        assert other.prompt is not None
        self.prompt[list(rows)] = other.prompt
        self._alike = self._alike and other._alike
        if self.recent_queries is not None and other.recent_queries is not None:
            self.recent_queries.replace(rows, other.recent_queries)
        for source, row in enumerate(rows):
            self.views[row], self.accounts[row] = other.views[source], other.accounts[source]
            self.steps[row] = other.steps[source]

    def rest(self, rows: Sequence[int]) -> None:
        """These rows have ended for good: where nothing bounds what they would go on to store, they begin anew."""
        assert self.storage is not None
        self.storage.clear([row for row in rows if self.decoding.most(self.views[row]) is None])

    def _plans(self, stored: Sequence[int]) -> list[Plan | None]:
        """Each row's plan; rows that are alike share one call."""
        made: dict[tuple[View, int, int], Plan | None] = {}
        plans = []
        for key in zip(self.views, stored, self.steps, strict=True):
            if key not in made:
                view, n, step = key
                made[key] = self.decoding.plan(view.at(step, n))
            plans.append(made[key])
        return plans

    def _copied(self, states: Tensor) -> Tensor:
        """Keys or values [B, Hkv, n, D] for every head that is stored."""
        return states if self.copies == 1 else states.repeat_interleave(self.copies, 1)

    def _slot_bytes(self, keys: Tensor, values: Tensor) -> list[int]:
        """Of each layer: this one's, as stored, and the others in proportion to what the configuration says of them."""
        channels, numbers = len(self.decoding.channels), keys.shape[3] + values.shape[3]
        own = slot_bytes(keys.shape[1], numbers, keys.element_size(), channels)
        dtype = str(keys.dtype).partition(".")[2]
        told = [slot_bytes_of(self.rows.config, self.policy, dtype, i) for i in range(self.layers)]
        return [own * size // told[self.index] for size in told]

    def _capacity(self, view: View) -> int:
        """Slots to allocate for a row: what the strategy can ever need, or what the generation can."""
        most, tokens = self.decoding.most(view), self.layout.tokens
        grown = view.kept + (GROWTH if tokens is None else tokens)
        if tokens is None and most is not None:
            grown = most
        return most_slots(self.decoding, view, grown)


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
