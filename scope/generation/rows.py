"""The rows of a batch: their prompts, and what has been generated so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from scope.cache import CompressedCache
from scope.generation.processors import RowProcessors
from scope.generation.text import Text
from scope.util.errors import SettingError

PARTED = "\n\n"  # between the answers to several turns, in one text


@dataclass(frozen=True)
class Prompt:
    """A prompt to answer.

        Prompt("a", tokenizer("...").input_ids)

    name: seeds the sampling, so that it does not depend on the batch.
    tokens: of the prompt: a sequence of whole numbers, such as a list or a tensor [P]. They are kept as a tuple.
    stop: strings that end the generation. They are looked for in the generated text only, and are not part of the
    answer. They may hold the text of a special token.
    visible: texts of special tokens that are shown in the answer, such as `</think>`. Others are left out of it.
    turns: the tokens of later turns. Each follows the answer to what came before, and is answered in its turn.
    asking: the tokens of a question that is read when the prompt has been compressed, before anything is answered; how
    they are stored is for `Policy.turns` to say. None: there is none.

    Raises SettingError for tokens that are none, and for an empty stop string.
    """

    name: str
    tokens: Sequence[int]
    stop: tuple[str, ...] = ()
    visible: tuple[str, ...] = ()
    turns: tuple[Sequence[int], ...] = ()
    asking: Sequence[int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", _tokens(self, "tokens", self.tokens))
        object.__setattr__(self, "turns", tuple([_tokens(self, "turns", turn) for turn in self.turns]))
        if self.asking is not None:
            object.__setattr__(self, "asking", _tokens(self, "asking", self.asking))
        if "" in self.stop:
            raise SettingError(self, "stop", "('',)", "strings of at least one character")

    @property
    def whole(self) -> list[int]:
        """All tokens before the first answer."""
        return [*self.tokens, *(self.asking or ())]


def _tokens(prompt: Prompt, field: str, given: Any) -> tuple[int, ...]:
    """The tokens as a tuple. Raises SettingError for anything else than whole numbers of at least 0."""
    numbers = given.tolist() if hasattr(given, "tolist") else given  # a tensor, or an array of numpy
    fine = isinstance(numbers, Sequence) and not isinstance(numbers, str | bytes) and len(numbers) > 0
    if not fine or not all(type(token) is int and token >= 0 for token in numbers):
        raise SettingError(prompt, field, _named(given), "the tokens of one text, tokenizer(text).input_ids")
    return tuple(numbers)


def _named(given: Any) -> str:
    """A text is shown as it is. Of anything else its type says more, and of a tensor its shape."""
    if isinstance(given, str):
        return repr(given)
    shape = getattr(given, "shape", None)
    if shape is not None:
        return f"{type(given).__name__} {list(shape)}"
    return f"an empty {type(given).__name__}" if isinstance(given, Sequence) and not given else type(given).__name__


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a cache did for one row. Slots are one number per layer. Bytes count keys, values and channels."""

    prefill_kept: tuple[int, ...]  # slots left by the prefill
    slots_kept: tuple[int, ...]  # slots at the end; the last token is never fed
    prefill_full: tuple[int, ...]  # slots that transformers' own cache would hold after the prefill
    slots_full: tuple[int, ...]  # and at the end
    cache_bytes: int  # of the most slots that it held at once
    full_cache_bytes: int  # of the keys and values that transformers' own cache would hold at the end
    trace: str  # a hash of the number of slots in each layer after each step: equal where evictions were as many


@dataclass(frozen=True)
class Generated(Held):
    """The generation of one prompt, and what its cache held. Seconds are wall time.

    prefill_seconds: of the prefill, of all prompts that it had together, and of its later turns. If the prompt was read
    before: of copying it.
    """

    tokens: tuple[int, ...]  # generated tokens, of all turns
    text: str  # of the tokens, without a stop string; an empty line parts the answers to several turns
    finish: str  # what ended it: eos, stop or length
    prefill_seconds: float
    decode_seconds: float  # of the decode steps from its prefill to its end
    batch_seconds: float  # of all decode steps of its batch up to its end
    answers: tuple[str, ...] = ()  # the text of each turn's answer, if there are later turns


