"""What runs would cost, before anything is run: no weights are loaded and nothing is generated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from math import ceil
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from scope.cache import sizes
from scope.cache.rotary import rotary_of
from scope.decoding import KeepAll
from scope.generation import models
from scope.generation.prompts import Encoded, unknown_share, unused_arguments
from scope.prefill import Full
from scope.prefill.budget import Budget
from scope.records import describe, model_name
from scope.runs.experiment import Experiment
from scope.scoring import form_of, released
from scope.scoring.scorers import short_name
from scope.tasks import Sample
from scope.util.errors import CombinationError, ConfigError, ImpossibleError, ScopeError, counted

MOST_NAMED = 3  # examples in a note
HEADINGS = ("samples", "prompt tokens", "to write", "cache MiB", "of full", "step reads", "hours")
DEVICES = {"cuda": "GPU", "cpu": "CPU"}
ASSUMED = (
    "At most: every sample is taken to write T tokens. Prompt tokens: least-median-most. Cache: of one sequence, the "
    "longest prompt's. Step reads: bytes of weights and of all rows' caches, as a share of those with full caches; if"
    " memory sets the pace, no step takes less time than that share of the full cache's. Hours: of decoding, at an "
    "assumed {:g} steps a second whatever the batch (steps_per_second)."
)


@dataclass(frozen=True)
class Forecast:
    """What one run would cost. A figure that cannot be known before the run is None.

    prompt_tokens: the length of each prompt. The other figures are upper bounds: every sample generates T tokens.
    cache_bytes and full_cache_bytes: of one sequence, the one with the longest prompt. step_reads: the bytes of weights
    and caches that a step of a whole batch reads, over those with full caches; None if the run chooses its batch size.
    hours: of decoding only;
    None for a replay, which takes no steps one by one, and if the run chooses its batch size.
    """

    samples: int | None = None
    prompt_tokens: tuple[int, ...] | None = None
    generated_tokens: int | None = None
    cache_bytes: int | None = None
    full_cache_bytes: int | None = None
    step_reads: float | None = None
    hours: float | None = None


class Forecaster:
    """Forecasts runs that share data and models; what cannot be reached is tried once, and `reasons` says why."""

    def __init__(self, steps_per_second: float) -> None:
        self.steps_per_second = steps_per_second
        self.reasons: list[str] = []
        self.refused: list[ImpossibleError] = []  # one for each run with a prompt that does not fit
        self.notes: dict[str, None] = {}  # what `notes` says of the runs; a dict keeps the order
        self._had: dict[str, Any] = {}

    def forecast(self, run: Experiment) -> Forecast:
        samples = self._once(f"{run.task} {run.limit}", lambda: run.samples)
        shape = self._once(f"{run.model}", lambda: models.load_shape(run.model))
        made = Forecast()
        if samples:
            most, count = run.task.max_new_tokens, len(samples) * run.sampling.samples
            rows = run.engine.batch_size
            hours = (
                None
                if run.replay or isinstance(rows, str)
                else ceil(count / rows) * most / self.steps_per_second / 3600
            )
            made = Forecast(count, generated_tokens=count * most, hours=hours)
        if samples and shape:
            self.notes |= dict.fromkeys(notes(run, shape[1]))
            try:
                read = self._once(f"{run.task} {run.limit} {run.model}", lambda: _read(run, samples, *shape))
                if read:
                    lengths, asking, said = read
                    self.notes |= dict.fromkeys(said)
                    full = full_cache_bytes(run, shape[0], max(lengths) + asking)
                    made = replace(made, prompt_tokens=lengths, full_cache_bytes=full)
                    require_fit(run, shape[0], lengths)
                    held = cache_bytes(run, shape[0], max(lengths), asking)
                    made = replace(made, cache_bytes=held, step_reads=self._reads(run, shape[0], held, full))
            except ImpossibleError as error:
                self.refused.append(error)
                self.reasons.append(f"{run.title}: {error}")
        return made

    def _reads(self, run: Experiment, config: PretrainedConfig, held: int, full: int) -> float | None:
        """The bytes that a step reads, over those with full caches. held, full: of one sequence's cache."""
        rows, dtype = run.engine.batch_size, run.model.resolved_dtype()
        if isinstance(rows, str) or run.replay:
            return None
        weights: int = self._once(f"weights of {run.model}", lambda: models.bytes_read(config, dtype))
        return (weights + rows * held) / (weights + rows * full)

    def _once(self, key: str, get: Callable[[], Any]) -> Any:
        """What `get` returns, called once for each key; None where that cannot be reached."""
        if key not in self._had:
            try:
                self._had[key] = get()
            except ConfigError:
                raise
            except ScopeError as error:
                self._had[key] = None
                self.reasons.append(str(error))
        return self._had[key]


