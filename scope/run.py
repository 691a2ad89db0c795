"""The story of one run: generate, and as answers end score, record and track them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from transformers import PretrainedConfig

from scope import models, records, sizes
from scope.batches import OK, Lines, attempts, share
from scope.cache.compressed import GRANULARITIES, check_bytes
from scope.decoding import DecodingStrategy
from scope.engine import Engine, rows_that_fit
from scope.errors import ScopeError, check_choice, check_count
from scope.generate import Generated, Prompt, Sampling, stream
from scope.models import Loaded, ModelSource
from scope.prefill import PrefillMethod
from scope.progress import Progress
from scope.prompts import Encoded, encode
from scope.records import RecordKeeping, Records
from scope.secrets import redact
from scope.stopping import Stopping
from scope.tasks import Sample, Task
from scope.traces import Trace, record_trace
from scope.tracking import RunInfo, Tracker


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
    config: Mapping[str, Any] = field(default_factory=dict)  # as composed; recorded, not read

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_count(self, "limit", low=1)
        check_choice(self, "granularity", GRANULARITIES)
        check_bytes(self, self.decoding)

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

    def identity(self) -> str:
        """A hash of all that changes an answer: not of limits, tracking or paths."""
        return records.identity(self.settings(limits=False) | {"weights": self.model.fingerprint()})

    def settings(self, limits: bool = True) -> dict[str, Any]:
        """All settings as plain data; without `limits`, only what can change an answer."""
        described: dict[str, Any] = {name: records.describe(part, limits) for name, part in self.parts.items()}
        if origin := self.task.samples()[0].origin:
            described["task"]["origin"] = origin
        bound = {} if self.max_bytes is None else {"max_bytes": self.max_bytes}
        return described | {"cache": {"granularity": self.granularity, **bound}}

    def prompt_room(self, config: PretrainedConfig) -> int | None:
        """Tokens that the model's context leaves for a prompt beside T; all of it where T alone is longer."""
        most = models.context(config)
        return most and (most - self.task.max_new_tokens if most > self.task.max_new_tokens else most)

    @property
    def title(self) -> str:
        return " + ".join(self.labels[key] for key in ("method", "decoding") if key in self.labels)

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


def run(
    experiment: Experiment, tracker: Tracker, output: Path, console: Console, keeping: RecordKeeping | None = None
) -> Path:
    """Run an experiment below `output` (its last part names the sweep), or go on where it stopped. -> the run's folder.

    Raises ScopeError for what a user can mend, SamplesFailedError once the other samples are recorded, and Stopped
    once the answers under way are recorded where a signal has asked for it.
    """
    keeping = keeping or RecordKeeping()
    if there := finished(experiment, output, console, keeping):
        return there
    asked = share(experiment.requests(), keeping.part)
    identity = experiment.identity()
    name = experiment.folder_name(identity)
    folder = keeping.place(output / name)
    manifest = {
        "identity": identity,
        "experiment": output.name,
        "run": name,
        "seed": experiment.sampling.seed,
        "labels": dict(experiment.labels),
        "settings": experiment.settings(limits=False),
        "samples": len(asked),
        **({"shard": keeping.shard} if keeping.shard else {}),
    }
    prompts: list[Encoded] = []
    if not folder.exists():  # a model that is not there, or a prompt that does not fit, leaves no folder behind
        prompts = encode_all(experiment, models.load(experiment.model))
    if experiment.trace:  # refused before anything is written
        config = models.load(experiment.model).model.config.get_text_config(decoder=True)
        experiment.trace.require(config.num_hidden_layers)
    failed = 0
    with closing(Records(folder, as_yaml(experiment.config), manifest, keeping)) as kept, Stopping() as stopping:
        todo = [request for request in asked if request.name not in kept.done]
        if todo:
            loaded = models.load(experiment.model)
            prompts = prompts or encode_all(experiment, loaded)
            todo.sort(key=lambda request: -len(prompts[request.index].tokens))  # rows of like length share a prefill
            rows = batch_rows(experiment, loaded, max(len(prompts[request.index].tokens) for request in todo))
            tracker.start(RunInfo(output.name, folder.name, identity, folder, redact(experiment.config)))
            try:
                with Progress(experiment.title, len(todo), experiment.task.max_new_tokens, console) as progress:
                    answer = partial(answers, experiment, loaded, prompts, progress, stopping)
                    for _, lines in attempts(todo, min(rows, len(todo)), answer, give_up):
                        kept.append(lines)
                        progress.finish(lines)
                        failed += sum(line["status"] != OK for line in lines)
                        tracker.log(running(list(kept.done.values()), lines))
                    stopping.check()
            finally:
                tracker.finish(summary(list(kept.done.values())), [sample_row(line) for line in kept.done.values()])
    if experiment.trace:
        trace_prompts(experiment, experiment.trace, folder)
    announce(experiment, list(kept.done.values()), console)
    if failed:
        reason = f"{failed} of {manifest['samples']} samples failed, {folder / records.RECORDS} says why"
        raise SamplesFailedError(f"{reason}; the same command tries them again", folder)
    return folder


