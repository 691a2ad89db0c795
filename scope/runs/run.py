"""The story of one run: generate, and as answers end score, record and track them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from scope import records
from scope.cache import Policy, sizes
from scope.generation import models
from scope.generation.engine import devices_of
from scope.generation.models import Loaded
from scope.generation.options import Hooks, Options
from scope.generation.processors import asked_for, described, require_possible
from scope.generation.prompts import Encoded
from scope.generation.rows import Generated, Prompt
from scope.generation.sampling import Sampling
from scope.generation.stream import generate, stream
from scope.records import RecordKeeping, Records
from scope.runs.batches import OK, Lines, attempts, share
from scope.runs.experiment import Experiment, Request
from scope.runs.forecast import notes, require_fit
from scope.runs.summary import headline, running, sample_row, summary
from scope.runs.traces import Trace, record_trace
from scope.runs.tracking import RunInfo, Tracker
from scope.scoring import Scorer, score, scorers
from scope.scoring.thinking import Markers, without_thinking
from scope.tasks import Sample, Task
from scope.util.errors import ConfigError, ImpossibleError, ScopeError, before_it_runs
from scope.util.files import require_place
from scope.util.memory import rows_that_fit
from scope.util.progress import Progress
from scope.util.secrets import redact
from scope.util.speeds import CpuWait
from scope.util.stopping import Stopping


def run(
    experiment: Experiment, tracker: Tracker, output: Path, console: Console, keeping: RecordKeeping | None = None
) -> Path:
    """Run an experiment below `output` (its last part names the sweep), or go on where it stopped. -> the run's folder.

    Raises ConfigError for what cannot run here, or would be another run; ScopeError for what else a user can mend;
    SamplesFailedError once the other samples are recorded; and Stopped once the answers under way are recorded where a
    signal has asked for it: with `done` where nothing is left to do.
    """
    keeping = keeping or RecordKeeping()
    with before_it_runs():
        experiment.require()  # first: a run that was finished elsewhere is no answer to what cannot run here
        if there := finished(experiment, output, console, keeping):
            return there
        asked = share(experiment.requests(), keeping.part)
        by = scorers(experiment.scoring)
        if asked:  # a scorer that fails shows it before the generating, on a text that answers nothing
            score(asked[0].sample.questions, "", None, by)
        identity = experiment.identity()
        require_place(output)
        name = experiment.folder_name(identity)
        folder = keeping.place(output / name)
        before = begun(folder, identity, keeping)
        day = template_day(before)
        config, tokenizer = models.load_shape(experiment.model)
        prompts = encode_all(experiment, config, tokenizer, day)
        if before:
            require_same_prompts(folder, asked, prompts)
    manifest = {
        "identity": identity,
        "experiment": output.name,
        "run": name,
        "seed": experiment.sampling.seed,
        "labels": dict(experiment.labels),
        "settings": experiment.settings(limits=False),
        "template_date": template_date(prompts, experiment, day, before),
        "scoring": {name: scorer.about for name, scorer in zip(experiment.scoring, by.values(), strict=True)},
        "samples": len(asked),
        **({"shard": keeping.shard} if keeping.shard else {}),
    }
    with before_it_runs():
        # a model that is not there, a graph or a prompt that does not fit, leaves no folder behind
        if not folder.exists():
            loaded = models.load(experiment.model)
            experiment.engine.on(devices_of(loaded.model))
            rehearse(experiment, loaded, prompts)
            if experiment.sampling.processors == "model":
                require_possible(loaded.model.generation_config)
            if asks := described(loaded.model.generation_config, experiment.sampling.temperature > 0):
                manifest["generation_config"] = asks
        if experiment.trace:
            experiment.trace.require(config.get_text_config(decoder=True).num_hidden_layers)
            traced = experiment.requests()[: experiment.trace.prompts]
            experiment.trace.require_no_loss(folder, (request.name for request in traced))
    failed = 0
    with closing(Records(folder, as_yaml(experiment.config), manifest, keeping)) as kept, Stopping() as stopping:
        todo = [request for request in asked if request.name not in kept.done]
        if todo:
            with before_it_runs():
                loaded = models.load(experiment.model)
            for line in notes(experiment, tokenizer):
                announce(experiment, line, console)
            todo.sort(key=lambda request: -len(prompts[request.index].tokens))  # rows of like length share a prefill
            rows = batch_rows(
                experiment, loaded, max(len(prompts[request.index].tokens) for request in todo), len(todo)
            )
            if experiment.engine.on(devices_of(loaded.model)) == "compile":
                announce(experiment, "its steps are compiled as each kind comes, which takes minutes", console)
            if experiment.sampling.processors == "none" and (said := left_out(loaded, experiment.sampling)):
                announce(experiment, said, console)
            tracker.start(RunInfo(output.name, folder.name, identity, folder, redact(experiment.config)))
            try:
                with Progress(experiment.title, len(todo), experiment.task.max_new_tokens, console) as progress:
                    answer = partial(answers, experiment, loaded, prompts, progress, stopping)
                    for _, lines in attempts(todo, min(rows, len(todo)), answer, partial(give_up, prompts)):
                        kept.append(lines)
                        progress.finish(lines)
                        failed += sum(line["status"] != OK for line in lines)
                        tracker.log(running(list(kept.done.values()), lines))
                    if experiment.trace or any(request.name not in kept.done for request in asked):
                        stopping.check()
            except KeyboardInterrupt:
                if kept.done:
                    part = f"stopped, with the longest prompts first: {len(kept.done)} of {len(asked)} samples"
                    announce(experiment, f"{part}: {headline(list(kept.done.values()))}", console)
                raise
            finally:
                tracker.finish(summary(list(kept.done.values())), [sample_row(line) for line in kept.done.values()])
    if experiment.trace:
        trace_prompts(experiment, experiment.trace, prompts, folder)
    announce(experiment, headline(list(kept.done.values())), console)
    if failed:
        reason = f"{failed} of {manifest['samples']} samples failed, {folder / records.RECORDS} says why"
        raise SamplesFailedError(f"{reason}; the same command tries them again", folder)
    stopping.check(done=folder)
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
    if experiment.trace or not begun(folder, identity, keeping):
        return None
    lines = {line["sample"]: line for line in records.read(folder) if line.get("status") == OK}
    if any(request.name not in lines for request in share(experiment.requests(), keeping.part)):
        return None
    announce(experiment, f"{headline(list(lines.values()))} (was finished already)", console)
    return folder


def begun(folder: Path, identity: str, keeping: RecordKeeping) -> dict[str, Any] | None:
    """The manifest of a run that this one goes on with; None where it begins anew."""
    if keeping.rerun or not (folder / records.MANIFEST).exists():
        return None
    manifest = records.read_manifest(folder)
    if manifest["identity"] != identity:
        return None
    changed = keeping.on_mismatch == "rerun" and records.mismatch(manifest, records.surroundings())
    return None if changed else manifest


def template_day(before: Mapping[str, Any] | None) -> date:
    """The day that a run's chat template takes for today: the one on which it was begun. before: its manifest."""
    try:
        return date.fromisoformat(str((before or {}).get("template_date")))
    except ValueError:
        return date.today()


