"""The rows of a batch: the prompt that each was given, and what has been written of it so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from scope.cache import CompressedCache
from scope.generation.processors import RowProcessors
from scope.generation.text import Text
from scope.util.errors import SettingError


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


class Row:
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


class Tokens:
    """The next token of each row [B], and its copy on the way to the host."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self._copy, self._there = tokens, None
        if tokens.is_cuda:
            self._copy = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True).copy_(tokens, non_blocking=True)
            self._there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._there.record()

    def note(self, rows: Sequence[Row], seconds: float) -> None:
        """Add them to the rows that have not ended."""
        if self._there is not None:
            self._there.synchronize()
        for row, token in zip(rows, self._copy.tolist(), strict=True):
            if not row.finish:
                row.add(token, seconds)

    def replaced(self, rows: Tensor, other: "Tokens") -> "Tokens":
        """With these rows become others."""
        return Tokens(self.tokens.index_copy(0, rows, other.tokens))


def result_of(row: Row, index: int, cache: CompressedCache) -> Generated:
    steps = len(row.tokens) - 1  # the last token is never fed back
    return Generated(
        tokens=tuple(row.tokens),
        text=row.text,
        finish=row.finish,
        prefill_seconds=row.prefill_seconds,
        decode_seconds=row.ended - row.began,
        batch_seconds=row.ended,
        **held_by(cache, index, len(row.prompt.tokens), steps),
    )


class Held(TypedDict):
    """What a cache did for one row: the fields of the same names of `Generated`."""

    prefill_kept: tuple[int, ...]
    slots_kept: tuple[int, ...]
    prefill_full: tuple[int, ...]
    slots_full: tuple[int, ...]
    cache_bytes: int
    full_cache_bytes: int
    trace: str


def held_by(cache: CompressedCache, index: int, prompt: int, steps: int) -> Held:
    """Of the row at `index`, whose prompt has so many tokens, after that many decode steps."""
    peak = cache.peak_slots(index, steps)
    return Held(
        prefill_kept=tuple(cache.slots(index, 0)),
        slots_kept=tuple(cache.slots(index, steps)),
        prefill_full=tuple(cache.full_slots(prompt)),
        slots_full=tuple(cache.full_slots(prompt + steps)),
        cache_bytes=sum(n * cache.slot_bytes(layer) for layer, n in enumerate(peak)),
        full_cache_bytes=cache.full_bytes(prompt + steps),
        trace=cache.trace(index, steps),
    )