def pad_left(prompts: Sequence[Prompt], pad: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Pad prompts on the left with the token `pad` -> ids [B, P], mask [B, P] bool (True = token), positions [B, P]."""
    lengths = torch.tensor([len(p.tokens) for p in prompts])
    longest = int(lengths.max())
    ids = torch.full((len(prompts), longest), pad)
    for row, prompt in zip(ids, prompts, strict=True):
        row[longest - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
    positions = torch.arange(longest) - (longest - lengths)[:, None]
    return ids.to(device), (positions >= 0).to(device), positions.clamp(min=0).to(device)


class Row:
    """A generation so far, and whether it has ended."""

    def __init__(
        self,
        place: int,
        prompt: Prompt,
        tokenizer: PreTrainedTokenizerBase,
        eos: frozenset[int],
        max_new_tokens: int,
        lot: torch.Generator,
        processors: RowProcessors | None,
    ) -> None:
        """place: index of the prompt. eos: tokens that end it. lot: the random numbers of sampling."""
        self.place, self.prompt = place, prompt
        self.eos, self.max_new_tokens, self.lot, self.processors = eos, max_new_tokens, lot, processors
        self.began = self.ended = 0.0  # times on the clock of decoding
        self.prefill_seconds = 0.0
        self.tokens: list[int] = []
        self.text = ""
        self.finish = ""
        self._tokenizer = tokenizer
        self._text = Text(tokenizer, prompt.stop, prompt.visible)
        self.before: list[tuple[list[int], str]] = []  # tokens and text of the answers to earlier turns
        self.taken = False  # `Batch.retire` has returned it

    def add(self, token: int, seconds: float) -> None:
        """Add a token and decide whether it is the last. seconds: the time on the clock of decoding."""
        self.tokens.append(token)
        stopped = self._text.add(token)
        self.ended = seconds
        if token in self.eos:
            self.finish = "eos"
        elif stopped:
            self.finish = "stop"
        elif len(self.tokens) == self.max_new_tokens:
            self.finish = "length"
        if self.finish:
            self.text = self._text.final()

    @property
    def turns_left(self) -> bool:
        """Whether another turn follows the answer that is being written."""
        return len(self.before) < len(self.prompt.turns)

    @property
    def so_far(self) -> list[int]:
        """All tokens of the row: the prompt's, and those of answers and turns."""
        found = self.prompt.whole
        for (tokens, _), turn in zip(self.before, self.prompt.turns, strict=False):
            found += [*tokens, *turn]
        return found + self.tokens

    def turn(self) -> list[int]:
        """The next turn as it is fed: the answer's last token, which was not fed, comes before it."""
        return [self.tokens[-1], *self.prompt.turns[len(self.before)]]

    def go_on(self, processors: RowProcessors | None) -> None:
        """The next turn was read, and is answered. processors: of the new answer."""
        self.before.append((self.tokens, self.text))
        self.tokens, self.text, self.finish, self.processors = [], "", "", processors
        self._text = Text(self._tokenizer, self.prompt.stop, self.prompt.visible)


class Tokens:
    """The next token of each row [B], with a copy to the host that may still be under way."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self._copy, self._there = tokens, None
        if tokens.is_cuda:
            self._copy = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True).copy_(tokens, non_blocking=True)
            self._there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._there.record()

    def note(self, rows: Sequence[Row], seconds: float) -> None:
        """Wait for the copy, and add each token to its row, if the row has not ended."""
        if self._there is not None:
            self._there.synchronize()
        for row, token in zip(rows, self._copy.tolist(), strict=True):
            if not row.finish:
                row.add(token, seconds)

    def replaced(self, rows: Tensor, other: "Tokens") -> "Tokens":
        """The tokens with those of `other` in these rows."""
        return Tokens(self.tokens.index_copy(0, rows, other.tokens))


def result_of(row: Row, index: int, cache: CompressedCache) -> Generated:
    """The finished generation of a row. index: of the row in the batch."""
    answers = [*row.before, (row.tokens, row.text)]
    seen = len(row.so_far) - 1  # the last token is never fed back
    prompt = row.prompt.whole if cache.policy.turns == "protect" else row.prompt.tokens
    return Generated(
        tokens=tuple(token for tokens, _ in answers for token in tokens),
        text=PARTED.join(text for _, text in answers),
        finish=row.finish,
        prefill_seconds=row.prefill_seconds,
        decode_seconds=row.ended - row.began,
        batch_seconds=row.ended,
        **vars(held_by(cache, index, len(prompt), seen - cache.rows.lengths[index], seen)),
        answers=tuple(text for _, text in answers) if row.before else (),
    )


def held_by(cache: CompressedCache, index: int, prompt: int, steps: int, seen: int | None = None) -> Held:
    """Of the row at `index`, whose prompt has so many tokens, after that many decode steps.

    seen: tokens in all, if later turns are among them; None: those of the prompt and of the steps.
    """
    peak, seen = cache.peak_slots(index, steps), prompt + steps if seen is None else seen
    return Held(
        prefill_kept=tuple(cache.slots(index, 0)),
        slots_kept=tuple(cache.slots(index, steps)),
        prefill_full=tuple(cache.full_slots(prompt)),
        slots_full=tuple(cache.full_slots(seen)),
        cache_bytes=sum(n * cache.slot_bytes(layer) for layer, n in enumerate(peak)),
        full_cache_bytes=cache.full_bytes(seen),
        trace=cache.trace(index, steps),
    )