def template_date(
    prompts: Sequence[Encoded], experiment: Experiment, day: date, before: Mapping[str, Any] | None
) -> str | None:
    """What the manifest says of the day that the prompts' template was told; None where it never asked."""
    if any(prompt.dated for prompt in prompts):
        return experiment.model.template_date or day.isoformat()
    return before.get("template_date") if before else None


def require_same_prompts(folder: Path, asked: Sequence[Request], prompts: Sequence[Encoded]) -> None:
    """Raises ConfigError where a sample was answered for another prompt than it has now.

    asked: what the run is to answer; prompts: of all its requests.
    """
    answered = {line["sample"]: line for line in records.read(folder) if line.get("status") == OK}
    for request in asked:
        was = answered.get(request.name, {}).get("prompt_hash")
        now = prompts[request.index].hash
        if was is not None and was != now:
            raise ConfigError(
                f"{folder}: {request.name} was answered for another prompt ({was}, now {now}): what makes prompts has "
                "changed since; rerun=true answers all anew, and another name=... keeps both"
            )


def announce(experiment: Experiment, said: str, console: Console) -> None:
    console.print(f"{experiment.title}: {said}", highlight=False, soft_wrap=True, markup=False)


def left_out(loaded: Loaded, sampling: Sampling) -> str:
    """What the model's generation config asks for and does not get, in words; empty where that is nothing."""
    config, drawn = loaded.model.generation_config, sampling.temperature > 0
    if not (asks := asked_for(config, drawn)):
        return ""
    told = described(config, drawn)
    left = ", ".join(f"{name}={told[name]}" for name in asks)
    said = f"the model's generation config asks for {left}: not applied (sampling.processors=model applies it)"
    if ours := ", ".join(f"{name}={value}" for name, value in told.items() if name not in asks):
        said += f"; in place of its {ours}, sampling.temperature, top_p and top_k count"
    return said


