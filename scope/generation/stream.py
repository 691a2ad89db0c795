"""The engine: prefill, then one token at a time over a batch of prompts of different lengths."""

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar

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
from scope.cache.inputs import layer_inputs
from scope.cache.slots import StorageFactory
from scope.decoding import DecodingStrategy
from scope.generation.engine import Stepper, synchronised
from scope.generation.processors import RowProcessors, as_generate, asked_for, least_tokens, require_possible
from scope.generation.text import Text
from scope.policy.scores import Attention
from scope.prefill import PrefillMethod
from scope.util.errors import CombinationError, ScopeError, SettingError, check_choice, check_count

PROCESSORS = ("none", "model")


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: greedily at temperature 0, else by lot, seeded for each sample by its name.

    samples: how many generations each prompt gets. processors: what else changes the logits. `none`: nothing. `model`:
    what the model's generation config asks for, as `model.generate` applies it (repetition_penalty, suppress_tokens and
    others); temperature, top_p, top_k and whether to sample are these fields' all the same, and min_new_tokens above 0
    goes before the config's. Raises SettingError or CombinationError for values that cannot be.
    """

    recorded_as: ClassVar[str] = "scope.generate.Sampling"

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    min_new_tokens: int = 0  # the end of sequence is not drawn before
    samples: int = field(default=1, metadata={"limit": True})
    processors: str = "none"

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
        check_count(self, "samples", low=1, high=10_000)  # each is a request that is held in memory
        check_choice(self, "processors", PROCESSORS)
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

    def needs_tokens(self, model: PreTrainedModel) -> bool:
        """Whether choosing a token looks at those before it."""
        asks = self.processors == "model" and asked_for(model.generation_config, self.temperature > 0)
        return bool(self.min_new_tokens or asks)

    def row_processors(
        self, model: PreTrainedModel, prompt: Sequence[int], most: int, eos: Collection[int]
    ) -> RowProcessors | None:
        """What changes the logits of a row of at most so many new tokens; None where nothing does.

        Those of `model` include the temperature, top-k and top-p.
        """
        if self.processors == "none":
            return least_tokens(model, prompt, self.min_new_tokens, eos, most) if self.min_new_tokens and eos else None
        given: dict[str, Any] = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
        if self.temperature > 0:
            given = {
                "do_sample": True,
                "temperature": float(self.temperature),
                "top_k": self.top_k,
                "top_p": float(self.top_p),
            }
        if self.min_new_tokens:
            given["min_new_tokens"] = self.min_new_tokens
        return as_generate(model, prompt, most, given)

    def seed_of(self, name: str) -> int:
        """What the lots of the sample of that name are seeded with: the same whatever else is in its batch."""
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return int.from_bytes(digest[:7], "big")

    def generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed_of(name))


@dataclass(frozen=True)
class Prompt:
    """One row of a batch: its name, its tokens, and the strings that end its generation (not part of the text).

    A stop string is looked for in what is generated only: one that begins in the prompt does not count. It may hold the
    text of a special token. visible: texts of special tokens that the generation's text shows, such as `</think>`;
    others are left out of it. Raises SettingError for an empty stop string.
    """

    name: str
    tokens: tuple[int, ...]
    stop: tuple[str, ...] = ()
    visible: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "" in self.stop:
            raise SettingError(self, "stop", "('',)", "strings of at least one character")


@dataclass(frozen=True)
class Generated:
    """One row's generation and what its cache did. Slots are per layer; seconds are wall time."""

    tokens: tuple[int, ...]
    text: str
    finish: str  # eos | stop | length
    prefill_seconds: float  # of all prompts that went through it together
    decode_seconds: float  # in the steps from its prefill to its end
    batch_seconds: float  # in all steps so far of the batch that it was a row of
    prefill_kept: tuple[int, ...]  # slots left by the prefill
    slots_kept: tuple[int, ...]  # slots at the end
    prefill_full: tuple[int, ...]  # slots that transformers' own cache would hold after the prefill
    slots_full: tuple[int, ...]  # and at the end
    cache_bytes: int  # of the most slots this row needed at once: keys, values and channels
    full_cache_bytes: int  # of the keys and values that transformers' own cache would hold of it
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
        self,
        place: int,
        prompt: Prompt,
        tokenizer: PreTrainedTokenizerBase,
        eos: frozenset[int],
        limit: int,
        lot: torch.Generator,
        processors: RowProcessors | None,
    ) -> None:
        self.place, self.prompt = place, prompt
        self.eos, self.limit, self.lot, self.processors = eos, limit, lot, processors
        self.began = self.ended = self.prefill_seconds = 0.0  # on the clock of decoding, but for the last
        self.tokens: list[int] = []
        self.text = ""
        self.finish = ""
        self._text = Text(tokenizer, prompt.stop, prompt.visible)
        self.taken = False  # handed out

    def add(self, token: int, seconds: float) -> None:
        """Take one more token and decide whether it is the last."""
        self.tokens.append(token)
        stopped = self._text.add(token)
        self.ended = seconds
        if token in self.eos:
            self.finish = "eos"
        elif stopped:
            self.finish = "stop"
        elif len(self.tokens) == self.limit:
            self.finish = "length"
        if self.finish:
            self.text = self._text.final()


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    prefill: PrefillMethod,
    decode: DecodingStrategy,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    progress: Callable[[int], None] | None = None,
    storage: StorageFactory | None = None,
    granularity: str = "kv_head",
    observe: Callable[[CompressedCache], None] | None = None,
    watch: Callable[[Attention], None] | None = None,
    batch_size: int | None = None,
    prefill_chunk: int | None = None,
    engine: str = "eager",
    max_bytes: int | None = None,
) -> list[Generated]:
    """Answer prompts, in their order; `batch_size` None: all at once. What else there is, `stream` says."""
    size = len(prompts) if batch_size is None else batch_size
    options = (sampling, progress, storage, granularity, observe, watch, prefill_chunk, engine)
    made = dict(stream(model, tokenizer, prompts, prefill, decode, max_new_tokens, size, *options, max_bytes=max_bytes))
    return [made[i] for i in range(len(prompts))]