class SamplesFailedError(ScopeError):
    """Some samples of a run have no answer; the others are recorded in `folder`."""

    def __init__(self, message: str, folder: Path) -> None:
        super().__init__(message)
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.folder)


def finished(experiment: Experiment, output: Path, console: Console, keeping: RecordKeeping) -> Path | None:
    """The folder of a run that has nothing left to do, told from its files alone; says so."""
    identity = experiment.identity()
    folder = keeping.place(output / experiment.folder_name(identity))
    if experiment.trace or keeping.rerun or not (folder / records.MANIFEST).exists():
        return None
    manifest = records.read_manifest(folder)
    if manifest["identity"] != identity:
        return None
    if keeping.on_mismatch == "rerun" and records.mismatch(manifest, records.surroundings()):
        return None
    lines = {line["sample"]: line for line in records.read(folder) if line["status"] == OK}
    if any(request.name not in lines for request in share(experiment.requests(), keeping.part)):
        return None
    announce(experiment, list(lines.values()), console, " (was finished already)")
    return folder


def announce(experiment: Experiment, lines: Sequence[Mapping[str, Any]], console: Console, note: str = "") -> None:
    console.print(f"{experiment.title}: {headline(lines)}{note}", highlight=False, soft_wrap=True)


def encode_all(experiment: Experiment, loaded: Loaded) -> list[Encoded]:
    """Each prompt's tokens, in order; equal prompts of several draws share theirs."""
    source, room = experiment.model, experiment.prompt_room(loaded.model.config)
    made: list[Encoded] = []
    for request in experiment.requests():
        if request.draw:
            made.append(made[-1])
        else:
            made.append(encode(loaded.tokenizer, request.sample, source.layout, room, source.overlong))
    return made


def batch_rows(experiment: Experiment, loaded: Loaded, longest: int) -> int:
    """Rows to write at a time, for prompts of at most `longest` tokens. Raises ScopeError where none fits."""
    engine = experiment.engine
    if isinstance(engine.batch_size, int):
        return engine.batch_size
    config, dtype, most = loaded.model.config, experiment.model.dtype, experiment.task.max_new_tokens
    policies = (experiment.method, experiment.decoding, experiment.granularity)
    row = sizes.cache_bytes(config, *policies, dtype, longest, most, experiment.max_bytes)
    prefill = sizes.prefill_bytes(config, dtype, min(longest, engine.prefill_chunk or longest), longest)
    return rows_that_fit(row, prefill, loaded.model.device)


def answers(
    experiment: Experiment,
    loaded: Loaded,
    encoded: Sequence[Encoded],
    progress: Progress,
    stopping: Stopping,
    requests: Sequence[Request],
    rows: int,
) -> Iterator[tuple[Request, Lines]]:
    """Requests as they are answered, each with its record; `encoded`: the prompts of all requests of the run.

    None is begun once the run has been asked to stop.
    """
    prompts = (
        Prompt(request.name, encoded[request.index].tokens, request.sample.stop)
        for request in requests
        if not stopping.asked
    )
    drawn = experiment.sampling.temperature > 0
    began = datetime.now(UTC).isoformat(timespec="milliseconds")
    for place, made in stream(
        loaded.model,
        loaded.tokenizer,
        prompts,
        experiment.method,
        experiment.decoding,
        experiment.task.max_new_tokens,
        rows,
        experiment.sampling,
        progress=progress.step,
        granularity=experiment.granularity,
        max_bytes=experiment.max_bytes,
        prefill_chunk=experiment.engine.prefill_chunk,
        engine=experiment.engine.on(loaded.model.device),
    ):
        request = requests[place]
        line = {
            "sample": request.name,
            "prompt": request.sample.name,
            "draw": request.draw,
            "seed": experiment.sampling.seed_of(request.name) if drawn else None,
            "prompt_cut_tokens": encoded[request.index].cut,
            "batch": began,
            "batch_rows": min(rows, len(requests)),
            "batch_seconds": round(made.batch_seconds, 4),
        }
        yield request, [line | record(experiment.task, request.sample, len(encoded[request.index].tokens), made)]


def give_up(request: Request, status: str, reason: str) -> Lines:
    """The record of a generation that failed."""
    named = {"sample": request.name, "prompt": request.sample.name, "draw": request.draw}
    return [named | {"status": status, "reason": reason}]


