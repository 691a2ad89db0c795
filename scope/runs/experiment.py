"""What one run is: its parts, what it asks for, and what makes it another run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from scope import records
from scope.cache import Policy
from scope.decoding import DecodingStrategy
from scope.generation import models
from scope.generation.engine import Engine
from scope.generation.models import ModelSource
from scope.generation.prompts import Encoded, encode
from scope.generation.sampling import Sampling
from scope.prefill import PrefillMethod
from scope.runs.traces import Trace
from scope.scoring import STANDARD, scorers
from scope.tasks import Sample, Task
from scope.util.errors import ImpossibleError, check_count


@dataclass(frozen=True)
class Experiment:
    """One model, prefill method, decoding strategy and task; `labels` are the names they go by in tables."""

    model: ModelSource
    method: PrefillMethod
    decoding: DecodingStrategy
    task: Task
    sampling: Sampling
    labels: Mapping[str, str]
    granularity: str = "kv_head"
    max_bytes: int | None = None  # of a sequence's cache: D is what they leave beside the prompt
    engine: Engine = field(default_factory=Engine)
    limit: int | None = None  # the first so many prompts only
    trace: Trace | None = None  # what is looked at besides; changes no answer
    scoring: Sequence[str] = STANDARD  # names of scorers; changes no answer
    setting: str = ""  # what tells it from the other runs of a sweep, beside the labels; for people
    config: Mapping[str, Any] = field(default_factory=dict)  # as composed; recorded, not read

    def __post_init__(self) -> None:
        """Raises SettingError, or ConfigError for a scorer that there is not."""
        if self.limit is not None:
            check_count(self, "limit", low=1)
        _ = self.policy  # for its checks
        scorers(self.scoring)

    @property
    def policy(self) -> Policy:
        """How the cache is compressed. Raises SettingError for what cannot be."""
        return Policy(self.method, self.decoding, self.granularity, self.max_bytes)

    @property
    def parts(self) -> dict[str, object]:
        return {
            "model": self.model,
            "method": self.method,
            "decoding": self.decoding,
            "task": self.task,
            "sampling": self.sampling,
        }

    def requests(self) -> list["Request"]:
        """What is to be generated: each prompt as often as it is sampled, the first prompt's first."""
        asked = [(s, draw) for s in self.task.samples()[: self.limit] for draw in range(self.sampling.samples)]
        return [Request(index, sample, draw) for index, (sample, draw) in enumerate(asked)]

    @cached_property
    def dtype(self) -> str:
        """Of weights and cache: what `model.dtype=auto` comes to here. Raises ScopeError for a model out of reach."""
        return self.model.resolved_dtype()

    def identity(self) -> str:
        """A hash of all that changes an answer: not of limits, tracking or paths.

        Raises ScopeError for a model, or data, out of reach.
        """
        return records.identity(self.settings(limits=False) | {"weights": self.model.fingerprint()})

    def require(self) -> None:
        """Raises ImpossibleError, naming the key, for what this machine cannot do."""
        self.model.require()
        self.engine.on(self.model.expected_devices())

    def settings(self, limits: bool = True) -> dict[str, Any]:
        """All settings as plain data; without `limits`, only what can change an answer.

        The dtype is what `auto` comes to here. Raises ScopeError where that, or the data, is out of reach.
        """
        described: dict[str, Any] = {name: records.describe(part, limits) for name, part in self.parts.items()}
        described["model"]["dtype"] = self.dtype
        if origin := self.task.samples()[0].origin:
            described["task"]["origin"] = origin
        bound = {} if self.max_bytes is None else {"max_bytes": self.max_bytes}
        return described | {"cache": {"granularity": self.granularity, **bound}}

    def prompt_room(self, config: PretrainedConfig) -> int | None:
        """Tokens that the model's context leaves for a prompt beside T; None where it sets no bound.

        Raises ImpossibleError where it leaves none.
        """
        most, asked = models.context(config), self.task.max_new_tokens
        if most is not None and asked >= most:
            raise ImpossibleError(
                f"task.max_new_tokens={asked}: must be below {most}, the model's context in tokens, of which a prompt "
                "takes some"
            )
        return most and most - asked

    def encoded(self, tokenizer: PreTrainedTokenizerBase, sample: Sample, room: int | None, day: date) -> Encoded:
        """A sample's prompt in tokens. room: as of `prompt_room`; day: on which the run was begun.

        Raises ScopeError for a prompt that does not fit, or that the model's chat template refuses.
        """
        source = self.model
        return encode(tokenizer, sample, source.layout, room, source.overlong, source.template_input(day))

    @property
    def title(self) -> str:
        named = " + ".join(self.labels[key] for key in ("method", "decoding") if key in self.labels)
        return f"{named} ({self.setting})" if self.setting else named

    def folder_name(self, identity: str) -> str:
        """For people: the labels of what is compared, and enough of the identity to tell runs apart."""
        names = [self.labels[key] for key in ("model", "task", "method", "decoding") if key in self.labels]
        readable = re.sub(r"[^A-Za-z0-9.-]+", "_", "-".join(names)).lstrip(".")  # an option may be named anything
        return f"{readable[:190]}-{identity[:8]}"


@dataclass(frozen=True)
class Request:
    """One generation to make: the `draw`-th of a prompt."""

    index: int
    sample: Sample
    draw: int

    @property
    def name(self) -> str:
        return f"{self.sample.name}#{self.draw}" if self.draw else self.sample.name
