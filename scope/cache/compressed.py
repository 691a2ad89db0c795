"""The cache that transformers sees. One cache for one batch of samples: made for it, dropped after it."""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Self

from torch import Tensor
from transformers import Cache, PretrainedConfig

from scope.cache.fused import Storages
from scope.cache.layer import CompressedLayer, Rows
from scope.cache.policy import Policy
from scope.cache.seam import adopt
from scope.cache.sizes import reached, slot_bytes, windows_of
from scope.cache.slots import Layout, Storage
from scope.decoding import DecodingStrategy, KeepAll
from scope.policy.attention import Attention
from scope.prefill import Full, PrefillMethod
from scope.util.errors import ScopeError


class CompressedCache(Cache):
    """A transformers cache whose prompt is compressed by `prefill` and whose generation by `decoding`.

        cache = CompressedCache(model.config, prefill=SnapKV(2048, 8), decoding=Slide(512, 256))

    The model whose config this is runs scope's attention from then on. prefill, decoding, granularity and max_bytes are
    those of a `Policy`; None: nothing is evicted there. `layout`: how it lies in memory. `watch` is shown the attention
    of each layer and step before anything is evicted; it must not keep its tensors.
    Raises SettingError for what a `Policy` refuses, and ScopeError for a model, or a use, that eviction cannot support:
    a second prompt, beam search, cropping.
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
        self.rows = Rows(text, windows_of(text))
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
        """The same, for a policy in one piece."""
        return cls(config, policy.prefill, policy.decoding, policy.granularity, policy.max_bytes, layout, watch)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if layer_idx >= len(self._layers):
            raise ScopeError(f"the cache was made for a model of {len(self._layers)} layers, and this one has more")
        return self._layers[layer_idx].update(key_states, value_states)

    def crop(self, max_length: int) -> None:
        raise ScopeError("a compressed cache cannot be rolled back (assisted decoding needs that)")

    def expect(self, real: Tensor) -> None:
        """The prompts will come in chunks. real [B, P] bool: True where a token is, False where padding on the left."""
        self.rows.columns = real.shape[1]
        self.rows.settle(real, real.shape[0], real.shape[1], real.device)

    def force(self, tokens: int, told: Callable[[], None] | None = None) -> None:
        """The next call of the model brings so many tokens of each row at once: a continuation that is known already.

        They are stored, attended to and evicted one by one, as if each had come in a call of its own. But each layer
        takes all of its steps before the next layer begins, so that the model reads its weights once. The call is
        given no attention mask. `told` is called after each layer. The prompts have to be through.
        Raises ScopeError where they are not, and for what is no number of tokens.
        """
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            raise ScopeError(f"tokens={tokens}: must be a whole number of at least 1")
        if any(layer.storage is None for layer in self._layers):
            raise ScopeError("force: the prompts go through the cache first, and then their continuation")
        self.rows.forced, self.rows.told = tokens, told

    def begin(self) -> Hashable:
        """Settle on the host what the coming step does, so that the step itself need not ask the host for anything.

        -> equal for two steps that run the same operations, so that one may be recorded and replayed as the other; None
        for a step that cannot be. A step that was not begun begins by itself.
        """
        moves = tuple([layer.begin() for layer in self._layers])
        return None if None in moves else moves

    def replace(self, rows: Sequence[int], other: "CompressedCache") -> None:
        """Rows of this batch become those of `other`, made with the same policies, whose prompts have been through."""
        for own, new in zip(self._layers, other._layers, strict=True):
            own.replace(rows, new)
        self.rows.replace(rows, other.rows)

    def rest(self, rows: Sequence[int]) -> None:
        """These rows of the batch have ended, and none takes their place: what they store is no longer looked at."""
        for layer in self._layers:
            layer.rest(rows)

    def require_prompt(self) -> None:
        """Raises ScopeError where a prompt went by without being compressed: the model runs another attention."""
        if any(layer.seen and layer.storage is None for layer in self._layers):
            raise ScopeError("the model does not run scope's attention: load it with scope.generation.models")

    def positions(self, layer: int) -> Tensor:
        """-> [B, H, S] int32: the position of the token in each slot, -1 = empty."""
        return self._storage(layer).positions

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and channels, as allocated, in all layers; the last queries, where a strategy asks for
        them, are not among them."""
        return sum(self._storage(i).nbytes for i in range(len(self._layers)))

    def slots(self, row: int, steps: int) -> list[int]:
        """Slots stored in each layer for that row, `steps` decode steps after the prefill."""
        return [layer.accounts[row].slots(steps) for layer in self._layers]

    def peak_slots(self, row: int, steps: int) -> list[int]:
        """The most slots that row needed at once in each layer, up to `steps` decode steps after the prefill."""
        return [layer.accounts[row].peak(steps) for layer in self._layers]

    def trace(self, row: int, steps: int) -> str:
        """A fingerprint of how many slots each layer held for that row after the prefill and after each step."""
        sizes = [layer.accounts[row].history(steps) for layer in self._layers]
        return hashlib.sha256(repr(sizes).encode()).hexdigest()[:16]

    def full_slots(self, tokens: int) -> list[int]:
        """Slots that transformers' own cache holds in each layer of a row after that many tokens."""
        return [reached(tokens, window) for window in self.rows.windows]

    def full_bytes(self, tokens: int) -> int:
        """What these take: keys and values, each key/value head once."""
        of_slot = [self.slot_bytes(i, channels=False) // layer.copies for i, layer in enumerate(self._layers)]
        return sum(n * size for n, size in zip(self.full_slots(tokens), of_slot, strict=True))

    def slot_bytes(self, layer: int, channels: bool = True) -> int:
        """Bytes of one token in one layer, all heads: its key, its value and, with `channels`, what is noted of it."""
        storage = self._storage(layer)
        keys, values = storage.keys, storage.values
        noted = len(storage.channels) if channels else 0
        return slot_bytes(keys.shape[1], keys.shape[3] + values.shape[3], keys.element_size(), noted)

    def _storage(self, layer: int) -> Storage:
        storage = self._layers[layer].storage
        if storage is None:
            raise ScopeError("the cache is empty: no prompt has gone through it yet")
        return storage
