"""Infinite-Bench En.Sum (Zhang et al. 2024, arXiv 2402.13718): summarise the novel in the prompt."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from scope.scoring import rouge
from scope.tasks.sets import advice, stamped, write_set, written_gold
from scope.tasks.sources import WORKED, Hub, Row, read, read_text, require
from scope.tasks.task import BuiltOnce, Reference, Sample
from scope.util.errors import ConfigError, SettingError, check_count


@dataclass(frozen=True)
class InfiniteBench(BuiltOnce):
    """One text per prompt. The generated summary is scored by ROUGE against reference summaries.

    name: of the samples. hub: the data set, with columns context and answer.
    source: a file or folder instead of the hub. It has the same columns, or prompts that are already built (prompt and
    references).
    max_new_tokens: T. prompt_tokens: a longer prompt is cut in its middle to this many tokens.
    template: a text file of your own that says {text} where the text goes; None takes the one in `worked`.
    cache: a folder that keeps the prompts built from the hub.
    Raises SettingError for an invalid value.
    """

    name: str
    hub: Hub
    max_new_tokens: int
    prompt_tokens: int
    template: str | None = field(default=None, metadata={"limit": True})
    source: str | None = field(default=None, metadata={"limit": True})
    cache: str | None = field(default=None, metadata={"limit": True})

    def __post_init__(self) -> None:
        check_count(self, "max_new_tokens", low=1)
        check_count(self, "prompt_tokens", low=2)

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        return rouge.score(sample.references, generation)

    @cached_property
    def _samples(self) -> tuple[Sample, ...]:
        """Raises ConfigError for a source that is malformed, ScopeError where the hub is out of reach."""
        file = Path(self.template) if self.template else WORKED / "en_sum.txt"
        template = read_text(file, "task.template")
        if "{text}" not in template:
            raise ConfigError(SettingError(self, "template", file, "a file that says {text}").describe("task.template"))
        rouge.scorer()  # a missing package is reported before anything is generated
        made_of = hashlib.sha256(repr((self.hub, template)).encode()).hexdigest()
        kept = Path(self.cache or ".") / f"{self.name}-{made_of[:12]}.jsonl"
        if self.source is not None:
            rows, where = read(self.source, [self.hub.split]), f"task.source={self.source}"
        elif self.cache and kept.exists():
            rows, where = read(str(kept), []), str(kept)
        else:
            rows, where = self.hub.rows(advice(self.name)), self.hub.dataset
        samples = stamped([self._sample(row, at, template, where) for at, row in enumerate(rows)])
        if self.source is None and self.cache and not kept.exists():
            write_set(kept, samples)
        return samples

    def _sample(self, row: Row, at: int, template: str, where: str) -> Sample:
        made = "prompt" in row
        prompt, answer = ("prompt", "references") if made else ("context", "answer")
        require(row, [prompt, answer], f"{where}: row {at + 1}")
        references = row[answer] if isinstance(row[answer], list) else [row[answer]]
        if not all(isinstance(reference, str) and reference for reference in references) or not references:
            raise ConfigError(f"{where}: row {at + 1}: {answer} must be a summary or a list of them")
        if not isinstance(row[prompt], str):
            raise ConfigError(f"{where}: row {at + 1}: {prompt} must be a text")
        text = row[prompt] if made else template.replace("{text}", row[prompt])
        gold = written_gold(row, f"{where}: row {at + 1}") or Reference(references[0])
        name, most = f"{self.name}-{at}", self.prompt_tokens
        return Sample(name, text, (), references=tuple(references), most_tokens=most, gold=gold)
