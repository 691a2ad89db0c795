"""What is measured of a sample: the answer that the model writes, its scores, its slots and bytes, and its times."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scope.cache import sizes
from scope.generation.engine import devices_of, read_together
from scope.generation.models import Loaded
from scope.generation.options import Hooks, Options
from scope.generation.processors import asked_for, described
from scope.generation.prompts import Encoded
from scope.generation.replay import Replayed
from scope.generation.rows import Generated, Prompt
from scope.generation.sampling import Sampling
from scope.generation.stream import stream
from scope.runs.batches import OK, Begun, Lines
from scope.runs.experiment import Experiment, Request
from scope.runs.forecast import notes, unknown_words
from scope.scoring import Scorer, attempt, scorers
from scope.scoring.thinking import Markers, without_thinking
from scope.tasks import Sample, Task
from scope.util.memory import rows_that_fit
from scope.util.progress import Progress
from scope.util.stopping import Stopping


@dataclass(frozen=True)
class Answers:
    """Makes the records of requests by generating. `scope.runs.run` decides which requests, and keeps the records.

    prompts: of all requests of the experiment, by `Request.index`.
    """

    experiment: Experiment
    loaded: Loaded
    prompts: Sequence[Encoded]

    @property
    def engine(self) -> str:
        """The engine kind on the model's devices."""
        return self.experiment.engine.on(devices_of(self.loaded.model))

    def notes(self) -> list[str]:
        """What a user should know before it starts, a line each."""
        said = notes(self.experiment, self.loaded.tokenizer)
        said += unknown_words(self.experiment, self.loaded.tokenizer, self.prompts)
        if self.engine == "compile":
            said.append("its steps are compiled as each kind comes, which takes minutes")
        if self.experiment.sampling.processors == "none" and (left := left_out(self.loaded, self.experiment.sampling)):
            said.append(left)
        return said

    def rows(self, requests: Sequence[Request]) -> int:
        """How many of these requests are generated at the same time. Raises ScopeError where not even one fits."""
        engine, policy, dtype = self.experiment.engine, self.experiment.policy, self.experiment.dtype
        if isinstance(engine.batch_size, int):
            return min(engine.batch_size, len(requests))
        config, device = self.loaded.model.config, self.loaded.model.device
        prompts = [self.prompts[request.index] for request in requests]
        longest = max(len(prompt.tokens) + len(prompt.asking) for prompt in prompts)
        row = sizes.cache_bytes(config, policy, dtype, longest, self.experiment.task.max_new_tokens)
        columns = min(longest, engine.prefill_chunk or longest)
        prefill = sizes.prefill_bytes(config, policy, dtype, columns, longest)
        together = read_together(engine.prefill_rows, [longest] * len(requests))
        # a prompt stays in a cache of its own for its next samples, and to read a question that comes later
        several = self.experiment.sampling.samples > 1 or any(prompt.asking for prompt in prompts)
        if not several and together == len(requests) <= rows_that_fit(row, prefill, device):
            return together
        prefill += sizes.cache_bytes(config, policy, dtype, longest, 1)  # of its own, until the prompt is in its row
        return min(rows_that_fit(row, prefill, device, together), len(requests))

    def make(
        self, requests: Sequence[Request], rows: int, progress: Progress, stopping: Stopping
    ) -> Iterator[tuple[Request, Lines]]:
        """Each request with its record, as soon as it is answered. No request is started once the run has to stop."""
        experiment = self.experiment
        prompts = (self.prompt(request) for request in requests if not stopping.asked)
        engine = experiment.engine
        options = Options(self.engine, rows, engine.prefill_rows, engine.prefill_chunk, hooks=Hooks(progress.step))
        began, device = Begun(), self.loaded.model.device.type
        for place, made in stream(
            self.loaded.model,
            self.loaded.tokenizer,
            prompts,
            experiment.policy,
            experiment.task.max_new_tokens,
            experiment.sampling,
            options,
        ):
            batch = began.fields(min(rows, len(requests)), self.engine, device, made.batch_seconds)
            yield requests[place], [self.line(requests[place], made, batch)]

    def prompt(self, request: Request) -> Prompt:
        """What the engine is given for a request."""
        prompt, thinking = self.prompts[request.index], self.experiment.model.thinking
        stop, asking = request.sample.stop, prompt.asking or None
        return Prompt(request.name, prompt.tokens, stop, thinking or (), prompt.turns, asking)

    def line(self, request: Request, made: Generated, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The record of one generation. batch: the fields that tell of its batch."""
        experiment, prompt, markers = self.experiment, self.prompts[request.index], self.experiment.model.thinking
        sampled = experiment.sampling.temperature > 0
        opened, by = prompt.starts_thinking(markers), scorers(experiment.scoring)
        return {
            **names(request),
            **({"cluster": request.sample.cluster} if request.sample.cluster else {}),
            "seed": experiment.sampling.seed_of(request.name) if sampled else None,
            "prompt_hash": prompt.hash,
            "prompt_cut_tokens": prompt.cut,
            **batch,
            **record(experiment.task, request.sample, len(prompt.tokens), made, markers, opened, by),
        }

    def failed(self, request: Request, status: str, reason: str) -> Lines:
        """The record of a request that failed."""
        about = {"prompt_hash": self.prompts[request.index].hash, "status": status, "reason": reason}
        return [names(request) | about]


def names(request: Request) -> dict[str, Any]:
    """The fields that say which request a record is about."""
    return {"sample": request.name, "prompt": request.sample.name, "draw": request.draw}


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


def record(
    task: Task,
    sample: Sample,
    prompt_tokens: int,
    made: Generated,
    markers: Markers | None = None,
    opened: bool = False,
    by: Mapping[str, Scorer] | None = None,
) -> dict[str, Any]:
    """What is kept of one generation, as plain data.

    Slots are per layer; evictions are summed over the layers. A token that has left a sliding window does not count as
    evicted, since no cache holds it. If a prefill kept less than a layer's window, the window fills again while
    decoding, and nothing is evicted then. The whole text is kept; scorers read it without its thinking part.

    prompt_tokens: the prompt's length. markers: the texts around the thinking part. opened: whether the prompt ends
    within one. by: the scorers by name, None for the standard ones. One that fails at the text costs its own score
    only: `unscored` says why.
    """
    fed = len(made.tokens) - 1
    answers, failed = attempt(sample.questions, made.text, None, by, markers, opened)
    return {
        "status": OK,
        "prompt_tokens": prompt_tokens,
        "generated_tokens": len(made.tokens),
        "finish": made.finish,
        "generation": made.text,
        "starts_thinking": opened,
        "questions": [asdict(answer) for answer in answers],
        **({"unscored": {error.scorer: error.why for error in failed}} if failed else {}),
        "measures": task.measures(sample, without_thinking(made.text, markers, opened)),
        "prefill_seconds": round(made.prefill_seconds, 4),
        "decode_seconds": round(made.decode_seconds, 4),
        "tokens_per_second": round(fed / made.decode_seconds, 2) if fed else None,
        **held(made),
    }


def held(made: Generated | Replayed) -> dict[str, Any]:
    """What the cache of a row held and evicted, as plain data."""
    prefill_evicted = [full - kept for full, kept in zip(made.prefill_full, made.prefill_kept, strict=True)]
    missing = [full - kept for full, kept in zip(made.slots_full, made.slots_kept, strict=True)]
    decode_evicted = [max(0, late - early) for late, early in zip(missing, prefill_evicted, strict=True)]
    return {
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
