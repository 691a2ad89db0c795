"""The cache that transformers sees. A cache serves one batch of prompts and is then dropped."""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor
from transformers import Cache, PretrainedConfig

from scope.cache.backends import adopt
from scope.cache.copying import copied
from scope.cache.fused import Storages
from scope.cache.layer import USED, CompressedLayer
from scope.cache.policy import Policy, short
from scope.cache.rows import Rows, rows_of
from scope.cache.sizes import bound_of, heads_of, reached, sights_of, slot_bytes
from scope.cache.storage import Layout, Storage
from scope.cache.summary import Summary
from scope.decoding import DecodingStrategy, KeepAll
from scope.policy.attention import Attention
from scope.prefill import Full, PrefillMethod
from scope.util.errors import ScopeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CompressedCache(Cache):
    """A transformers cache that compresses the prompt by one policy and the generation by another.

        cache = CompressedCache(model.config, SnapKV(budget=2048, window=8), Slide(budget=512, recent=256))
        model.generate(**inputs, past_key_values=cache, max_new_tokens=600)

    From then on the model with this configuration runs scope's attention. A cache serves one batch of prompts. It goes
    on with later turns: the next call gets all tokens so far, and the new ones. Rows are padded on the left. `fork`
    lets a prompt that was read once be answered several times. Source: SCOPE, the paper that this project is named
    after, sections 3 and 4.

    config: the model's configuration, `model.config`.
    prefill: the prefill method, which compresses the prompt; None: nothing is evicted from it.
    decoding: the decoding strategy, which compresses the generation; None: nothing is evicted while decoding.
    granularity, max_bytes: as in `Policy`. `of` takes a whole policy, with `max_slots` and `turns` too.
    layout: how slots lie in memory; None: as is usual. It changes no answer.
    watch: is called with the attention of each layer, for the prompt and in each step, before anything is evicted. It
    must not keep the tensors.

    Raises SettingError or CombinationError for what a `Policy` refuses. Raises ScopeError for a model, or a use, that a
    compressed cache does not support, such as another prompt, beam search or cropping.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        prefill: PrefillMethod | None = None,
        decoding: DecodingStrategy | None = None,
        granularity: str = "kv_head",
        max_bytes: int | None = None,
        layout: Layout | None = None,
        watch: Callable[[Attention], None] | None = None,
    ) -> None:
        prefill, decoding = Full() if prefill is None else prefill, KeepAll() if decoding is None else decoding
        self.policy = Policy(prefill, decoding, granularity, max_bytes)
        if not isinstance(config, PretrainedConfig):
            raise ScopeError(f"config={type(config).__name__}: must be the model's configuration, model.config")
        text = config.get_text_config(decoder=True)
        adopt(text)
        self.rows = Rows(text, sights_of(text))
        layout = layout or Layout()
        if layout.storage is None:
            layout = replace(layout, storage=Storages())
        self._layers = [
            CompressedLayer(i, self.policy, self.rows, layout, watch) for i in range(text.num_hidden_layers)
        ]
        super().__init__(layers=[*self._layers])

    @classmethod
    def of(
        cls,
        config: PretrainedConfig,
        policy: Policy,
        layout: Layout | None = None,
        watch: Callable[[Attention], None] | None = None,
    ) -> Self:
        """Make a cache for a `Policy`. Other arguments and errors are those of the class."""
        cache = cls(config, layout=layout, watch=watch)
        cache.policy = policy
        for layer in cache._layers:
            layer.follow(policy)
        return cache

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Take new keys and values [B, Hkv, n, D] of a layer. -> those to attend over. Raises ScopeError for misuse."""
        if layer_idx >= len(self._layers):
            raise ScopeError(f"the cache was made for a model of {len(self._layers)} layers, and this one has more")
        return self._layers[layer_idx].update(key_states, value_states)

    def crop(self, max_length: int) -> None:
        raise ScopeError("a compressed cache cannot be rolled back (assisted decoding needs that)")

    def expect(self, real: Tensor) -> None:
        """Announce prompts that come in chunks. real [B, P] bool: True for a token, False for padding on the left."""
        self.rows.columns = real.shape[1]
        self.rows.settle(real, real.shape[0], real.shape[1], real.device)

    def take(self, layers: Sequence[Attention]) -> None:
        """Take prompts that the model has read already: a cache of the same model was shown the attention `layers`.

        A prefill method that needs the layers' inputs (`layer_inputs = True`) cannot work so. Raises ScopeError for a
        cache that has its prompts.
        """
        if any(layer.seen for layer in self._layers):
            raise ScopeError(USED)
        columns = layers[0].query_positions
        self.rows.settle(columns >= 0, columns.shape[0], columns.shape[1], columns.device)
        for layer, attention in zip(self._layers, layers, strict=True):
            layer.take(attention)

    def force(self, tokens: int, told: Callable[[], None] | None = None) -> None:
        """The next call of the model brings so many tokens of each row at once: a continuation that is known already.

        They are stored, attended to and evicted one by one, as if each had come in a call of its own. But each layer
        takes all of its steps before the next layer begins, so that the model reads its weights once. The call is
        given no attention mask. `told` is called after each layer. The prompts have to be through.
        Raises ScopeError where they are not, and for what is no number of tokens.
        """
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            raise ScopeError(f"tokens={tokens}: must be a whole number of at least 1")
        if not self._through:
            raise ScopeError("force: the prompts go through the cache first, and then their continuation")
        self.rows.forced, self.rows.told = tokens, told

    def begin(self) -> Hashable:
        """Decide on the host what the coming step does. The step itself then never waits for the host.

        -> the step key. Two steps with equal keys run the same operations, so a recording of one can be replayed as the
        other. None: the step cannot be recorded. If an engine does not call this, `update` does.
        """
        moves = tuple([layer.begin() for layer in self._layers])
        return None if None in moves else moves

    def replace(self, rows: Sequence[int], other: "CompressedCache") -> None:
        """Put the rows of another cache in place of these rows, so that a batch can go on with new prompts.

        rows: indices in this batch, one for each row of `other`. other: a cache of the same policy after its prefill.
        """
        for own, new in zip(self._layers, other._layers, strict=True):
            own.replace(rows, new)
        self.rows.replace(rows, other.rows)

    def fork(self, rows: Sequence[int]) -> Self:
        """A cache whose batch is these rows of this one, which stays as it is. Each goes on by itself.

            answers = cache.fork([0] * 8)  # the first prompt was read and compressed once, and is answered 8 times

        rows: indices in this batch, one or more, in any order; one may come several times.
        The copy is what so many copies of the prompts would have become. What they generated so far comes with them. It
        has as many slots in memory as this batch has for a row.
        Raises ScopeError for a row that is not there, and before the prompts are through.
        """
        rows = rows_of(rows, len(self.rows.lengths) if self._through else 0)
        made = deepcopy(self)
        made.select(rows)
        return made

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order, after the prompts are through. A row may come several times."""
        for layer in self._layers:
            layer.select(rows)
        self.rows.select(rows)

    def save(self, file: str | Path, model: "PreTrainedModel") -> None:
        """Write the cache into a safetensors file, so that `load` can go on with it later, or elsewhere.

        file: is replaced in one step. model: that filled the cache; the file says which it was.
        Raises ScopeError before the prompts are through, for a storage that is not scope's own, and for a file that
        cannot be written.
        """
        from scope.cache import saved  # needs packages that a cache can do without

        if not self._through:
            raise ScopeError("save: the prompts go through the cache first")
        tensors: dict[str, Tensor] = {}
        states = [self.rows.state(), *[layer.state() for layer in self._layers]]
        state = [saved.packed(each, tensors) for each in states]
        saved.write(Path(file), saved.facts_of(model, self.policy), state, tensors)

    @classmethod
    def load(cls, file: str | Path, model: "PreTrainedModel", policy: Policy | None = None) -> Self:
        """A cache as it was saved, which goes on with this model. Its slots lie on the devices of the model's layers.

        policy: must be the one that the cache was saved with. It is needed only if that has a class of your own, or
        statistics of a model.
        Raises ScopeError for a file that is damaged or no saved cache. Raises it for a file of another version of
        scope, another model (its configuration, its dtype, or its weights) or another policy.
        """
        from scope.cache import saved  # needs packages that a cache can do without

        found = saved.read(Path(file))
        found.require(model)
        cache = cls.of(model.config, found.policy(policy))
        rows, *states = found.state
        devices = saved.devices_of(model, len(states))
        cache.rows.__dict__ |= found.unpacked(rows, devices[0])
        for layer, state, device in zip(cache._layers, states, devices, strict=True):
            layer.resume(found.unpacked(state, device), device)
        cache.rows.ready = True
        return cache

    def rest(self, rows: Sequence[int]) -> None:
        """Rows of the batch have ended and are not replaced. What they store is no longer read."""
        for layer in self._layers:
            layer.rest(rows)

    def require_prompt(self) -> None:
        """Raises ScopeError if a prompt was not compressed, since the model does not run scope's attention."""
        if any(layer.seen and layer.storage is None for layer in self._layers):
            raise ScopeError("the model does not run scope's attention: load it with scope.generation.models")

    def positions(self, layer: int) -> Tensor:
        """-> [B, H, S] int32: the position in the text of the token in each slot, counted from 0; -1 = empty.

        H is the number of key/value heads, or of query heads with granularity `query_head`.
        """
        return self._storage(layer).positions

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A cache that goes on as this one would, by itself. Configuration, policy and `watch` are shared."""
        made = copied(self, memo, [self.rows.config, self.policy, *[layer.watch for layer in self._layers]])
        made.rows.ready = made._through
        return made

    def __repr__(self) -> str:
        """Five lines: policy, budgets, slots and bytes now and of the full cache, layers and heads."""
        return f"<CompressedCache {self.summary()}>"

    def summary(self) -> Summary:
        """What the cache is and what it holds now, as data. It never waits for the device."""
        policy, layers, through = self.policy, self._layers, self._through
        lengths = self.rows.lengths if through else []
        tokens = [length + step + 1 for length, step in zip(lengths, layers[0].steps, strict=True)]
        return Summary(
            short(policy.prefill),
            short(policy.decoding),
            f"{policy.bound}={getattr(policy, policy.bound)}" if policy.bound else "",
            policy.granularity,
            policy.precision,
            heads=tuple([self._heads(i) for i in range(len(layers))]),
            tokens=tuple(tokens),
            budgets=tuple([view.budget for view in layers[0].views] if through else ()),
            most=tuple([tuple([bound_of(policy.decoding, view) for view in layer.views]) for layer in layers]),
            slots=tuple([tuple(layer.storage.stored if layer.storage and through else ()) for layer in layers]),
            full_slots=tuple(zip(*map(self.full_slots, tokens), strict=True)) or ((),) * len(layers),
            nbytes=self.nbytes if through else 0,
            full_nbytes=sum(map(self.full_bytes, tokens)),
        )

    @property
    def _through(self) -> bool:
        """Whether the prompts are through all layers."""
        return all(layer.storage is not None for layer in self._layers)

    @property
    def nbytes(self) -> int:
        """Bytes that are allocated for keys, values and channels, in all layers, after the first call of the model.

        The recent queries that some strategies look at are not counted. Raises ScopeError before the first call.
        """
        return sum(self._storage(i).nbytes for i in range(len(self._layers)))

    def slots(self, row: int, steps: int) -> list[int]:
        """Slots that this row holds in each layer, `steps` decode steps after the prefill."""
        return [layer.accounts[row].slots(steps) for layer in self._layers]

    def peak_slots(self, row: int, steps: int) -> list[int]:
        """The most slots that this row held at once in each layer, up to `steps` decode steps after the prefill."""
        return [layer.accounts[row].peak(steps) for layer in self._layers]

    def trace(self, row: int, steps: int) -> str:
        """16 hex digits: a hash of the slots that this row held in each layer after the prefill and each step."""
        sizes = [layer.accounts[row].history(steps) for layer in self._layers]
        return hashlib.sha256(repr(sizes).encode()).hexdigest()[:16]

    def full_slots(self, tokens: int) -> list[int]:
        """Slots that transformers' own cache holds in each layer, for a row of `tokens` tokens."""
        return [reached(tokens, window) for window in self.rows.windows]

    def full_bytes(self, tokens: int) -> int:
        """Bytes of these slots: keys and values of each key/value head, stored once. To be had after the first call."""
        of_slot = [self._slot_bytes(i, Policy()) // layer.copies for i, layer in enumerate(self._layers)]
        return sum(n * size for n, size in zip(self.full_slots(tokens), of_slot, strict=True))

    def slot_bytes(self, layer: int) -> int:
        """Bytes of one token in one layer, all heads: its key, its value and its channels."""
        return self._slot_bytes(layer, self.policy)

    def _slot_bytes(self, layer: int, policy: Policy) -> int:
        """As `slot_bytes`, were the slots those of another policy."""
        self._storage(layer)
        of_layer = self._layers[layer]
        return slot_bytes(self._heads(layer), of_layer.dims, of_layer.dtype.itemsize, policy)

    def _heads(self, layer: int) -> int:
        """How many heads a layer stores; before the prompt, by the model's configuration."""
        storage = self._layers[layer].storage
        return heads_of(self.rows.config, self.policy, layer) if storage is None else storage.positions.shape[1]

    def _storage(self, layer: int) -> Storage:
        storage = self._layers[layer].storage
        if storage is None:
            raise ScopeError("the cache is empty: this is known after the first call of the model")
        return storage