def trace_prompts(experiment: Experiment, trace: Trace, folder: Path) -> None:
    """Answer some samples again, alone and looked at: recorded timings stay clean, and a finished run can be traced."""
    loaded = models.load(experiment.model)
    prompts = encode_all(experiment, loaded)
    for request in experiment.requests()[: trace.prompts]:
        record_trace(
            trace,
            loaded,
            Prompt(request.name, prompts[request.index].tokens, request.sample.stop),
            experiment.method,
            experiment.decoding,
            experiment.task.max_new_tokens,
            experiment.sampling,
            experiment.granularity,
            folder,
            experiment.max_bytes,
        )


def record(task: Task, sample: Sample, prompt_tokens: int, made: Generated) -> dict[str, Any]:
    """What is kept of one generation, as plain data. Slots are per layer; evictions are summed over the layers."""
    fed = len(made.tokens) - 1
    layers = len(made.slots_kept)
    prefill_evicted = layers * prompt_tokens - sum(made.prefill_kept)
    return {
        "status": OK,
        "prompt_tokens": prompt_tokens,
        "generated_tokens": len(made.tokens),
        "finish": made.finish,
        "generation": made.text,
        "questions": [asdict(answer) for answer in task.answers(sample, made.text)],
        "measures": task.measures(sample, made.text),
        "prefill_seconds": round(made.prefill_seconds, 4),
        "decode_seconds": round(made.decode_seconds, 4),
        "tokens_per_second": round(fed / made.decode_seconds, 2) if fed else None,
        "cache_bytes": made.cache_bytes,
        "full_cache_bytes": made.full_cache_bytes,
        "slots_kept": list(made.slots_kept),
        "prefill_kept": list(made.prefill_kept),
        "trace": made.trace,
        "prefill_evicted": prefill_evicted,
        "decode_evicted": layers * (prompt_tokens + fed) - sum(made.slots_kept) - prefill_evicted,
    }


def headline(lines: Sequence[Mapping[str, Any]]) -> str:
    """A run in a line."""
    found = summary(lines)
    parts = [f"{name} {found[name]:.1%}" for name in _measures(lines)]
    if found["questions"]:
        parts.insert(0, f"{found['accuracy']:.1%} of {found['questions']} answers right")
    if found["prompts_cut"]:
        parts.append(f"{found['prompts_cut']} of {found['samples']} prompts cut in the middle")
    parts += [f"{found['cache_share']:.0%} of the full cache's bytes", f"{found['tokens_per_second']:.0f} tokens/s"]
    return ", ".join(parts)


def _measures(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of each measure over the samples that have it."""
    values: dict[str, list[float]] = {}
    for line in lines:
        for name, value in line.get("measures", {}).items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The few figures of a run that are worth a line; intervals are the tables' business."""
    answers = [answer for line in lines for answer in line["questions"]]
    decode: dict[str, float] = {}  # of each batch, up to the end of its last row
    for line in lines:
        decode[line["batch"]] = max(decode.get(line["batch"], 0.0), line["batch_seconds"])
    tokens = sum(line["generated_tokens"] for line in lines)
    return {
        "samples": len(lines),
        "questions": len(answers),
        "accuracy": sum(a["correct"] for a in answers) / max(1, len(answers)),
        "missing": sum(a["found"] is None for a in answers) / max(1, len(answers)),
        "cache_share": sum(r["cache_bytes"] for r in lines) / max(1, sum(r["full_cache_bytes"] for r in lines)),
        "tokens_per_second": tokens / (sum(decode.values()) or 1.0),
        "prompts_cut": sum(line.get("prompt_cut_tokens", 0) > 0 for line in lines),
        **_measures(lines),
    }


def running(done: Sequence[Mapping[str, Any]], last: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Metrics after an answer: the run's so far, and the answer's own speed."""
    speeds = [line["tokens_per_second"] or 0.0 for line in last if line["status"] == OK]
    return summary(done) | {"sample_tokens_per_second": sum(speeds) / max(1, len(speeds))}


def sample_row(line: Mapping[str, Any]) -> dict[str, Any]:
    """A record as one row of a table of samples."""
    right = sum(answer["correct"] for answer in line["questions"])
    row: dict[str, Any] = {k: v for k, v in line.items() if isinstance(v, str | int | float) and k != "generation"}
    row |= line.get("measures", {})
    return row | {"right": right, "asked": len(line["questions"]), "generation": line["generation"]}


def as_yaml(config: Mapping[str, Any]) -> str:
    """Plain data as YAML, in its own order, without secrets."""
    text: str = yaml.safe_dump(redact(config), sort_keys=False)
    return text