def encode_all(
    experiment: Experiment, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, day: date
) -> list[Encoded]:
    """Each prompt's tokens, in order; equal prompts of several draws share theirs. day: on which the run was begun.

    Raises ConfigError for a prompt that does not fit the model's context, or not the budget.
    """
    room = experiment.prompt_room(config)
    made: list[Encoded] = []
    for request in experiment.requests():
        if request.draw:
            made.append(made[-1])
        else:
            made.append(experiment.encoded(tokenizer, request.sample, room, day))
    require_fit(experiment, config, [len(prompt.tokens) for prompt in made])
    return made


def rehearse(experiment: Experiment, loaded: Loaded, prompts: Sequence[Encoded]) -> None:
    """Have a method that looks into the model compress the shortest prompt that it has to compress.

    Raises ImpossibleError where it fails at this model.
    """
    method = experiment.method
    longer = [tuple(prompt.tokens) for prompt in prompts if len(prompt.tokens) > method.slots(len(prompt.tokens))]
    if not method.layer_inputs or not longer:
        return
    shortest = Prompt("", min(longer, key=len))
    policy = Policy(method, granularity=experiment.granularity)
    try:
        generate(loaded.model, loaded.tokenizer, [shortest], policy, 1)
    except ScopeError as error:
        raise ImpossibleError(f"method={experiment.labels.get('method', '')}: {error}") from error


def batch_rows(experiment: Experiment, loaded: Loaded, longest: int, count: int) -> int:
    """Rows to write at a time, for `count` prompts of at most `longest` tokens. Raises ScopeError where none fits."""
    engine = experiment.engine
    if isinstance(engine.batch_size, int):
        return engine.batch_size
    config, dtype, most = loaded.model.config, experiment.dtype, experiment.task.max_new_tokens
    policy = experiment.policy
    row = sizes.cache_bytes(config, policy, dtype, longest, most)
    columns = min(longest, engine.prefill_chunk or longest)
    prefill = sizes.prefill_bytes(config, policy, dtype, columns, longest)
    rows = rows_that_fit(row, prefill, loaded.model.device)
    if rows >= count:
        return rows
    fresh = sizes.cache_bytes(config, policy, dtype, longest, 1)  # until it is in its row
    return rows_that_fit(row, prefill + fresh, loaded.model.device)


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
        Prompt(request.name, encoded[request.index].tokens, request.sample.stop, experiment.model.thinking or ())
        for request in requests
        if not stopping.asked
    )
    drawn, engine = experiment.sampling.temperature > 0, experiment.engine.on(devices_of(loaded.model))
    began, waiting = datetime.now(UTC).isoformat(timespec="milliseconds"), CpuWait()
    options = Options(engine, rows, experiment.engine.prefill_chunk, hooks=Hooks(progress.step))
    for place, made in stream(
        loaded.model,
        loaded.tokenizer,
        prompts,
        experiment.policy,
        experiment.task.max_new_tokens,
        experiment.sampling,
        options,
    ):
        request = requests[place]
        line = {
            "sample": request.name,
            "prompt": request.sample.name,
            "draw": request.draw,
            "seed": experiment.sampling.seed_of(request.name) if drawn else None,
            "prompt_hash": encoded[request.index].hash,
            "prompt_cut_tokens": encoded[request.index].cut,
            "batch": began,
            "batch_rows": min(rows, len(requests)),
            "engine": engine,  # a batch's seconds are with the compiling, where there is some
            "batch_seconds": round(made.batch_seconds, 4),
            "device": loaded.model.device.type,
            "threads": torch.get_num_threads(),
            "cpu_wait": None if (waited := waiting.share()) is None else round(waited, 3),  # since the batch began
        }
        prompt, markers, by = encoded[request.index], experiment.model.thinking, scorers(experiment.scoring)
        opened = prompt.starts_thinking(markers)
        yield request, [line | record(experiment.task, request.sample, len(prompt.tokens), made, markers, opened, by)]


