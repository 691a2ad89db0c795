"""The engine: a prefill, then one token at a time, for a batch of prompts of different lengths.

`stream` is the whole loop: rows that have ended are retired, the next prompts are admitted in their place, and a step
adds one token to each row.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from scope.cache import CompressedCache, Layout, Policy
from scope.cache.inputs import layer_inputs
from scope.generation.clock import Clock
from scope.generation.engine import Engine, devices_of, read_together
from scope.generation.options import Options
from scope.generation.prefilled import Prefilled
from scope.generation.processors import require_possible
from scope.generation.rows import Generated, Prompt, Row, Tokens, pad_left, result_of
from scope.generation.sampling import Sampling, choose
from scope.generation.steps import Stepper
from scope.generation.turns import ask, read_turn
from scope.util.errors import ScopeError, shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROMPT = "Prompt(name, tokenizer(text).input_ids)"


def generate(
    model: "PreTrainedModel",
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    policy: Policy,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    options: Options | None = None,
) -> list[Generated]:
    """Answer prompts -> their generations, in the order of the prompts. Arguments and errors are those of `stream`.

    policy = Policy(SnapKV(budget=2048, window=8), Slide(budget=512, recent=256))
    rows = generate(model, tokenizer, [Prompt("a", tokenizer("...").input_ids)], policy, 600)
    print(rows[0].text, rows[0].cache_bytes, rows[0].full_cache_bytes)
    """
    made = dict(stream(model, tokenizer, prompts, policy, max_new_tokens, sampling, options))
    return [made[i] for i in range(len(prompts))]


@torch.inference_mode()
def stream(
    model: "PreTrainedModel",
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[Prompt],
    policy: Policy,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    options: Options | None = None,
) -> Iterator[tuple[int, Generated]]:
    """Answer prompts -> (index of the prompt, its generation) for each, as soon as it ends.

    A generation ends at an end-of-sequence token, at a stop string of its prompt, or after `max_new_tokens`. If the
    prompt has another turn, the row then reads that and goes on, with `max_new_tokens` for each answer. In float32
    its tokens are those that the prompt would get alone. Prompts with the same tokens that begin together are read
    once. With `sampling.samples` above 1, or a question that comes later, so are those that follow each other.

    model: any that a `CompressedCache` supports, from transformers' `from_pretrained` or from `scope.load`. From then
    on it runs scope's attention.
    prompts: each is taken when a row is free for it.
    policy: how the cache is compressed. max_new_tokens: T, at least 1.
    sampling: how tokens are chosen; None: greedily.
    options: how the batch is run; None: all prompts together, eagerly.

    Raises ScopeError for a model that a compressed cache does not support, an argument of a wrong type, a
    `max_new_tokens` below 1, or a step that cannot be recorded. Raises ConfigError for a generation config that cannot
    be followed (processors=model).
    """
    _require(model, prompts, policy)
    options, waiting = options or Options(), enumerate(prompts)
    batch = Batch(model, tokenizer, policy, max_new_tokens, sampling or Sampling(), options)
    batch.admit(list(islice(waiting, options.batch_size)))
    while True:
        while ended := batch.retire():
            yield from ended
            batch.admit(list(islice(waiting, len(ended))))
        if not batch.writing:
            return
        batch.step()


def _require(model: object, prompts: object, policy: object) -> None:
    """Raises ScopeError for an argument of a wrong type. Each prompt is checked when it is taken."""
    if not callable(model) or not hasattr(model, "config"):
        cure = "load(...).model" if hasattr(model, "model") else "as from from_pretrained"
        raise ScopeError(f"model={type(model).__name__}: must be a model of transformers, {cure}")
    if isinstance(prompts, Prompt | str) or not isinstance(prompts, Iterable):
        raise ScopeError(f"prompts={shown(prompts)}: must be a list of {PROMPT}")
    if not isinstance(policy, Policy):
        raise ScopeError(f"policy={shown(policy)}: must be a Policy(prefill, decoding)")


class _Started(NamedTuple):
    """Generations after the prefill of their prompts, in a cache of their own."""

    cache: CompressedCache
    rows: list[Row]
    chosen: Tokens  # the first generated token of each
    positions: Tensor  # [B, 1]: of the last tokens of the prompts


class Batch:
    """Rows that are written together in one cache: `admit` prompts, `step`, `retire` rows that have ended."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: PreTrainedTokenizerBase,
        policy: Policy,
        max_new_tokens: int,
        sampling: Sampling,
        options: Options,
    ) -> None:
        """Arguments and errors are those of `stream`."""
        if max_new_tokens < 1:
            raise ScopeError(f"max_new_tokens={max_new_tokens}: must be at least 1")
        self._model, self._tokenizer, self._policy = model, tokenizer, policy
        self._most, self._sampling, self._options, self._hooks = max_new_tokens, sampling, options, options.hooks
        self._kind = "eager" if self._hooks.watch else Engine(options.engine).on(devices_of(model))
        self._eos, self._stops = eos_of(model), _stop_strings(model, sampling)
        greedy = sampling.temperature == 0
        ahead = model.device.type == "cuda" and greedy if options.ahead is None else options.ahead
        self._ahead = ahead and not sampling.needs_tokens(model)
        self._clock = Clock(model.device)
        self._rows: list[Row] = []
        self._ended: list[int] = []  # rows that the last call of `retire` has returned
        self._last: Prefilled | None = None  # the prompt that was read last, if it may be asked for again
        self._cache: CompressedCache | None = None  # set with the first prompts, as the two below
        self._stepper: Stepper
        self._chosen: Tokens
        self._noted = True  # whether the rows know the chosen tokens

    @property
    def writing(self) -> bool:
        """Whether any row has not ended."""
        return any(not row.finish for row in self._rows)

    def admit(self, prompts: Sequence[tuple[int, Prompt]]) -> None:
        """Read prompts, each with its index, into the rows that were just retired. Rows that get none rest.

        The first call makes a row for each of its prompts. Prompts are read some at a time (`Engine.prefill_rows`):
        meanwhile all other rows hold what their budget leaves.
        """
        for _, prompt in prompts:
            if not isinstance(prompt, Prompt):
                raise ScopeError(f"prompts: {shown(prompt)} is a {type(prompt).__name__}: must be a {PROMPT}")
        first, free = self._cache is None, self._ended
        if self._cache is None:
            free = list(range(len(prompts)))
        else:
            self._cache.rest(free[len(prompts) :])
        lengths = tuple(len(prompt.tokens) for _, prompt in prompts)
        done = 0
        while done < len(prompts):
            some = slice(done, done + self._together([prompt.tokens for _, prompt in prompts[done:]]))
            if self._cache is None:
                self._open(prompts[some], lengths)
            else:
                self._refill(free[some], prompts[some])
            done = some.stop
        if first and self._cache is not None and self._hooks.observe:
            self._hooks.observe(self._cache)

    def _together(self, prompts: Sequence[Sequence[int]]) -> int:
        """How many of the next prompts get their rows together: those at hand, or those that are read together.

        Prompts that are equal are read once.
        """
        if self._at_hand(prompts[:1]):
            return next((n for n, one in enumerate(prompts) if not self._at_hand([one])), len(prompts))
        different = [*dict.fromkeys(prompts)]
        read = {*different[: read_together(self._options.prefill_rows, [len(one) for one in different])]}
        return next((n for n, one in enumerate(prompts) if one not in read), len(prompts))

    def _open(self, prompts: Sequence[tuple[int, Prompt]], lengths: tuple[int, ...]) -> None:
        """Read the first prompts of a new batch. Their cache becomes that of the batch.

        lengths: tokens of all prompts that the batch begins with. The rows behind those that are read here are copies
        of the first one, until prompts are read into them.
        """
        started = self._start(prompts, Layout(self._most, self._options.storage, self._kind != "eager", lengths))
        own = len(started.rows)
        rows = [*range(own), *[0] * (len(lengths) - own)]
        self._cache, positions, self._chosen = started.cache, started.positions, started.chosen
        if len(lengths) > own:
            self._cache.select(rows)
            at = torch.tensor(rows, device=positions.device)
            positions, self._chosen = positions[at], Tokens(started.chosen.tokens[at])
        self._rows = [started.rows[b] for b in rows]
        self._stepper = Stepper(self._model, self._cache, positions, self._kind)
        started.chosen.note(started.rows, self._clock.now())
        self._progress(started.rows)

    def _refill(self, refilled: Sequence[int], prompts: Sequence[tuple[int, Prompt]]) -> None:
        """Read prompts into these rows."""
        assert self._cache is not None
        started = self._start(prompts, Layout(0, self._options.storage))  # 0: its slots are moved at once
        self._place(refilled, started.cache, started.positions, started.chosen)
        if self._noted:
            started.chosen.note(started.rows, self._clock.now())
        for b, row in zip(refilled, started.rows, strict=True):
            self._rows[b] = row
        if not self._runs_ahead:
            self._note()
        self._progress(started.rows)

    def _place(self, rows: Sequence[int], cache: CompressedCache, positions: Tensor, chosen: Tokens) -> None:
        """Put the rows of another cache in place of these rows. positions, chosen: of their last and next tokens."""
        assert self._cache is not None
        self._cache.replace(rows, cache)
        at = torch.tensor(rows, device=positions.device)
        self._stepper.place(at, positions)
        self._chosen = self._chosen.replaced(at, chosen)

    def _progress(self, rows: Sequence[Row]) -> None:
        if self._hooks.progress:
            self._hooks.progress(sum(not row.finish for row in rows))

    def retire(self) -> list[tuple[int, Generated]]:
        """-> (index of the prompt, its generation) for each row that has ended since the last call.

        Before that, rows whose answer has ended read their next turn, if they have one.
        """
        while turning := [b for b, row in enumerate(self._rows) if row.finish and row.turns_left]:
            for b in turning:
                self._turn(b)
        self._ended = [b for b, row in enumerate(self._rows) if row.finish and not row.taken]
        if self._cache is None:
            return []
        for b in self._ended:
            self._rows[b].taken = True
        return [(self._rows[b].place, result_of(self._rows[b], b, self._cache)) for b in self._ended]

    def step(self) -> None:
        """Add one token to each row."""
        logits = self._stepper(self._chosen.tokens)
        self._note()  # if it runs ahead, the tokens of the step before, while the device runs this one
        self._chosen, self._noted = Tokens(choose(logits, self._sampling, self._rows)), False
        if not self._runs_ahead:
            self._note()
        if self._hooks.observe:
            assert self._cache is not None
            self._hooks.observe(self._cache)
        self._progress(self._rows)

    @property
    def _runs_ahead(self) -> bool:
        """Whether a step is launched before it is known which rows have ended. A row that ends may need its turn."""
        return self._ahead and not any(row.turns_left for row in self._rows)

    def _note(self) -> None:
        """Give the chosen tokens to the rows, if they do not have them."""
        if not self._noted:
            self._chosen.note(self._rows, self._clock.now())
        self._noted = True

    def _turn(self, b: int) -> None:
        """A row reads its next turn in a cache of its own, and comes back with the first token of its answer."""
        assert self._cache is not None
        row = self._rows[b]
        self._clock.stop()
        own = self._cache.fork([b])
        logits, position = read_turn(self._model, own, [row.turn()], [len(row.so_far) - 1])
        row.prefill_seconds += self._clock.go()
        so_far = [*row.so_far, *row.turn()[1:]]
        row.go_on(self._sampling.row_processors(self._model, so_far, self._most, self._eos))
        chosen = Tokens(choose(logits, self._sampling, [row]))
        chosen.note([row], self._clock.now())
        self._place([b], own, position, chosen)

    def _start(self, prompts: Sequence[tuple[int, Prompt]], layout: Layout) -> _Started:
        """Put prompts after their prefill into a new cache."""
        self._clock.stop()
        read = self._prefilled([prompt for _, prompt in prompts], layout)
        read = ask(self._model, read, [prompt.asking for _, prompt in prompts])
        rows = [self._row(index, prompt) for index, prompt in prompts]
        seconds = self._clock.go()
        for row in rows:
            row.began, row.prefill_seconds = self._clock.now(), seconds
        return _Started(read.cache, rows, Tokens(choose(read.logits, self._sampling, rows)), read.positions)

    def _prefilled(self, asked: Sequence[Prompt], layout: Layout) -> Prefilled:
        """A row for each of these prompts, in a cache of its own. None is read twice, and the last is kept for more."""
        prompts = [tuple(prompt.tokens) for prompt in asked]
        if not self._at_hand(prompts):
            self._last = None  # before others take its memory
        read = self._last or self._read([*dict.fromkeys(prompts)], layout)
        if self._sampling.samples == 1 and asked[-1].asking is None:  # nothing comes again later
            return read if read.prompts == tuple(prompts) else read.of(prompts)
        self._last = read if len(read.prompts) == 1 else read.of(prompts[-1:])
        return read.of(prompts)

    def _at_hand(self, prompts: Sequence[Sequence[int]]) -> bool:
        """Whether all of them have been read already."""
        return self._last is not None and {*prompts} <= {*self._last.prompts}

    def _read(self, prompts: Sequence[tuple[int, ...]], layout: Layout) -> Prefilled:
        """Prefill prompts into a new cache."""
        model, pad, chunk = self._model, self._tokenizer.pad_token_id or 0, self._options.prefill_chunk
        cache = CompressedCache.of(model.config, self._policy, layout, self._hooks.watch)
        logits, positions = prefill(model, cache, [Prompt("", prompt) for prompt in prompts], pad, chunk)
        return Prefilled(tuple(prompts), cache, logits, positions)

    def _row(self, index: int, prompt: Prompt) -> Row:
        processors = self._sampling.row_processors(self._model, prompt.whole, self._most, self._eos)
        prompt = replace(prompt, stop=prompt.stop + self._stops)
        lot = self._sampling.generator(prompt.name)
        return Row(index, prompt, self._tokenizer, self._eos, self._most, lot, processors)