@torch.inference_mode()
def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[Prompt],
    prefill: PrefillMethod,
    decode: DecodingStrategy,
    max_new_tokens: int,
    batch_size: int,
    sampling: Sampling | None = None,
    progress: Callable[[int], None] | None = None,
    storage: StorageFactory | None = None,
    granularity: str = "kv_head",
    observe: Callable[[CompressedCache], None] | None = None,
    watch: Callable[[Attention], None] | None = None,
    prefill_chunk: int | None = None,
    engine: str = "eager",
    ahead: bool | None = None,
    max_bytes: int | None = None,
) -> Iterator[tuple[int, Generated]]:
    """Answer prompts -> which of them it was and its generation, as they end; each gets the tokens it would get alone.

    A row ends at an end-of-sequence token, at one of its stop strings or after `max_new_tokens`. `batch_size` rows are
    written at a time: one that ends makes room for the next prompt, which is not asked for before. Prompts longer than
    `prefill_chunk` tokens are fed in pieces of that many. `progress` is called after each step with the number of rows
    that are still writing, `observe` with the cache after the first prefill and after each step; `watch` is the caches'
    and has steps run eagerly. `engine`: eager, graph or compile. `ahead`: a step is sent off before the tokens of the
    one before it are looked at, so that a GPU need not wait (None: on a GPU, where tokens are chosen greedily); a row
    then runs one step too far, which is dropped. `max_bytes`: of each row's cache, see CompressedCache. Raises
    ScopeError for a model that does not run scope's attention.
    """
    sampling = sampling or Sampling()
    for name, value in (
        ("max_new_tokens", max_new_tokens),
        ("batch_size", batch_size),
        ("prefill_chunk", prefill_chunk),
    ):
        if value is not None and value < 1:
            raise ScopeError(f"{name}={value}: must be at least 1")
    kind = "eager" if watch else engine
    eos, clock, waiting = _eos(model), _Clock(model.device), enumerate(prompts)
    stops: tuple[str, ...] = ()
    if sampling.processors == "model":
        require_possible(model.generation_config)
        stops = _strings(model.generation_config.stop_strings)
    if ahead is None:
        ahead = model.device.type == "cuda" and sampling.temperature == 0
    ahead = ahead and not sampling.needs_tokens(model)

    def start(
        some: Sequence[tuple[int, Prompt]], tokens: int, whole: bool
    ) -> tuple[CompressedCache, list[_Row], _Tokens, Tensor]:
        """A cache with these prompts and room for so many tokens each, their rows, their next tokens, and the positions
        of their last [B, 1]."""
        clock.stop()
        cache = CompressedCache(model.config, prefill, decode, tokens, storage, granularity, watch, whole, max_bytes)
        with layer_inputs(model) if prefill.layer_inputs else nullcontext():
            logits, positions = _prefill(model, cache, [p for _, p in some], tokenizer.pad_token_id or 0, prefill_chunk)
        cache.require_prompt()
        rows = []
        for at, prompt in some:
            processors = sampling.row_processors(model, prompt.tokens, max_new_tokens, eos)
            whole_prompt = replace(prompt, stop=prompt.stop + stops)
            rows.append(
                _Row(at, whole_prompt, tokenizer, eos, max_new_tokens, sampling.generator(prompt.name), processors)
            )
        seconds = clock.go()
        for row in rows:
            row.began, row.prefill_seconds = clock.now(), seconds
        return cache, rows, _Tokens(_choose(logits, sampling, rows)), positions

    if not (first := list(islice(waiting, batch_size))):
        return
    cache, rows, chosen, positions = start(first, max_new_tokens, kind != "eager")
    stepper = Stepper(model, cache, positions, kind)
    if observe:
        observe(cache)
    if not ahead:
        chosen.note(rows, clock.now())
    while True:
        if progress:
            progress(sum(not row.finish for row in rows))
        while ended := [b for b, row in enumerate(rows) if row.finish and not row.taken]:
            for b in ended:
                rows[b].taken = True
                yield rows[b].place, _result(rows[b], b, cache)
            fresh = list(islice(waiting, len(ended)))
            refilled = ended[: len(fresh)]
            cache.rest(ended[len(fresh) :])
            if not fresh:
                break
            other, started, tokens, positions = start(fresh, 0, False)  # which gives up what it holds at once
            cache.replace(refilled, other)
            del other  # before the next prompts, or the rest of these rows' answers, need room
            at = torch.tensor(refilled, device=positions.device)
            stepper.place(at, positions)
            chosen = chosen.replaced(at, tokens)
            if not ahead:
                tokens.note(started, clock.now())
            for b, row in zip(refilled, started, strict=True):
                rows[b] = row
            if progress:
                progress(len(started))
        if all(row.finish for row in rows):
            return
        logits = stepper(chosen.tokens)
        if ahead:
            chosen.note(rows, clock.now())  # of the step before, while the device is busy with this one
        chosen = _Tokens(_choose(logits, sampling, rows))
        if not ahead:
            chosen.note(rows, clock.now())
        if observe:
            observe(cache)


