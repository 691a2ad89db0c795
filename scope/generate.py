"""The engine: prefill, then one token at a time over a batch of prompts of different lengths."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from scope.cache import CompressedCache
from scope.cache.slots import Slots, StorageFactory
from scope.decoding import DecodingStrategy
from scope.errors import CombinationError, ScopeError, SettingError, check_count
from scope.prefill import PrefillMethod
from scope.scores import Attention


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: greedily at temperature 0, else by lot, seeded for each sample by its name.

    samples: how many generations each prompt gets. Raises SettingError or CombinationError for values that cannot be.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    min_new_tokens: int = 0  # the end of sequence is not drawn before
    samples: int = field(default=1, metadata={"limit": True})

    def __post_init__(self) -> None:
        for name, low, high in (("temperature", 0.0, 100.0), ("top_p", 0.0, 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise SettingError(self, name, value, f"a number from {low:g} to {high:g}")
        if self.top_p == 0:
            raise SettingError(self, "top_p", self.top_p, "above 0")
        check_count(self, "top_k")
        check_count(self, "seed")
        check_count(self, "min_new_tokens")
        check_count(self, "samples", low=1)
        if self.samples > 1 and self.temperature == 0:
            allowed = "1 at temperature 0, where all would be the same (sampling.temperature)"
            raise CombinationError(self, "samples", self.samples, allowed)

    def warpers(self) -> LogitsProcessorList:
        chosen = LogitsProcessorList([TemperatureLogitsWarper(float(self.temperature))])
        if self.top_k:
            chosen.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            chosen.append(TopPLogitsWarper(self.top_p))
        return chosen

    def seed_of(self, name: str) -> int:
        """What the lots of the sample of that name are seeded with: the same whatever else is in its batch."""
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return int.from_bytes(digest[:7], "big")

    def generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed_of(name))


@dataclass(frozen=True)
class Prompt:
    """One row of a batch: its name, its tokens, and the strings that end its generation (not part of the text)."""

    name: str
    tokens: tuple[int, ...]
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generated:
    """One row's generation and what its cache did. Slots are per layer; seconds are wall time."""

    tokens: tuple[int, ...]
    text: str
    finish: str  # eos | stop | length
    prefill_seconds: float  # the whole batch's
    decode_seconds: float  # from the end of the prefill to the end of this row
    prefill_kept: tuple[int, ...]  # slots left by the prefill
    slots_kept: tuple[int, ...]  # slots at the end
    cache_bytes: int  # of the most slots this row needed at once
    full_cache_bytes: int  # of what it would have needed without eviction
    trace: str  # a fingerprint of the slots held over time: equal where evictions were as many at every step


