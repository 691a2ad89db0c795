"""One layer of the cache: it asks the policies what stays, and its storage does it.

The order within a step is that of the SCOPE paper: append the new key and value, attend over all slots, then evict.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin

from scope.cache.account import Account
from scope.cache.ahead import steps_together
from scope.cache.by_head import ByHead
from scope.cache.checks import can_wait, require_numbers, shaped
from scope.cache.chunks import Chunks
from scope.cache.inputs import taken
from scope.cache.placing import capacity_of, left_by_prefill
from scope.cache.plans import plans_of, protected_front
from scope.cache.policy import Policy
from scope.cache.ring import Ring
from scope.cache.rotary import rotary_of
from scope.cache.rows import Rows
from scope.cache.slots import Slots
from scope.cache.storage import Layout, Storage
from scope.cache.turns import aligned_inputs, attended, beside, joined, with_rows
from scope.decoding.eviction import Eviction
from scope.policy.attention import Attention, by_rows
from scope.policy.plan import View
from scope.policy.rule import Rule
from scope.policy.scores import votes
from scope.util.errors import ScopeError

FOREIGN = (
    "the model does not run scope's attention: make the cache from its own model.config, after any "
    "set_attn_implementation; a model with attention of its own, or that stores latents (MLA), cannot have one"
)
FAILED = "this cache has failed before: make a new one"
USED = (
    "a compressed cache takes one prompt, and this one has it: make a new cache for the next prompt; a later turn can "
    "come once a token was generated, or to a copy (cache.fork); "
    "a prompt in chunks and use_cache=False are not possible with it"
)
MADE = ("rows", "policy", "prefill", "decoding", "layout", "watch", "rotary", "device", "sight", "_own")


class CompressedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # transformers' __init_subclass__
    """One layer of a cache. Until the prompt's attention has run it passes the prompt on; then it has a storage.

    Shapes: B rows, Hq query heads, H heads that are stored, P columns of the padded prompt, S slots, D head dim.
    """

    is_compileable = False  # if True, transformers' generate() would compile the forward by itself
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
        """index: of the layer, from 0. rows: shared by all layers. layout, watch: as in `CompressedCache`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.index, self.layers = index, rows.config.num_hidden_layers
        self.rows = rows
        self.follow(policy)
        self.layout = layout
        self.watch = watch
        self.sight = rows.sights[index]
        self.copies = 1  # how often each key/value head is stored
        self.dims = (0, 0)  # the head dim of keys and of values
        self.storage: Storage | None = None
        self.prompt: Tensor | None = None  # [B] int32: the length of each row's prompt
        self.turns: Tensor | None = None  # [B, K, 2] int32: where later turns begin and end that are prompt
        self._fronts: list[int] = []  # per row: the first slots of the storage, which the prompt's prefill filled
        self.recent_queries: Ring | None = None  # only if the strategy looks at more than the query of the step
        self.seen = 0  # columns so far, padding included: transformers computes positions from it
        self._chunks: Chunks | None = None
        self.views: list[View] = []  # per row, after the prefill
        self._own: list[Eviction] = []  # per row the strategy with the row's D, where its score may depend on D
        self.accounts: list[Account] = []  # per row
        self.steps: list[int] = []  # t of the current step, per row; -1 before the first
        self._begun = False  # `begin` has been called for the coming step
        self._scored = False  # the current step needs scores
        self._leaving = torch.empty(0)  # [B] int32: slots that each row's plan evicts, in a step with scores
        self._gone: list[int] = []  # the same, as the host sent it last
        self._unseen: Tensor | None = None  # scores of the last step, in which nobody has looked for NaN yet
        self._front = 0  # slots at the front that no row can lose in this step, if the strategy asks for it
        self._alike = False  # all heads hold the same tokens in the same slots, and the strategy treats them alike

    def follow(self, policy: Policy) -> None:
        """Compress as this policy says. To be called before the prompt comes.

        Raises ScopeError if the strategy asks for a rotary embedding that is not known.
        """
        self.policy, self.prefill, self.decoding = policy, policy.prefill, policy.decoding
        asking = type(self.decoding).__name__
        self.rotary = rotary_of(self.rows.config, self.index, asking) if self.decoding.rotary else None

    # transformers' interface

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.dims = key_states.shape[3], value_states.shape[3]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Take new keys and values [B, Hkv, n, D]: the prompt, whole or in chunks, then one token a step, or a turn.

        -> the keys and values to attend over: of the prompt so far. In a step the storage has them all, and those that
        came are given back, as in a later turn. Raises ScopeError for anything else, such as a second prompt.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._require_use(key_states.shape[2])
        if self.storage is None:
            if self.rows.columns is not None:
                recent = None if self.watch else self.policy.recent_queries
                self._chunks = self._chunks or Chunks(self.rows.columns, recent)
                keys = self._chunks.add("keys", key_states, self.seen)
                values = self._chunks.add("values", value_states, self.seen)
            else:
                self.rows.entered += 1
                # A view, so that the attribute below is not set on the model's own tensor.
                keys, values = key_states.view_as(key_states), value_states
        else:
            keys, values = key_states.view_as(key_states), value_states
            # several tokens wait for the attention function, which has the queries
            if not self.rows.forced and key_states.shape[2] == 1:
                self._append(key_states, value_states)
            elif not self.rows.forced and self.policy.turns == "protect":
                self.rows.entered += 1
        self.seen += key_states.shape[2]
        keys.scope_layer = self  # type: ignore[attr-defined]  # how the attention function finds this layer
        return keys, values

    def _append(self, keys: Tensor, values: Tensor) -> None:
        """Store the new token of a step in each row: keys and values [B, Hkv, 1, D]."""
        assert self.storage is not None
        if not self._begun:
            self.begin()
        self._begun = False
        self.storage.append(self._copied(keys), self._copied(values))

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the mask that transformers makes. 0 in decode steps: the storage masks empty slots.

        Raises ScopeError if several tokens come right after the prompt, and if a prompt was not compressed.
        """
        self._require_use(query_length)
        return (self.seen + query_length if self.storage is None else 0), 0

    def _require_use(self, tokens: int) -> None:
        """Raises ScopeError if the cache cannot take so many tokens, and says why."""
        if self.storage is not None and self.rows.failed:
            raise ScopeError(FAILED)
        several = tokens > 1 and self.rows.ready and not self.rows.forced
        if self.storage is not None and tokens != (self.rows.forced or 1) and not several:
            raise ScopeError(USED)
        if self.storage is None and self.seen and self.rows.columns is None:
            raise ScopeError(FAILED if self.rows.attended else FOREIGN)

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        raise ScopeError("a compressed cache serves one batch; make a new one for the next")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        raise ScopeError("beam search cannot run on a compressed cache: each row has evicted other tokens")

    # what an engine calls; `update` calls `begin` where no engine has

    def begin(self) -> Hashable:
        """Decide on the host what the coming step does. -> this layer's part of the step key, as in CompressedCache."""
        storage = self.storage
        assert storage is not None
        if self._unseen is not None:  # here, since a step that has begun does not wait for the host
            require_numbers(self._unseen, storage.positions, self.decoding, self.index)
            self._unseen = None
        if self.rows.failed:
            raise ScopeError(FAILED)
        if self.rows.filled < self.layers:
            made, ran = self.layers, self.rows.filled
            raise ScopeError(f"the cache was made for a model of {made} layers, and this one has {ran}")
        self.steps = [t + 1 for t in self.steps]
        held = [n + 1 for n in storage.stored]
        plans = plans_of(self.decoding, self.views, held, self.steps)
        gone = [max(0, n - plan.slots) if plan else 0 for plan, n in zip(plans, held, strict=True)]
        self._scored = any(plan and plan.best and n for plan, n in zip(plans, gone, strict=True))
        if self._scored and gone != self._gone:
            self._leaving.copy_(torch.tensor(gone, dtype=torch.int32), non_blocking=True)
            self._gone = gone
        self._front = protected_front(plans, self._fronts) if self._skips else 0
        move = storage.begin(plans)
        for account, before, after in zip(self.accounts, held, storage.stored, strict=True):
            account.step(before - after)
        self._begun = self.rows.ready = True
        sizes = tuple([own.budget for own in self._own])
        later = 0 if self.turns is None else self.turns.shape[1]
        return None if move is None else (self._scored, self._front, self._alike, sizes, later, move)

    # what the attention function calls

    def admit(
        self,
        query: Tensor,
        keys: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        rule: Rule,
    ) -> None:
        """Check a prompt, or a chunk of one, before its attention. Shapes are those of `Attention`.

        mask: as the model gives it to its backend. positions [B or 1, n].
        Raises ScopeError for a mask, positions or a sliding window that the decode steps would not follow.
        """
        if rule.sight != self.sight:
            told, here = self.sight.window, rule.sight.window
            differs = f"layer {self.index} has a window of {here} and by the configuration {told}"
            raise ScopeError(f"the cache was not made from this model's configuration: {differs}")
        self.rows.admit(mask, positions, query, keys, self.index)

    def compress(self, module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> None:
        """Keep what the prefill method chooses, after the prompt's attention. Shapes are those of `Attention`.

        If the prompt comes in chunks, this happens after the last one, and the method sees the queries that it asks
        for, or the votes of them all. In a layer with a sliding window the method chooses among the tokens that the
        next token can see. If it would keep more than these, all of these stay.
        """
        summed = None
        if self._chunks is not None:
            if self.policy.sums_votes:
                chunk = self._prompt_attention(query, keys, values, rule)
                self._chunks.add_votes(votes(chunk))
            queries = self._chunks.add_queries(query, self.seen - query.shape[2])
            if queries is None:
                return
            query, summed, self._chunks = queries, self._chunks.votes, None
        attention = self._prompt_attention(query, keys, values, rule)
        self._compress(replace(attention, summed=summed, inputs=taken(module)))

    def take(self, read: Attention) -> None:
        """Keep what the prefill method chooses of prompts whose attention has been computed for another cache."""
        self.lazy_initialization(read.keys, read.values)
        self.seen = read.keys.shape[2]
        self.rows.entered += 1
        self._compress(self._prompt_attention(read.queries, read.keys, read.values, read.rule))

    def _compress(self, attention: Attention) -> None:
        if self.watch:
            self.watch(attention)
        views = self.rows.views_of(self.policy, attention, [*self.rows.lengths, *self.layout.prompts])
        self.views = views[: len(attention.keys)]
        kept = left_by_prefill(self.policy, attention, self.views)
        capacity = max(capacity_of(self.decoding, view, self.layout.tokens) for view in views)
        make, whole = self.layout.storage or Slots, self.layout.whole
        self.storage = ByHead(kept, capacity, whole, make) if self._shared else make(kept, capacity, whole)
        if self.decoding.queries > 1:
            self.recent_queries = Ring(attention.queries, attention.query_positions, self.decoding.queries)
        self.prompt, self._fronts = attention.query_positions[:, -1] + 1, [view.kept for view in self.views]
        self._leaving = torch.zeros_like(self.prompt, dtype=torch.int32)
        self.rotary = self.rotary and self.rotary.to(attention.keys.device)
        self._alike = self.decoding.heads_agree and bool((kept.positions == kept.positions[:, :1]).all())
        self.accounts = [Account(n) for n in kept.stored]
        self.steps = [-1] * len(kept.stored)
        self._own = self._fitted()
        self.rows.filled += 1

    def _prompt_attention(self, query: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> Attention:
        """The attention of the prompt so far as the policies see it."""
        assert self.rows.positions is not None
        return self._attention_at(self.rows.positions[:, : keys.shape[2]], query, keys, values, rule)

    def _attention_at(self, positions: Tensor, query: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> Attention:
        """The attention of a prompt or turn as the policies see it, with keys and values for each head that is stored.

        positions [B, n]: of keys and values, -1 = padding. The queries are those of the last columns.
        """
        if self.policy.granularity == "query_head":
            self.copies = query.shape[1] // keys.shape[1]
            keys, values = self._copied(keys), self._copied(values)
        columns = positions.to(keys.device)  # layers may lie on several devices
        by_head = columns[:, None].expand(-1, keys.shape[1], -1)
        asking = columns[:, -query.shape[2] :]
        return Attention(query, keys, values, by_head, asking, rule, self.index)

    def step(self, query: Tensor, rule: Rule, mask: Tensor | None = None) -> Tensor:
        """The attention of a decode step: query [B, Hq, 1, D] -> [B, 1, Hq, D]. Then evict what the strategy says.

        mask: the caller's, if there is one: [B, n] or [B, H, 1, n] over all n tokens so far. Raises ScopeError if it
        hides another token than padding.
        """
        storage = self.storage
        assert storage is not None
        if mask is not None:
            self.rows.admit_step(mask, self.seen, self.index, self.steps)
        output, probabilities = storage.attend(query, rule, self._looked_at)
        self._settle(query, probabilities, rule)
        return output

    def _settle(self, query: Tensor, probabilities: Tensor | None, rule: Rule) -> None:
        """After a step's attention: note what the strategy remembers, and evict as it says."""
        storage = self.storage
        assert storage is not None
        if self.recent_queries is not None:
            self.recent_queries.add(query, storage.newest)
        scores = None
        if self._looked_at:
            attention = self._seen(query, probabilities, rule)
            if self.watch:
                self.watch(attention)
            if self.decoding.channels:
                noted = self.decoding.observe(attention)
                if noted is not attention.channels:
                    storage.write(noted)
                    attention = self._seen(query, probabilities, rule)
            if self._scored:
                scores = shaped(self._scores(attention), attention, self.decoding)
                self._unseen = scores if can_wait(scores) else None
        storage.evict(scores)

    def _fitted(self) -> list[Eviction]:
        """Of each row the strategy with the D that a bound leaves it, if `recent` is a share of D."""
        strategy = self.decoding
        if not isinstance(strategy, Eviction) or not self.policy.shares_d:
            return []
        return [strategy.within(view) for view in self.views]

    def _scores(self, attention: Attention) -> Tensor:
        """The scores of a step. Rows with another D are scored apart, since a score may read `recent`."""
        own = self._own
        if all(strategy == own[0] for strategy in own):
            return by_rows((own[0] if own else self.decoding).score, attention)
        return torch.cat([one.score(attention.of_rows(slice(i, i + 1))) for i, one in enumerate(own)])

    def _seen(self, query: Tensor, probabilities: Tensor | None, rule: Rule) -> Attention:
        """The step's attention as the strategy sees it, after the query was added to the recent ones."""
        storage = self.storage
        assert storage is not None
        queries, query_positions = query, storage.newest[:, None]
        if self.recent_queries is not None:
            queries, query_positions = self.recent_queries.queries, self.recent_queries.positions
        return Attention(
            queries,
            lambda: storage.keys,
            lambda: storage.values,
            storage.positions,
            query_positions,
            rule,
            self.index,
            probabilities,
            storage.channels,
            self.prompt,
            self._front,
            self._alike,
            self._leaving if self._scored else None,
            rotary=self.rotary,
            turns=self.turns,
        )

    @property
    def _looked_at(self) -> bool:
        """Whether anyone looks at the attention of the step under way."""
        return self._scored or bool(self.decoding.channels) or self.watch is not None

    @property
    def forced(self) -> bool:
        """Whether what comes is a continuation that is known, all its tokens at once."""
        return bool(self.rows.forced)

    def take_steps(self, query: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> Tensor:
        """The decode steps of a known continuation of n tokens, one after the other, as if they had come one by one.

        query [B, Hq, n, D], keys, values [B, H, n, D] -> [B, n, Hq, D].
        """
        storage, rows = self.storage, self.rows
        assert storage is not None
        keys, values = self._copied(keys), self._copied(values)
        outputs = []
        together = steps_together(query, storage.positions.shape[2])
        for some in zip(*(torch.split(states, together, 2) for states in (query, keys, values)), strict=True):
            ahead = storage.ahead(some[0], some[1], some[2], rule)
            for asked, key, value in zip(*(torch.split(states, 1, 2) for states in some), strict=True):
                self.begin()
                storage.append(key, value)
                if ahead is None:
                    outputs.append(self.step(asked, rule))
                else:
                    self._settle(asked, storage.look(ahead, rule), rule)
            if ahead is not None:
                outputs.append(ahead.outputs())
        self._begun = False
        if rows.told:
            rows.told()
        if self.index == self.layers - 1:
            rows.forced, rows.told = 0, None
        return torch.cat(outputs, 1)

    def admit_turn(self, query: Tensor, mask: Tensor | None, positions: Tensor | None) -> None:
        """Check a later turn before its attention: query [B, Hq, n, D], mask [B, S + n], positions [B or 1, n].

        Raises ScopeError as `Rows.begin_turn` does, and for a turn that is to be prompt if a bound chooses D.
        """
        if self.index:
            return
        if self.policy.bound and self.policy.turns == "protect":
            given = f"{self.policy.bound}={getattr(self.policy, self.policy.bound)}"
            raise ScopeError(f"turns=protect: a later turn adds slots that {given} leaves no room for: turns=flow")
        self.rows.begin_turn(mask, positions, query, self.seen - query.shape[2], self.steps)

    def take_turn(self, module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> Tensor:
        """Attend to a later turn of n tokens, and store it as `Policy.turns` says. Shapes are those of `Attention`.

        -> [B, n, Hq, D].
        """
        prompt, turn = self.policy.turns == "protect", self.rows.turn
        assert turn is not None
        query, keys, values = (turn.aligned(states, 2) for states in (query, keys, values))
        if prompt:  # its attention is that of a prompt of its own, with the positions that it has in the text
            alone = self._attention_at(turn.positions, query, keys, values, rule)
            output = self._protect(replace(alone, inputs=aligned_inputs(taken(module), turn)))
        else:
            output = self._flow(query, keys, values, rule)
        if self.index == self.layers - 1:
            self.rows.end_turn(prompt)
        return turn.given(output, 1)

    def _protect(self, alone: Attention) -> Tensor:
        """Attend to a turn, and store what the prefill method keeps of it. alone: as of a prompt of its own."""
        storage, turn = self.storage, self.rows.turn
        assert storage is not None
        assert turn is not None
        whole = beside(alone, storage)
        output = attended(whole)
        if self.watch:
            self.watch(whole)
        noted = self.decoding.observe(whole) if self.decoding.channels else {}
        if noted:
            storage.write({name: marks[..., : whole.stored] for name, marks in noted.items()})
        views = self.rows.views_of(self.policy, alone, turn.lengths)
        new = {name: marks[..., whole.stored :] for name, marks in noted.items()}
        kept = left_by_prefill(self.policy, alone, views, new)
        held, fronts = storage.stored, [view.kept for view in self.views] if self.policy.protects else None
        self.views = [joined(before, view) for before, view in zip(self.views, views, strict=True)]
        capacity = max(capacity_of(self.decoding, view, self.layout.tokens) for view in self.views)
        storage.extend(kept, capacity, fronts)
        for account, before, after in zip(self.accounts, held, storage.stored, strict=True):
            account.turn(after - before)
        if self.recent_queries is not None:
            self.recent_queries.extend(alone.queries, alone.query_positions)
        spans = turn.spans.to(alone.keys.device)
        self.turns = spans if self.turns is None else torch.cat([self.turns, spans], 1)
        self._alike = self._alike and bool((kept.positions == kept.positions[:, :1]).all())
        self.rows.filled += 1
        return output

    def _flow(self, query: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> Tensor:
        """Take the steps of a turn whose tokens count as generated. Rows of another length take theirs apart."""
        turn = self.rows.turn
        assert turn is not None
        batch, heads, columns, _ = query.shape
        if min(turn.lengths) == columns:
            return self.take_steps(query, keys, values, rule)
        output = query.new_zeros(batch, columns, heads, values.shape[-1])
        for length in sorted(set(turn.lengths)):
            rows = [row for row, n in enumerate(turn.lengths) if n == length]
            asked, key, value = (states[rows, :, columns - length :] for states in (query, keys, values))
            apart = self._apart(rows)
            output[rows, columns - length :] = apart.take_steps(asked, key, value, rule)
            self.replace(rows, apart)
        return output

    def _apart(self, rows: Sequence[int]) -> "CompressedLayer":
        """A copy of these rows of the layer."""
        made = copy(self)
        made.storage, made.recent_queries = deepcopy(self.storage), deepcopy(self.recent_queries)
        made.select(rows)
        return made

    def replace(self, rows: Sequence[int], other: "CompressedLayer") -> None:
        """Put the rows of `other`, whose prefill or turn has just ended, in place of these rows."""
        assert self.storage is not None
        assert other.storage is not None
        self.storage.replace(rows, other.storage)
        self._unseen = None
        assert self.prompt is not None
        assert other.prompt is not None
        self.prompt[list(rows)] = other.prompt
        self.turns = with_rows(self.turns, rows, other.turns, len(self.prompt))
        self._alike = self._alike and other._alike
        if self.recent_queries is not None and other.recent_queries is not None:
            self.recent_queries.replace(rows, other.recent_queries)
        for source, row in enumerate(rows):
            self.views[row], self.accounts[row] = other.views[source], other.accounts[source]
            self.steps[row], self._fronts[row] = other.steps[source], other._fronts[source]
        self._own = self._fitted()

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order. A row may come several times."""
        assert self.storage is not None
        assert self.prompt is not None
        self.storage.select(rows)
        if self.recent_queries is not None:
            self.recent_queries.select(rows)
        at = torch.tensor(rows, device=self.prompt.device)
        self.prompt, self._leaving, self._gone = self.prompt[at], self._leaving[at], []  # so that the host sends anew
        self._unseen = None if self._unseen is None else self._unseen[at]
        self.turns = None if self.turns is None else self.turns[at]
        self._fronts = [self._fronts[row] for row in rows]
        self.views, self.steps = [self.views[row] for row in rows], [self.steps[row] for row in rows]
        self.accounts = [deepcopy(self.accounts[row]) for row in rows]
        self._own = self._fitted()

    def state(self) -> dict[str, object]:
        """What a layer of a later cache goes on with: all but what is made from the model and the policy."""
        return {name: each for name, each in vars(self).items() if name not in MADE}

    def resume(self, state: Mapping[str, object], device: torch.device) -> None:
        """Go on with the state of another cache's layer, whose tensors are on this device."""
        self.__dict__ |= state
        self.device, self.rotary, self._own = device, self.rotary and self.rotary.to(device), self._fitted()

    def rest(self, rows: Sequence[int]) -> None:
        """These rows have ended. If the strategy has no bound, their slots are cleared, so that they do not grow on."""
        assert self.storage is not None
        self.storage.clear([row for row in rows if self.decoding.most(self.views[row]) is None])

    @cached_property
    def _skips(self) -> bool:
        """Whether a score may skip the protected front. A sliding window frees protected slots; shared heads differ."""
        return self.decoding.skips_protected and self.sight.window is None and not self._shared

    @cached_property
    def _shared(self) -> bool:
        """Whether the heads of this layer share slots. With a sliding window none holds more than the window."""
        return self.sight.window is None and self.policy.shares_heads(self.views[0].layers)

    def _copied(self, states: Tensor) -> Tensor:
        """Keys or values [B, Hkv, n, D] -> [B, H, n, D], for every head that is stored."""
        return states if self.copies == 1 else states.repeat_interleave(self.copies, 1)