def prefill(
    model: "PreTrainedModel", cache: CompressedCache, prompts: Sequence[Prompt], pad: int, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """Feed the prompts to an empty cache, `chunk` tokens at a time; None: all at once. `pad` fills shorter prompts.

    -> logits [B, V] after their last tokens, and the positions [B, 1] of these. Raises ScopeError for a model that
    does not run scope's attention.
    """
    ids, mask, positions = pad_left(prompts, pad, model.device)
    columns = ids.shape[1]
    ragged = not bool(mask.all())
    if chunk is None or chunk >= columns:
        chunk = columns
    else:
        cache.expect(mask)
    with layer_inputs(model) if cache.policy.prefill.layer_inputs else nullcontext():
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
    cache.require_prompt()
    return logits, positions[:, -1:]


def eos_of(model: "PreTrainedModel") -> frozenset[int]:
    """The tokens that end a generation."""
    ends = model.generation_config.eos_token_id if model.generation_config else model.config.eos_token_id
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)


def _stop_strings(model: "PreTrainedModel", sampling: Sampling) -> tuple[str, ...]:
    """Stop strings of the model's generation config, if it is followed. Raises ConfigError if that is not possible."""
    if sampling.processors != "model":
        return ()
    require_possible(model.generation_config)
    value = model.generation_config.stop_strings
    return (value,) if isinstance(value, str) else tuple(value or ())