def pad_left(prompts: Sequence[Prompt], pad: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """-> ids [B, P], mask [B, P] bool, positions [B, P]; a row ends in the last column."""
    lengths = torch.tensor([len(p.tokens) for p in prompts])
    longest = int(lengths.max())
    ids = torch.full((len(prompts), longest), pad)
    for row, prompt in zip(ids, prompts, strict=True):
        row[longest - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
    positions = torch.arange(longest) - (longest - lengths)[:, None]
    return ids.to(device), (positions >= 0).to(device), positions.clamp(min=0).to(device)


class _Row:
    """What has been written so far of one generation, and whether it has ended."""

    def __init__(
        self, prompt: Prompt, tokenizer: PreTrainedTokenizerBase, eos: frozenset[int], limit: int, lot: torch.Generator
    ) -> None:
        self.prompt, self.tokenizer, self.eos, self.limit, self.lot = prompt, tokenizer, eos, limit, lot
        self.began = self.prefill_seconds = 0.0  # when its prefill had ended, and how long that took
        self.tokens: list[int] = []
        self.text = ""
        self.finish = ""
        self.seconds = 0.0
        self._look_back = 4 + max((len(s) for s in prompt.stop), default=0)

    def add(self, token: int, seconds: float) -> None:
        """Take one more token and decide whether it is the last."""
        self.tokens.append(token)
        self.seconds = seconds
        if token in self.eos:
            self.finish = "eos"
        elif self.prompt.stop and self._stopped():
            self.finish = "stop"
        elif len(self.tokens) == self.limit:
            self.finish = "length"
        if self.finish:
            self.text = self._decode(self.tokens)
            cuts = [at for s in self.prompt.stop if (at := self.text.find(s)) >= 0]
            self.text = self.text[: min(cuts)] if cuts else self.text

    def _stopped(self) -> bool:
        # A token is at least one character in all but byte-level pieces, so the end of the text is enough to look at.
        ending = self._decode(self.tokens[-self._look_back :])
        return any(s in ending for s in self.prompt.stop)

    def _decode(self, tokens: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    prefill: PrefillMethod,
    decode: DecodingStrategy,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    progress: Callable[[int], None] | None = None,
    storage: StorageFactory = Slots,
    granularity: str = "kv_head",
    observe: Callable[[CompressedCache], None] | None = None,
    watch: Callable[[Attention], None] | None = None,
    batch_size: int | None = None,
    prefill_chunk: int | None = None,
) -> list[Generated]:
    """Answer prompts; each row's tokens are those it would get alone.

    A row ends at an end-of-sequence token, at one of its stop strings or after `max_new_tokens`. `batch_size` rows are
    written at a time (None: all): one that ends makes room for the next prompt. Prompts longer than `prefill_chunk`
    tokens are fed in pieces of that many. `progress` is called after each step with the number of rows that are still
    writing, `observe` with the cache after the first prefill and after each step; `watch` is the caches'. Raises
    ScopeError for a model whose attention scope cannot stand in for.
    """
    sampling = sampling or Sampling()
    for name, value in (
        ("max_new_tokens", max_new_tokens),
        ("batch_size", batch_size),
        ("prefill_chunk", prefill_chunk),
    ):
        if value is not None and value < 1:
            raise ScopeError(f"{name}={value}: must be at least 1")
    eos = _eos(model)

    def start(some: Sequence[Prompt]) -> tuple[CompressedCache, Tensor, Tensor, list[_Row]]:
        """A cache with these prompts, their next tokens and the positions of their last [B, 1], and their rows."""
        began = _now(model.device)
        cache = CompressedCache(model.config, prefill, decode, max_new_tokens, storage, granularity, watch)
        logits, position = _prefill(model, cache, some, tokenizer.pad_token_id or 0, prefill_chunk)
        cache.require_prompt()
        prefilled = _now(model.device)
        rows = [_Row(prompt, tokenizer, eos, max_new_tokens, sampling.generator(prompt.name)) for prompt in some]
        for row in rows:
            row.began, row.prefill_seconds = prefilled, prefilled - began
        return cache, logits, position, rows

    size = len(prompts) if batch_size is None else min(batch_size, len(prompts))
    cache, logits, position, rows = start(prompts[:size])
    if observe:
        observe(cache)
    chosen = _write(rows, logits, sampling)
    places = list(range(size))  # which of the prompts each row is
    done: dict[int, Generated] = {}
    following = size  # the next prompt that waits
    while True:
        if progress:
            progress(sum(not row.finish for row in rows))
        while ended := [b for b, row in enumerate(rows) if row.finish and places[b] not in done]:
            for b in ended:
                done[places[b]] = _result(rows[b], b, cache)
            fresh = prompts[following : following + len(ended)]
            if not fresh:
                break
            other, logits, first, started = start(fresh)
            refilled = ended[: len(fresh)]
            cache.replace(refilled, other)
            at = torch.tensor(refilled, device=position.device)
            position[at], chosen[at] = first, _write(started, logits, sampling)
            for b, row in zip(refilled, started, strict=True):
                rows[b], places[b], following = row, following, following + 1
            if progress:
                progress(len(started))
        if len(done) == len(prompts):
            break
        position = position + 1
        logits = model(
            input_ids=chosen[:, None], position_ids=position, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits[:, -1]
        chosen = _write(rows, logits, sampling)
        if observe:
            observe(cache)
    return [done[i] for i in range(len(prompts))]


def _prefill(
    model: PreTrainedModel, cache: CompressedCache, prompts: Sequence[Prompt], pad: int, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """-> logits [B, V] after the prompts, and the positions of their last tokens [B, 1]."""
    ids, mask, positions = pad_left(prompts, pad, model.device)
    columns = ids.shape[1]
    ragged = not bool(mask.all())
    if chunk is None or chunk >= columns:
        chunk = columns
    else:
        cache.expect(mask)
    for start in range(0, columns, chunk):
        stop = min(start + chunk, columns)
        logits = model(
            input_ids=ids[:, start:stop],
            attention_mask=mask[:, :stop].long() if ragged else None,
            position_ids=positions[:, start:stop],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    return logits, positions[:, -1:]


def _write(rows: Sequence[_Row], logits: Tensor, sampling: Sampling) -> Tensor:
    """Choose each row's next token from logits [B, V], and add it to those that have not ended -> tokens [B]."""
    for b, row in enumerate(rows):
        if row.eos and len(row.tokens) < sampling.min_new_tokens:
            logits[b, sorted(row.eos)] = -torch.inf
    chosen = _choose(logits, sampling, [row.lot for row in rows])
    now = time.perf_counter()
    for row, token in zip(rows, chosen.tolist(), strict=True):
        if not row.finish:
            row.add(token, now - row.began)
    return chosen


def _choose(logits: Tensor, sampling: Sampling, lots: Sequence[torch.Generator]) -> Tensor:
    """logits [B, V] -> tokens [B]."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    none = torch.LongTensor(logits.shape[0], 0)  # the warpers look at the logits only
    chances = sampling.warpers()(none, logits.float().cpu()).softmax(-1)
    drawn = [torch.multinomial(row, 1, generator=lot) for row, lot in zip(chances, lots, strict=True)]
    return torch.cat(drawn).to(logits.device)


def _result(row: _Row, index: int, cache: CompressedCache) -> Generated:
    steps = len(row.tokens) - 1  # the last token is never fed back
    peak = cache.peak_slots(index, steps)
    full = len(row.prompt.tokens) + steps
    slot_bytes = [cache.slot_bytes(layer) for layer in range(len(peak))]
    return Generated(
        tokens=tuple(row.tokens),
        text=row.text,
        finish=row.finish,
        prefill_seconds=row.prefill_seconds,
        decode_seconds=row.seconds,
        prefill_kept=tuple(cache.slots(index, 0)),
        slots_kept=tuple(cache.slots(index, steps)),
        cache_bytes=sum(n * size for n, size in zip(peak, slot_bytes, strict=True)),
        full_cache_bytes=full * sum(slot_bytes),
        trace=cache.trace(index, steps),
    )


def _eos(model: PreTrainedModel) -> frozenset[int]:
    ends = model.generation_config.eos_token_id if model.generation_config else model.config.eos_token_id
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
