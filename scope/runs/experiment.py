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
from scope.generation.prompts import Encoded, encode, turn_tokens
from scope.generation.sampling import Sampling
from scope.prefill import PrefillMethod
from scope.runs.replaying import GOLD, Replaying
from scope.runs.traces import Trace
from scope.scoring import STANDARD, scorers
from scope.scoring.scorers import module_of, short_name
from scope.tasks import Sample, Task
from scope.util.errors import ConfigError, ImpossibleError, check_count


@dataclass(frozen=True)
class Experiment:
    """One model, prefill method, decoding strategy and task; `labels` are their names in tables."""

    model: ModelSource
    method: PrefillMethod
    decoding: DecodingStrategy
    task: Task
    sampling: Sampling
    labels: Mapping[str, str]
    granularity: str = "kv_head"
    max_bytes: int | None = None  # of one sequence's cache; D is what is left of them beside the prompt
    max_slots: int | float | None = None  # of one sequence, or a share of the full cache's; D as with max_bytes
    engine: Engine = field(default_factory=Engine)
    limit: int | None = None  # only so many prompts, the first ones
    trace: Trace | None = None  # what is recorded for figures; changes no answer
    precision: str = "float"  # in which keys and values are stored
    turns: str = "protect"  # what the tokens of later turns are, as of `Policy`
    replay: Replaying | None = None  # which texts are forced; None: the model writes its own
    scoring: Sequence[str] = STANDARD  # names of scorers; changes no answer
    setting: str = ""  # what differs from the other runs of a sweep, beside the labels; for people
    config: Mapping[str, Any] = field(default_factory=dict)  # as composed; recorded, never read here

    def __post_init__(self) -> None:
        """Raises SettingError for a wrong value, ConfigError for a scorer that does not exist.

        Raises ImpossibleError for what no replay can do.
        """
        if self.limit is not None:
            check_count(self, "limit", low=1)
        if self.replay and self.trace:
            raise ImpossibleError("trace: shows how a text is written, and measure=replay writes none: take trace=none")
        if self.replay and self.replay.of == GOLD and self.sampling.samples > 1:
            allowed = "must be 1: replay.of=gold forces one text a prompt"
            raise ImpossibleError(f"sampling.samples={self.sampling.samples}: {allowed}")
        _ = self.policy  # for its checks
        scorers(self.scoring)

    @property
    def policy(self) -> Policy:
        """How the cache is compressed. Raises SettingError for values that do not go together."""
        bounds = self.max_bytes, self.max_slots, self.task.max_new_tokens
        return Policy(self.method, self.decoding, self.granularity, *bounds, self.precision, self.turns)

    @property
    def parts(self) -> dict[str, object]:
        return {
            "model": self.model,
            "method": self.method,
            "decoding": self.decoding,
            "task": self.task,
            "sampling": self.sampling,
        }

    def code(self) -> dict[str, str]:
        """Source file -> hash of its code, for all classes of this run. It is not part of the identity."""
        return records.code_of(self.parts.values())

    def scoring_code(self) -> dict[str, str]:
        """Name of each scorer, as records have it -> hash of its code."""
        return {short_name(name): records.scorer_code(module_of(name)) for name in self.scoring}

    def requests(self) -> list["Request"]:
        """All generations to make, prompt by prompt, `sampling.samples` of each."""
        asked = [(s, draw) for s in self.samples for draw in range(self.sampling.samples)]
        return [Request(index, sample, draw) for index, (sample, draw) in enumerate(asked)]

    @property
    def samples(self) -> Sequence[Sample]:
        """The task's samples up to the limit."""
        return self.task.samples()[: self.limit]

    @cached_property
    def dtype(self) -> str:
        """Dtype of weights and cache, with `auto` resolved. Raises ScopeError for a model that cannot be reached."""
        return self.model.resolved_dtype()

    def identity(self) -> str:
        """A hash of all that can change an answer. Limits, tracking and paths are not part of it.

        Raises ScopeError for a model, or data, that cannot be reached.
        """
        forced = self.replay.origin(self.samples) if self.replay else ""
        beside = {"weights": self.model.fingerprint()} | ({"forced": forced} if forced else {})
        return records.identity(self.settings(limits=False) | beside)

    def require(self) -> None:
        """Raises ImpossibleError, naming the key, for what this machine cannot do.

        Raises ConfigError for a value that a manifest cannot hold, such as infinity.
        """
        if fault := records.fault_of_settings(self._described()):
            typed = fault.replace("cache.max_bytes=", "budget.bytes=").replace("cache.max_slots=", "budget.total=")
            raise ConfigError(typed)
        self.model.require()
        self.engine.on(self.model.expected_devices())

    def settings(self, limits: bool = True) -> dict[str, Any]:
        """All settings as plain data; without `limits`, only what can change an answer.

        `model.dtype=auto` is resolved. Raises ScopeError for a model, or data, that cannot be reached.
        """
        described = self._described(limits)
        described["model"]["dtype"] = self.dtype
        if origin := self.samples[0].origin:
            described["task"]["origin"] = origin
        if self.replay:
            described["replay"]["of"] = self.replay.told
        return described

    def _described(self, limits: bool = True) -> dict[str, dict[str, Any]]:
        """The settings as they were given."""
        # left out by default, so that runs from before there was a choice keep their identity
        precision = None if self.precision == "float" else self.precision
        turns = None if self.turns == "protect" else self.turns
        chosen = {"max_bytes": self.max_bytes, "max_slots": self.max_slots, "precision": precision, "turns": turns}
        cache = {"granularity": self.granularity} | {name: what for name, what in chosen.items() if what is not None}
        described = {name: records.describe(part, limits) for name, part in self.parts.items()}
        replay = {"replay": records.describe(self.replay, limits)} if self.replay else {}
        return described | {"cache": cache} | replay

    def prompt_room(self, config: PretrainedConfig) -> int | None:
        """The most tokens that a prompt may have: the model's context less T. None where the context has no bound.

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
        later = sum(len(turn) for turn in turn_tokens(tokenizer, sample)) + len(sample.turns) * self.task.max_new_tokens
        room = None if room is None else room - later
        return encode(tokenizer, sample, source.layout, room, source.overlong, source.template_input(day))

    @property
    def title(self) -> str:
        named = " + ".join(self.labels[key] for key in ("method", "decoding") if key in self.labels)
        return f"{named} ({self.setting})" if self.setting else named

    def folder_name(self, identity: str) -> str:
        """A readable folder name: the labels, and the first digits of the identity."""
        names = [self.labels[key] for key in ("model", "task", "method", "decoding") if key in self.labels]
        readable = re.sub(r"[^A-Za-z0-9.-]+", "_", "-".join(names)).lstrip(".")  # a name may hold any character
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
