"""Texts of one's own, to be continued: windows of files, whose own next words replay forces."""

import glob
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from scope.tasks.sets import stamped
from scope.tasks.sources import read, read_text, require
from scope.tasks.task import BuiltOnce, Reference, Sample, require_offsets
from scope.util.errors import ConfigError, check_count

KINDS = (".txt", ".md", ".jsonl")
WORD_END = re.compile(r"(?<=\S)(?=\s|\Z)")
PYTHON = "pydoc_data.topics"  # the language reference, in English, that every Python carries


@runtime_checkable
class HasTokenizer(Protocol):
    def tokenizer(self) -> Any:
        """A tokenizer of transformers. Raises ScopeError where it is out of reach."""
        ...


@dataclass(frozen=True)
class Text(BuiltOnce):
    """Windows of texts: a prompt of at most `prompt_tokens`, and of its continuation at most `continuation_tokens`.

    The windows of a text do not overlap, and begin and end between words; what is left at a text's end is too short for
    one. There is nothing to score in a generation: replay forces the text's own continuation.

    model: whose tokenizer counts. source: a .txt, .md or .jsonl file, a folder of such, or a pattern like notes/*.md;
    None is the English that Python carries. column: of a .jsonl file, what holds the text; every row is a text.
    prompts: how many samples at most; one window of every text is taken before the second of any.
    skip: how many of them are left out first, so that a search and a report read different ones.
    Raises SettingError for values that cannot be.
    """

    model: HasTokenizer = field(metadata={"limit": True})  # the samples' origin tells what was in them
    prompt_tokens: int
    continuation_tokens: int
    source: str | None = field(default=None, metadata={"limit": True})
    column: str = field(default="text", metadata={"limit": True})
    prompts: int = field(default=24, metadata={"limit": True})
    skip: int = field(default=0, metadata={"limit": True, "later": True})

    def __post_init__(self) -> None:
        check_count(self, "prompt_tokens", low=1)
        check_count(self, "continuation_tokens", low=1)
        check_count(self, "prompts", low=1)
        check_count(self, "skip")

    @property
    def max_new_tokens(self) -> int:
        return self.continuation_tokens

    @cached_property
    def _samples(self) -> tuple[Sample, ...]:
        """Raises ConfigError for a source that cannot be read, or has no text that is long enough."""
        tokenizer = self.model.tokenizer()
        require_offsets(tokenizer, "task=text: ")
        sizes = (self.prompt_tokens, self.continuation_tokens)
        cut = [[(name, *parts) for parts in windows(tokenizer, text, sizes)] for name, text in self._texts()]
        taken = [window for window in chain.from_iterable(zip_longest(*cut)) if window is not None]
        if not taken:
            raise ConfigError(
                f"task.source={self.source or PYTHON}: no text of it has the {sum(sizes)} tokens of one window: lower "
                "task.prompt_tokens or task.continuation_tokens"
            )
        if self.skip >= len(taken):
            raise ConfigError(f"task.skip={self.skip}: must be less than the windows that there are, {len(taken)}")
        made = [
            Sample(f"text-{at}", prompt, (), gold=Reference(continuation), as_text=True, cluster=name)
            for at, (name, prompt, continuation) in enumerate(taken)
        ]
        return stamped(made)[self.skip : self.skip + self.prompts]

    def _texts(self) -> Iterator[tuple[str, str]]:
        """Name and text of each, in the order of the names."""
        if self.source is None:
            from pydoc_data.topics import topics

            yield from sorted(topics.items())
            return
        for path in _files(self.source):
            if path.suffix != ".jsonl":
                yield str(path), read_text(path, "task.source")
                continue
            for number, row in enumerate(read(str(path), []), start=1):
                where = f"task.source={path}: row {number}"
                require(row, [self.column], where)
                if not isinstance(row[self.column], str):
                    raise ConfigError(f"{where}: {self.column} must be a text")
                yield f"{path}:{number}", row[self.column]


def _files(source: str) -> list[Path]:
    """The files of a file, folder or pattern, in the order of their names. Raises ConfigError."""
    path = Path(source).expanduser()
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix in KINDS and file.is_file()]
    else:
        found = [path] if path.exists() else [Path(name) for name in glob.glob(str(path), recursive=True)]
        found = [file for file in found if not file.is_dir()]
        if wrong := [file for file in found if file.suffix not in KINDS]:
            raise ConfigError(f"task.source={wrong[0]}: must be {', '.join(KINDS)}, a folder of such, or a pattern")
    if not found:
        what = f"holds no {', '.join(KINDS)} file" if path.is_dir() else "there is no such file or folder"
        raise ConfigError(f"task.source={source}: {what}")
    return sorted(found)


def windows(tokenizer: Any, text: str, sizes: Sequence[int]) -> list[tuple[str, ...]]:
    """A text from its beginning in windows of parts, each of at most `sizes` tokens and as near to that as words allow.

    Together they are the text, without an end that does not fill one more window. A part has at most so many tokens
    also where it is cut into tokens by itself.
    """
    tokens = [end for _, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping]
    words = [found.end() for found in WORD_END.finditer(text)]
    made: list[tuple[str, ...]] = []
    begin = 0
    while True:
        parts = []
        for most in sizes:
            last = bisect_right(tokens, begin) + most
            if last > len(tokens):
                return made
            within = _between(words, begin, tokens[last - 1]) or _between(tokens, begin, tokens[last - 1])
            fits = (end for end in reversed(within) if _count(tokenizer, text[begin:end]) <= most)
            end = next(fits, within[0])
            parts.append(text[begin:end])
            begin = end
        made.append(tuple(parts))


def _between(ends: Sequence[int], begin: int, last: int) -> Sequence[int]:
    """Of ascending ends those after `begin`, up to `last`."""
    return ends[bisect_right(ends, begin) : bisect_right(ends, last)]


def _count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False).input_ids)
