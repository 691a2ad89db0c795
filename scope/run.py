"""The story of one run: for each batch of samples generate, score, record, track."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from scope import models, records
from scope.cache.compressed import GRANULARITIES
from scope.decoding import DecodingStrategy
from scope.errors import check_choice, check_count
from scope.generate import Generated, Prompt, Sampling, generate
from scope.models import Loaded, ModelSource
from scope.prefill import PrefillMethod
from scope.progress import Progress
from scope.records import Records
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
    batch_size: int = 8
    trace: Trace | None = None  # what is looked at besides; changes no answer
    config: Mapping[str, Any] = field(default_factory=dict)  # as composed; recorded, not read

    def __post_init__(self) -> None:
        check_count(self, "batch_size", low=1)
        check_choice(self, "granularity", GRANULARITIES)

    @property
    def parts(self) -> dict[str, object]:
        return {
            "model": self.model,
            "method": self.method,
            "decoding": self.decoding,
            "task": self.task,
            "sampling": self.sampling,
        }

    def identity(self) -> str:
        """A hash of all that changes an answer: not of limits, tracking or paths."""
        return records.identity(self.settings(limits=False) | {"weights": self.model.fingerprint()})

    def settings(self, limits: bool = True) -> dict[str, Any]:
        """All settings as plain data; without `limits`, only what can change an answer."""
        described: dict[str, Any] = {name: records.describe(part, limits) for name, part in self.parts.items()}
        return described | {"cache": {"granularity": self.granularity}}

    def folder_name(self, identity: str) -> str:
        """For people: the labels of what is compared, and enough of the identity to tell runs apart."""
        names = [self.labels[key] for key in ("model", "task", "method", "decoding") if key in self.labels]
        return "-".join([*names, identity[:8]])[:200]


def run(experiment: Experiment, tracker: Tracker, output: Path, console: Console) -> Path:
    """Run an experiment below `output` (its last part names the sweep), or go on where it stopped. -> the run's folder.

    Raises ScopeError for what a user can mend.
    """
    samples = experiment.task.samples()
    identity = experiment.identity()
    folder = output / experiment.folder_name(identity)
    manifest = {
        "identity": identity,
        "experiment": output.name,
        "run": folder.name,
        "seed": experiment.sampling.seed,
        "labels": dict(experiment.labels),
        "settings": experiment.settings(limits=False),
        "samples": len(samples),
        **records.surroundings(),
    }
    if not folder.exists():
        models.load(experiment.model)  # a model that is not there leaves no folder behind
    if experiment.trace:  # refused before anything is written
        config = models.load(experiment.model).model.config.get_text_config(decoder=True)
        experiment.trace.require(config.num_hidden_layers)
    title = " + ".join(experiment.labels[key] for key in ("method", "decoding") if key in experiment.labels)
    with closing(Records(folder, as_yaml(experiment.config), manifest)) as kept:
        todo = [(i, sample) for i, sample in enumerate(samples) if sample.name not in kept.done]
        if todo:
            loaded = models.load(experiment.model)
            tracker.start(RunInfo(output.name, folder.name, identity, folder, dict(experiment.config)))
            try:
                with Progress(title, len(todo), experiment.task.max_new_tokens, console) as progress:
                    for batch in chunks(todo, experiment.batch_size):
                        lines = run_batch(experiment, loaded, batch, progress)
                        kept.append(lines)
                        progress.finish(lines)
                        tracker.log(running(list(kept.done.values()), lines))
            finally:
                tracker.finish(summary(list(kept.done.values())), [sample_row(line) for line in kept.done.values()])
    if experiment.trace:
        for sample in samples[: experiment.trace.prompts]:
            trace_sample(experiment, experiment.trace, sample, folder)
    found = summary(list(kept.done.values()))
    again = "" if todo else " (was finished already)"
    console.print(
        f"{title}: {found['accuracy']:.1%} of {found['questions']} answers right, "
        f"{found['cache_share']:.0%} of the full cache's bytes, {found['tokens_per_second']:.0f} tokens/s{again}",
        highlight=False,
        soft_wrap=True,
    )
    return folder


def run_batch(
    experiment: Experiment, loaded: Loaded, batch: Sequence[tuple[int, Sample]], progress: Progress
) -> list[dict[str, Any]]:
    """One batch of (index, sample) -> its records."""
    prompts = [Prompt(s.name, tuple(loaded.tokenizer(s.prompt).input_ids), s.stop) for _, s in batch]
    began = time.perf_counter()
    generated = generate(
        loaded.model,
        loaded.tokenizer,
        prompts,
        experiment.method,
        experiment.decoding,
        experiment.task.max_new_tokens,
        experiment.sampling,
        progress=progress.step,
        granularity=experiment.granularity,
    )
    seconds = time.perf_counter() - began
    return [
        record(experiment.task, sample, len(prompt.tokens), made, batch[0][0], len(batch), seconds)
        for (_, sample), prompt, made in zip(batch, prompts, generated, strict=True)
    ]


def trace_sample(experiment: Experiment, trace: Trace, sample: Sample, folder: Path) -> None:
    """Answer one sample again, alone and looked at: recorded timings stay clean, and a finished run can be traced."""
    loaded = models.load(experiment.model)
    record_trace(
        trace,
        loaded,
        Prompt(sample.name, tuple(loaded.tokenizer(sample.prompt).input_ids), sample.stop),
        experiment.method,
        experiment.decoding,
        experiment.task.max_new_tokens,
        experiment.sampling,
        experiment.granularity,
        folder,
    )


def record(
    task: Task, sample: Sample, prompt_tokens: int, made: Generated, batch: int, batch_rows: int, batch_seconds: float
) -> dict[str, Any]:
    """What is kept of one sample, as plain data. Slots are per layer; evictions are slots summed over the layers."""
    fed = len(made.tokens) - 1
    layers = len(made.slots_kept)
    prefill_evicted = layers * prompt_tokens - sum(made.prefill_kept)
    return {
        "sample": sample.name,
        "status": "ok",
        "prompt_tokens": prompt_tokens,
        "generated_tokens": len(made.tokens),
        "finish": made.finish,
        "generation": made.text,
        "questions": [asdict(answer) for answer in task.answers(sample, made.text)],
        "batch": batch,
        "batch_rows": batch_rows,
        "batch_seconds": round(batch_seconds, 4),
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


def summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The few figures of a run that are worth a line; intervals are the tables' business."""
    answers = [answer for line in lines for answer in line["questions"]]
    decode: dict[int, float] = {}
    for line in lines:
        decode[line["batch"]] = max(decode.get(line["batch"], 0.0), line["decode_seconds"])
    tokens = sum(line["generated_tokens"] for line in lines)
    return {
        "samples": len(lines),
        "questions": len(answers),
        "accuracy": sum(a["correct"] for a in answers) / max(1, len(answers)),
        "missing": sum(a["found"] is None for a in answers) / max(1, len(answers)),
        "cache_share": sum(r["cache_bytes"] for r in lines) / max(1, sum(r["full_cache_bytes"] for r in lines)),
        "tokens_per_second": tokens / (sum(decode.values()) or 1.0),
    }


def running(done: Sequence[Mapping[str, Any]], batch: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Metrics after a batch: the run's so far, and the batch's own speed."""
    return summary(done) | {"batch_tokens_per_second": summary(batch)["tokens_per_second"]}


def sample_row(line: Mapping[str, Any]) -> dict[str, Any]:
    """A record as one row of a table of samples."""
    right = sum(answer["correct"] for answer in line["questions"])
    scalars = {k: v for k, v in line.items() if isinstance(v, str | int | float) and k != "generation"}
    return scalars | {"right": right, "asked": len(line["questions"]), "generation": line["generation"]}


def chunks(items: Sequence[tuple[int, Sample]], size: int) -> Iterator[Sequence[tuple[int, Sample]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def as_yaml(config: Mapping[str, Any]) -> str:
    """Plain data as YAML, in its own order."""
    text: str = yaml.safe_dump(dict(config), sort_keys=False)
    return text