class _Clock:
    """Seconds spent in decode steps: it stands still during prefills."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._before, self._since = device, 0.0, time.perf_counter()

    def now(self) -> float:
        return self._before + time.perf_counter() - self._since

    def stop(self) -> None:
        self._before, self._since = self.now(), synchronised(self._device)

    def go(self) -> float:
        """-> seconds for which it stood still."""
        began, self._since = self._since, synchronised(self._device)
        return self._since - began


class _Tokens:
    """The next token of each row [B], and its copy on the way to the host."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self._copy, self._there = tokens, None
        if tokens.is_cuda:
            self._copy = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True).copy_(tokens, non_blocking=True)
            self._there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._there.record()

    def note(self, rows: Sequence[_Row], seconds: float) -> None:
        """Add them to the rows that have not ended."""
        if self._there is not None:
            self._there.synchronize()
        for row, token in zip(rows, self._copy.tolist(), strict=True):
            if not row.finish:
                row.add(token, seconds)

    def replaced(self, rows: Tensor, other: "_Tokens") -> "_Tokens":
        """With these rows become others."""
        return _Tokens(self.tokens.index_copy(0, rows, other.tokens))


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


def _choose(logits: Tensor, sampling: Sampling, rows: Sequence[_Row]) -> Tensor:
    """Each row's next token, from logits [B, V] -> tokens [B]."""
    if any(row.processors for row in rows):
        changed = [
            row.processors(logits[b : b + 1], row.tokens) if row.processors and not row.finish else logits[b : b + 1]
            for b, row in enumerate(rows)
        ]
        logits = torch.cat([row.to(torch.float32) for row in changed])
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scores = logits.float().cpu()
    if sampling.processors == "none":
        none = torch.LongTensor(logits.shape[0], 0)  # the warpers look at the logits only
        scores = sampling.warpers()(none, scores)
    drawn = [
        torch.multinomial(chance, 1, generator=row.lot) for chance, row in zip(scores.softmax(-1), rows, strict=True)
    ]
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
        decode_seconds=row.ended - row.began,
        batch_seconds=row.ended,
        prefill_kept=tuple(cache.slots(index, 0)),
        slots_kept=tuple(cache.slots(index, steps)),
        prefill_full=tuple(cache.full_slots(full - steps)),
        slots_full=tuple(cache.full_slots(full)),
        cache_bytes=sum(n * size for n, size in zip(peak, slot_bytes, strict=True)),
        full_cache_bytes=cache.full_bytes(full),
        trace=cache.trace(index, steps),
    )


def _eos(model: PreTrainedModel) -> frozenset[int]:
    ends = model.generation_config.eos_token_id if model.generation_config else model.config.eos_token_id
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)


def _strings(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())
