"""The texts that a replay forces, as tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from scope import records
from scope.decoding import KeepAll
from scope.generation.prompts import Encoded, forced_tokens, hash_of
from scope.prefill import Full
from scope.runs.experiment import Experiment, Request
from scope.util.errors import ScopeError


@dataclass(frozen=True)
class Forced:
    """A text after one prompt.

    tokens: its tokens, at most T. answers: of each, whether it is part of a value that has to be recalled. cut: how
    many tokens were left out at its end.
    """

    tokens: tuple[int, ...]
    answers: tuple[bool, ...]
    cut: int = 0

    @cached_property
    def hash(self) -> str:
        """16 hex digits: a hash of the tokens."""
        return hash_of(self.tokens)


def forced_texts(
    experiment: Experiment,
    asked: Sequence[Request],
    prompts: Sequence[Encoded],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path | None,
) -> dict[int, Forced]:
    """The text of each request, by `Request.index`.

    prompts: of all requests, by the same index. folder: of the run whose texts are forced; None: the right answers are.
    Raises ScopeError for a sample without a text, or with one that was written after another prompt.
    """
    written = None if folder is None else records.read_run(folder).answered
    made = {}
    for request in asked:
        if written is None:
            assert request.sample.gold is not None  # `Replaying.origin` has seen to it
            tokens, answers = forced_tokens(tokenizer, request.sample.gold)
        else:
            tokens = list(tokenizer(_text(written, request, prompts, folder), add_special_tokens=False).input_ids)
            answers = [False] * len(tokens)
        most = experiment.task.max_new_tokens
        made[request.index] = Forced(tuple(tokens[:most]), tuple(answers[:most]), max(0, len(tokens) - most))
    return made


def _text(
    written: Mapping[str, Mapping[str, object]], request: Request, prompts: Sequence[Encoded], folder: Path | None
) -> str:
    if request.name not in written:
        raise ScopeError(f"{folder}: has no text of {request.name} to replay")
    record = written[request.name]
    was, now = record.get("prompt_hash"), prompts[request.index].hash
    if was != now:
        raise ScopeError(f"{folder}: {request.name} was written after another prompt ({was}, here {now})")
    return str(record["generation"])


def of_the_full_cache(experiment: Experiment) -> Experiment:
    """The run in which the same model writes with its full cache, for `replay.of=full`."""
    labels = dict(experiment.labels) | {"method": "full", "decoding": "none"}
    parts = {"method": {"_target_": "scope.prefill.Full"}, "decoding": {"_target_": "scope.decoding.KeepAll"}}
    parts["cache"] = {"precision": "float"}
    return replace(
        experiment,
        method=Full(),
        decoding=KeepAll(),
        granularity="kv_head",
        max_bytes=None,
        max_slots=None,
        precision="float",
        turns="protect",
        replay=None,
        labels=labels,
        setting="",
        config={**experiment.config, **parts, "replay": {}} if experiment.config else {},
    )