def show_plan(runs: Sequence[Experiment], steps_per_second: float, console: Console) -> None:
    """Print the runs as a table with what each would take, their sum, and what is assumed.

    Raises ConfigError for a data set that is malformed, or where no run fits its prompts.
    """
    forecaster = Forecaster(steps_per_second)
    seen = [forecaster.forecast(run) for run in runs]
    if len(forecaster.refused) == len(runs):
        raise forecaster.refused[0]
    names = [_names(run) for run in runs]
    telling = [name for name in names[0] if name == "method" or len({row[name] for row in names}) > 1]
    table = Table(*telling, box=None, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for row, forecast in zip(names, seen, strict=True):
        table.add_row(*(row[name] for name in telling), *_cells(forecast))
    console = console if console.is_terminal else Console(file=console.file, width=160)  # a pipe has no width
    if common := ", ".join(f"{name} {value}" for name, value in names[0].items() if name not in telling):
        console.print(common, highlight=False)
    console.print(table, highlight=False)
    for line in (
        *forecaster.notes,
        _total(runs, seen),
        ASSUMED.format(steps_per_second),
        *(f"?: {reason}" for reason in forecaster.reasons),
    ):
        console.print(line, soft_wrap=True, highlight=False)


def notes(run: Experiment, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A line for each setting that is allowed and is probably a mistake."""
    source, given = run.model, run.model.template
    said = [
        f"note: model.template.{name}={given[name]} changes nothing: the chat template has no such argument"
        for name in unused_arguments(tokenizer, source.layout, source.template_input(date.today()))
    ]
    if source.dtype in ("bfloat16", "float16") and source.torch_device().type == "cpu":
        slow = "is 7 to 40 times slower than float32 on a CPU; model.dtype=auto takes float32 there"
        said.append(f"note: model.dtype={source.dtype} {slow}")
    if "released" in map(short_name, run.scoring):
        said += _misread(run.samples)
    return said


def _misread(samples: Sequence[Sample]) -> list[str]:
    """A line where the released scorer cannot read expected answers. samples: all that are asked."""
    wrong = [text for s in samples if s.questions for text in released.misread(s.questions, form_of(s.questions))]
    asked = sum(len(sample.questions) for sample in samples)
    if not wrong:
        return []
    few = list(dict.fromkeys(wrong))
    listed = ", ".join(few[:MOST_NAMED]) + ", ..." * (len(few) > MOST_NAMED)
    told = f"{len(wrong)} of {counted(asked, 'expected answer')} ({listed}) cannot be read as the released scorer reads"
    return [f"note: {told} them: it takes the leading digits only, so no answer to these is right by it"]


def unknown_words(run: Experiment, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Encoded]) -> list[str]:
    """A line where the tokenizer does not know a part of these prompts."""
    share = unknown_share(tokenizer, prompts)
    if not share:
        return []
    percent = "less than 1%" if share < 0.005 else f"{share:.0%}"
    why = "the model reads one and the same token in its place"
    if run.model.path == "embedded":
        why = "the embedded model's words are those of arithmetic"
    return [f"note: the tokenizer does not know {percent} of this text: {why}"]


def _read(
    run: Experiment, samples: Sequence[Sample], config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[tuple[int, ...], int, list[str]]:
    """Of the prompts in tokens: the length of each, and of the longest question that comes later, 0 without any.

    The third is what there is to say of how the tokenizer reads them.
    """
    room = run.prompt_room(config)
    prompts = [run.encoded(tokenizer, s, room, date.today()) for s in samples]
    lengths, asking = tuple(len(prompt.tokens) for prompt in prompts), max(len(prompt.asking) for prompt in prompts)
    return lengths, asking, unknown_words(run, tokenizer, prompts)


def _names(run: Experiment) -> dict[str, str]:
    """What tells the runs of a sweep apart: labels, and the budgets C and D (slots, shares or MiB), or D's bound."""
    decode = describe(run.decoding).get("budget", "-")
    if run.max_bytes is not None:
        decode = f"{run.max_bytes / 2**20:.3g} MiB"
    elif run.max_slots is not None:
        decode = f"total {run.max_slots}"
    budgets = {"C": describe(run.method).get("budget", "-"), "D": decode}
    labels = {part: run.labels.get(part, "") for part in ("task", "method", "decoding")}
    labels = {"model": model_name(run.labels, describe(run.model)), **labels}
    return labels | {name: str(budget) for name, budget in budgets.items()}


def cache_bytes(run: Experiment, config: PretrainedConfig, prompt: int, asking: int = 0) -> int:
    """The most bytes that a sequence's compressed cache takes, for a prompt of that many tokens.

    asking: tokens of a question that comes later. No more than all of them stay.
    """
    most = sizes.cache_bytes(config, run.policy, run.dtype, prompt, run.task.max_new_tokens)
    if not asking:
        return most
    all_stay = replace(run.policy, prefill=Full(), decoding=KeepAll(), max_bytes=None, max_slots=None)
    return most + sizes.cache_bytes(config, all_stay, run.dtype, asking, 1)


def full_cache_bytes(run: Experiment, config: PretrainedConfig, prompt: int) -> int:
    """Bytes of transformers' own cache for the same sequence. Its last token is never fed back, and not stored."""
    return sizes.full_bytes(config, run.dtype, prompt + run.task.max_new_tokens - 1)


def require_fit(run: Experiment, config: PretrainedConfig, lengths: Sequence[int]) -> None:
    """Raises ImpossibleError, naming the key, if a prompt does not fit the budget, or the model not the strategy.

    lengths: tokens of each prompt.
    """
    _require_rotary(run, config)
    for length in sorted(set(lengths), reverse=True):
        if isinstance(run.method, Budget):
            try:
                run.method.require(length)
            except CombinationError as error:
                taken = run.config.get("budget", {}).get(error.field) == error.value
                raise ImpossibleError(error.describe(f"{'budget' if taken else 'method'}.{error.field}")) from error
    windows = sizes.windows_of(config)
    of_slot = [sizes.slot_bytes_of(config, run.policy, run.dtype, layer) for layer in range(len(windows))]
    if found := sizes.needed(run.policy, lengths, windows, of_slot):
        least, prompt = found
        given = f"budget.total={run.max_slots}" if run.max_bytes is None else f"budget.bytes={run.max_bytes}"
        why = "what stays of it, and D of at least budget.recent, have to fit"
        raise ImpossibleError(f"{given}: must be at least {least} for a prompt of {prompt} tokens: {why}")


def _require_rotary(run: Experiment, config: PretrainedConfig) -> None:
    """Raises ImpossibleError if the strategy asks how the model rotates, and it is not known."""
    layers = config.get_text_config(decoder=True).num_hidden_layers if run.decoding.rotary else 0
    try:
        for layer in range(layers):
            rotary_of(config, layer, f"decoding={run.labels.get('decoding', '')}")
    except ScopeError as error:
        raise ImpossibleError(str(error)) from error


def _cells(forecast: Forecast) -> list[str]:
    tokens, kept, full = forecast.prompt_tokens, forecast.cache_bytes, forecast.full_cache_bytes
    return [
        "?" if forecast.samples is None else f"{forecast.samples}",
        "?" if tokens is None else _range(tokens),
        "?" if forecast.generated_tokens is None else f"{forecast.generated_tokens}",
        "?" if kept is None else f"{kept / 2**20:.1f}",
        "?" if kept is None or full is None else f"{kept / full:.0%}",
        "?" if forecast.step_reads is None else f"{forecast.step_reads:.0%}",
        "?" if forecast.hours is None else f"{forecast.hours:.2f}",
    ]


def _range(tokens: Sequence[int]) -> str:
    """Least, median and most; one number where all are equal."""
    least, most = min(tokens), max(tokens)
    return f"{least}" if least == most else f"{least}-{median(tokens):.0f}-{most}"


def _total(runs: Sequence[Experiment], seen: Sequence[Forecast]) -> str:
    unknown = sum(forecast.samples is None for forecast in seen)
    hours = sum(forecast.hours or 0 for forecast in seen)
    samples, tokens = (sum(getattr(f, part) or 0 for f in seen) for part in ("samples", "generated_tokens"))
    rest = f"; {unknown} of them unknown" if unknown else ""
    untimed = sum(f.samples is not None and f.hours is None and not r.replay for r, f in zip(runs, seen, strict=True))
    rest += f"; the hours of {untimed} are not known before a run finds its batch size" if untimed else ""
    if any(run.replay for run in runs):
        rest += "; a replay's hours are not forecast: it takes about as long as reading its prompts and texts"
    units = {DEVICES.get(run.model.torch_device().type, "device") for run in runs}
    unit = f"{units.pop()} hours" if len(units) == 1 else "hours"
    made = f"{counted(len(seen), 'run')}, {counted(samples, 'sample')}"
    what = "force" if all(run.replay for run in runs) else "write"
    return f"{made}, {tokens} tokens to {what}, {hours:.1f} {unit}{rest}"
