"""One layer of the cache: asks the policies, and does to its storage what they decide.

Within a step the order is the paper's: append the new pair, attend over everything stored, then evict.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin

from scope.cache.account import Account
from scope.cache.chunks import Chunks
from scope.cache.inputs import taken
from scope.cache.placing import gathered, kept_columns
from scope.cache.policy import Policy
from scope.cache.ring import Ring
from scope.cache.rows import Rows
from scope.cache.sizes import after_prefill, most_slots, reached, stored_slot_bytes
from scope.cache.slots import GROWTH, Kept, Layout, Slots, Storage
from scope.policy.attention import Attention, by_rows
from scope.policy.plan import Plan, View
from scope.util.errors import ScopeError

USED = (
    "this compressed cache has had its one prompt: make a new cache for the next prompt, shorter or longer; "
    "chunks and use_cache=False cannot be had with it"
)
COARSE = 64  # slots: the protected front is a multiple, so that few prompts differ in it, and few step keys


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
        self._chunks: Chunks | None = None
        self.views: list[View] = []  # per row, as the prefill left it
        self.accounts: list[Account] = []  # per row
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
                self._chunks = self._chunks or Chunks(self.rows.columns, recent)
                keys = self._chunks.add("keys", key_states, self.seen)
                values = self._chunks.add("values", value_states, self.seen)
            elif self.seen:
                raise ScopeError(
                    "the prompt must come in one piece, through scope's attention: make the cache from model.config"
                )
            else:
                # A tensor of our own: the attribute below must not stay on a tensor of the model's.
                keys, values = key_states.view_as(key_states), value_states
        elif key_states.shape[2] > 1:
            raise ScopeError(USED)
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
        """The prompt's; of a decode step none, since its storage knows which slots are empty.

        Raises ScopeError for what is no step, before a model fails at it.
        """
        if self.storage is not None and query_length != 1:
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
        if self.index == 0:  # the clock is shared: layer 0 comes first in a step and advances it for all layers
            if self.rows.filled < self.layers:
                made, ran = self.layers, self.rows.filled
                raise ScopeError(f"the cache was made for a model of {made} layers, and this one has {ran}")
            self.rows.steps = [t + 1 for t in self.rows.steps]
        held = [n + 1 for n in storage.stored]
        plans = self._plans(held)
        self._scored = any(plan and plan.best and n > plan.slots for plan, n in zip(plans, held, strict=True))
        self._front = self._protected_front(plans)
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
        kept = self._kept(attention)
        capacity = max(map(self._capacity, self.views))
        self.storage = (self.layout.storage or Slots)(kept, capacity, self.layout.whole)
        if self.decoding.queries > 1:
            self.recent_queries = Ring(query, attention.query_positions, self.decoding.queries)
        self.prompt = attention.query_positions[:, -1] + 1
        self._alike = self.decoding.heads_agree and bool((kept.positions == kept.positions[:, :1]).all())
        self.accounts = [Account(n) for n in kept.stored]
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
            bytes_of = stored_slot_bytes(rows.config, self.policy, attention) if bounded else ()
            for n in set(rows.lengths):
                rows.left[n] = after_prefill(self.policy, n, rows.windows, bytes_of)
        return [rows.left[n][self.index] for n in rows.lengths]

    def _kept(self, attention: Attention) -> Kept:
        """What the prefill method keeps of the prompt, with the channels that the strategy starts from."""
        lengths = self.rows.lengths
        seen = [reached(n, self.window) for n in lengths]  # tokens of each prompt that the next token can see
        plans = [self.prefill.plan(view) for view in self.views]
        plans = [plan if plan and plan.slots <= n else None for plan, n in zip(plans, seen, strict=True)]
        scores = self.prefill.score(attention) if any(plan and plan.best for plan in plans) else None
        columns = kept_columns(plans, seen, attention.keys.shape[1:3], scores)
        del scores
        return gathered(attention, columns, lengths, self._observed(attention))

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
            self.rows.admit_step(mask, self.seen, self.index)
        looked_at = self._scored or bool(self.decoding.channels) or self.watch is not None
        output, probabilities = storage.attend(query, scaling, sliding_window, looked_at)
        queries, query_positions = query, storage.newest[:, None]
        if self.recent_queries is not None:
            self.recent_queries.add(query, storage.newest)
            queries, query_positions = self.recent_queries.queries, self.recent_queries.positions
        scores = None
        if looked_at:
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
        return output

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
        for row, view, account in zip(rows, other.views, other.accounts, strict=True):
            self.views[row], self.accounts[row] = view, account

    def rest(self, rows: Sequence[int]) -> None:
        """These rows have ended for good: where nothing bounds what they would go on to store, they begin anew."""
        assert self.storage is not None
        self.storage.clear([row for row in rows if self.decoding.most(self.views[row]) is None])

    def _plans(self, stored: Sequence[int]) -> list[Plan | None]:
        """Each row's plan; rows that are alike share one call."""
        made: dict[tuple[View, int, int], Plan | None] = {}
        plans = []
        for key in zip(self.views, stored, self.rows.steps, strict=True):
            if key not in made:
                view, n, step = key
                made[key] = self.decoding.plan(view.at(step, n))
            plans.append(made[key])
        return plans

    def _protected_front(self, plans: Sequence[Plan | None]) -> int:
        """How many slots at the front no row can lose, where the strategy asks for that; a multiple of COARSE."""
        if not self.decoding.skips_protected or self.window is not None:  # out of a window, protected slots go as well
            return 0
        heads = [plan.head for plan in plans if plan]
        if not heads:
            return 0
        front = min(heads + [view.kept for view in self.views])
        return front - front % COARSE

    def _copied(self, states: Tensor) -> Tensor:
        """Keys or values [B, Hkv, n, D] for every head that is stored."""
        return states if self.copies == 1 else states.repeat_interleave(self.copies, 1)

    def _capacity(self, view: View) -> int:
        """Slots to allocate for a row: what the strategy can ever need, or what the generation can."""
        most, tokens = self.decoding.most(view), self.layout.tokens
        grown = view.kept + (GROWTH if tokens is None else tokens)
        if tokens is None and most is not None:
            grown = most
        return most_slots(self.decoding, view, grown)
