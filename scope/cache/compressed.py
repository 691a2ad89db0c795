"""The cache that transformers sees. One cache for one batch of samples: made for it, dropped after it."""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

from torch import Tensor
from transformers import Cache, PretrainedConfig

import scope.decoding
import scope.prefill
from scope.cache.fused import Storages
from scope.cache.layer import CompressedLayer, Rows
from scope.cache.seam import adopt
from scope.cache.sizes import reached, slot_bytes, windows_of
from scope.cache.slots import Storage, StorageFactory
from scope.decoding import DecodingStrategy, KeepAll
from scope.policy.plan import View
from scope.policy.scores import Attention
from scope.prefill import Full, PrefillMethod
from scope.util.errors import CombinationError, ScopeError, SettingError, check_choice, check_count

GRANULARITIES = ("kv_head", "query_head")


class Bounded(Protocol):
    @property
    def max_bytes(self) -> int | None: ...


def check_bytes(owner: "Bounded", decode: DecodingStrategy) -> None:
    """Refuse a field `max_bytes` that is no number of bytes, or that binds a strategy which grows without bound."""
    max_bytes = owner.max_bytes
    if max_bytes is None:
        return
    check_count(owner, "max_bytes", low=1)
    anywhere = View(0, 1, prompt=1, stored=1, budget=1, capacity=1, prefilled=(1,))  # a bound or none is so for all
    if decode.most(anywhere) is None:
        allowed = "null where nothing is evicted while decoding, or D may be passed (capped=false)"
        raise CombinationError(owner, "max_bytes", max_bytes, allowed)


def _check_policies(prefill: object, decode: object) -> None:
    """Refuse what is no policy, such as its name or its class: with the one that was probably meant."""
    for field, value, needed, package, example in (
        ("prefill", prefill, ("slots", "capacity", "plan", "score"), scope.prefill, "SnapKV(budget=2048, window=8)"),
        ("decode", decode, ("most", "plan", "observe", "score"), scope.decoding, "Slide(budget=512, recent=256)"),
    ):
        if isinstance(value, type) or not all(callable(getattr(value, name, None)) for name in needed):
            what = value.__name__ if isinstance(value, type) else type(value).__name__
            shown = value if isinstance(value, str) else what
            names = {name.lower(): name for name in package.__all__}
            meant = names.get(str(shown).lower().replace("_", ""), "")
            hint = f"; did you mean scope.{package.__name__.partition('.')[2]}.{meant}(...)?" if meant else ""
            raise SettingError(
                CompressedCache, field, shown, f"an object of one of its classes, such as {example}{hint}"
            )


class CompressedCache(Cache):
    """A transformers cache whose prompt is compressed by `prefill` and whose generation by `decode`.

        cache = CompressedCache(model.config, prefill=SnapKV(2048, 8), decode=Slide(512, 256))

    The model whose config this is runs scope's attention from then on; `tokens` is the most that will be generated,
    where it is known: a strategy without a bound then gets its room at once instead of piece by piece. `granularity`:
    slots per key/value head (`kv_head`: the query heads that share one average their votes), or per query head
    (`query_head`, the released code's layout: each key/value head is stored as often as it is shared).
    `watch` is shown the attention of each layer and step before anything is evicted; it must not keep its tensors.
    `whole`: a step attends over all slots that there is room for, the empty ones masked: its shapes never change.
    `max_bytes`: the most that a sequence's slots may take in all layers, channels included; D is then the largest that
    this has room for beside the prompt, whatever the strategy's budget. One without a bound is refused.
    Raises ScopeError for what eviction cannot support: a second prompt, beam search, cropping.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        prefill: PrefillMethod | None = None,
        decode: DecodingStrategy | None = None,
        tokens: int | None = None,
        storage: StorageFactory | None = None,
        granularity: str = "kv_head",
        watch: Callable[[Attention], None] | None = None,
        whole: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        self.granularity = granularity
        check_choice(self, "granularity", GRANULARITIES)
        by_query_head = granularity == "query_head"
        prefill, decode = Full() if prefill is None else prefill, KeepAll() if decode is None else decode
        _check_policies(prefill, decode)
        if not isinstance(config, PretrainedConfig):
            raise ScopeError(f"config={type(config).__name__}: must be the model's configuration, model.config")
        text = config.get_text_config(decoder=True)
        adopt(text)
        layers = text.num_hidden_layers
        self.rows = Rows(text, windows_of(text))
        storage = storage or Storages()
        self.max_bytes = max_bytes
        check_bytes(self, decode)
        self._layers = [
            CompressedLayer(
                i, layers, prefill, decode, self.rows, storage, tokens, by_query_head, watch, whole, max_bytes
            )
            for i in range(layers)
        ]
        super().__init__(layers=[*self._layers])

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