def give_up(encoded: Sequence[Encoded], request: Request, status: str, reason: str) -> Lines:
    """The record of a generation that failed; `encoded`: the prompts of all requests of the run."""
    named = {"sample": request.name, "prompt": request.sample.name, "draw": request.draw}
    return [named | {"prompt_hash": encoded[request.index].hash, "status": status, "reason": reason}]


def trace_prompts(experiment: Experiment, trace: Trace, prompts: Sequence[Encoded], folder: Path) -> None:
    """Answer some samples again, alone and looked at: recorded timings stay clean, and a finished run can be traced."""
    loaded = models.load(experiment.model)
    for request in experiment.requests()[: trace.prompts]:
        record_trace(
            trace,
            loaded,
            Prompt(request.name, prompts[request.index].tokens, request.sample.stop, experiment.model.thinking or ()),
            experiment.policy,
            experiment.task.max_new_tokens,
            experiment.sampling,
            folder,
        )


def record(
    task: Task,
    sample: Sample,
    prompt_tokens: int,
    made: Generated,
    markers: Markers | None = None,
    opened: bool = False,
    by: Mapping[str, Scorer] | None = None,
) -> dict[str, Any]:
    """What is kept of one generation, as plain data. Slots are per layer; evictions are summed over the layers.

    What has left a sliding window is not evicted: no cache holds it. Where a layer fills its window again after a
    prefill that kept less, nothing is evicted while decoding. The text is kept whole, and scored without its thinking
    part. markers: of such a part; opened: whether the prompt ends within one. by: the scorers, None for the standard.
    """
    fed = len(made.tokens) - 1
    prefill_evicted = [full - kept for full, kept in zip(made.prefill_full, made.prefill_kept, strict=True)]
    missing = [full - kept for full, kept in zip(made.slots_full, made.slots_kept, strict=True)]
    decode_evicted = [max(0, late - early) for late, early in zip(missing, prefill_evicted, strict=True)]
    return {
        "status": OK,
        "prompt_tokens": prompt_tokens,
        "generated_tokens": len(made.tokens),
        "finish": made.finish,
        "generation": made.text,
        "starts_thinking": opened,
        "questions": [asdict(answer) for answer in score(sample.questions, made.text, None, by, markers, opened)],
        "measures": task.measures(sample, without_thinking(made.text, markers, opened)),
        "prefill_seconds": round(made.prefill_seconds, 4),
        "decode_seconds": round(made.decode_seconds, 4),
        "tokens_per_second": round(fed / made.decode_seconds, 2) if fed else None,
        "cache_bytes": made.cache_bytes,
        "full_cache_bytes": made.full_cache_bytes,
        "slots_kept": list(made.slots_kept),
        "prefill_kept": list(made.prefill_kept),
        "trace": made.trace,
        "prefill_full": list(made.prefill_full),
        "slots_full": list(made.slots_full),
        "prefill_evicted": sum(prefill_evicted),
        "decode_evicted": sum(decode_evicted),
    }


def as_yaml(config: Mapping[str, Any]) -> str:
    """Plain data as YAML, in its own order, without secrets."""
    text: str = yaml.safe_dump(redact(config), sort_keys=False)
    return text
