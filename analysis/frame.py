"""Records -> a data frame: one row per run, tidy and exact. What a person reads is made from it alone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.provenance import provenance
from analysis.records import Run, Sample, read_runs
from analysis.speeds import SPEED_COLUMNS, differences, measured_with
from analysis.statistics import (
    SAME,
    UNKNOWN,
    Interval,
    Scores,
    clustered_proportion,
    lost_to,
    mean_by_prompt,
    tied_with_best,
)
from scope.scoring import PRIMARY, STANDARD, standard


class ScoreColumns(NamedTuple):
    """The columns of one scorer: answers right in percent with bounds, ties with the best, and what has no answer."""

    percent: str
    low: str
    high: str
    best: str
    missing: str


SCORED = "scored."  # the columns of a scorer beside the standard ones, scored.strict_percent for one


def score_columns(name: str) -> ScoreColumns:
    """The columns of a scorer; those of the primary one, and the paper's, have names of their own."""
    if name == PRIMARY:
        return ScoreColumns(
            "accuracy_percent", "accuracy_low_percent", "accuracy_high_percent", "best", "missing_percent"
        )
    prefix = name if name in STANDARD else f"{SCORED}{name}"
    return ScoreColumns(
        *(f"{prefix}{end}" for end in ("_percent", "_low_percent", "_high_percent", "_best", "_missing_percent"))
    )


def score_heading(name: str) -> str:
    """What a scorer's percentage is called over a column."""
    return "accuracy %" if name == PRIMARY else f"{name} %"


ACCURACY = score_columns(PRIMARY)[:3]
LOST = ("points_lost", "points_lost_low", "points_lost_high")
UNCOMPRESSED, OWN_TEXTS = "uncompressed run", "own texts"  # what a share of bytes is of; both, in two rows, differ
MEASURED = "measured."  # the columns of what a task measures on whole texts, measured.rougeL_percent for one
ABOUT_SCORERS = "about_scorers"  # in the frame's attrs: what each scorer counts, in a few words
IDENTITY = ("experiment", "run", "model", "task", "method", "decoding", "budget", "fidelity")
MEASURES = (
    "compressed",
    "prompts",
    "planned_prompts",
    "failed_prompts",
    "questions",
    *(column for name in STANDARD for column in score_columns(name)[:3]),
    *(score_columns(name).best for name in STANDARD),
    *LOST,
    "paired_prompts",
    *(score_columns(name).missing for name in STANDARD),
    "duplicates",
    "slots",
    "kept_percent",
    "cache_mib",
    "cache_percent",
    "cache_percent_of",
    "tokens_per_second",
    *SPEED_COLUMNS,
    "notes",
    "identity",
    "commit",
)
"""Columns of the frame. Those of `IDENTITY` come first, then the settings that tell rows apart, then these.

`prompts` counts the answered ones and `questions` theirs. `accuracy_` is the aligned scorer's, `released_` the paper's,
unknown where it did not score all records; `best` and `released_best`: whether, by that scorer, this compressed run
cannot be told from the best of those that it may be held against, all their prompts answered. Any other scorer has the
same columns under its name (`score_columns`). `points_lost` is the
accuracy of the uncompressed run minus that of this one in percentage points, so positive is worse; it is the mean over
`paired_prompts`, the prompts that both answered, each with the same weight. `missing_percent`: questions without an
answer; `duplicates`: answers beyond the first to a question. `slots`: those of one layer and head at the end, mean;
`kept_percent`: in percent of the run's own tokens.
`cache_mib`: mean bytes of one sequence's cache in 2^20; `cache_percent`: of those of `cache_percent_of`: what the
uncompressed run needed for the same prompts (`UNCOMPRESSED`), or, where there is none, what a full cache would have
needed for this run's own texts (`OWN_TEXTS`): a method that stops early then looks larger.
`tokens_per_second`: all tokens generated over the decoding time of all batches; the `SPEED_COLUMNS` say what it was
measured with.
"""


def build(folders: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """One row per run in and below `folders`, uncompressed first and then in the order the runs were created.

    Runs that differ only in settings get a column for each of these, `decoding.budget` for one. RecordsError: a folder
    that cannot be read as a sweep.
    """
    several = [folders] if isinstance(folders, str | Path) else folders
    return of_runs(read_runs([Path(folder) for folder in several]))


def of_runs(read: Sequence[Run]) -> pd.DataFrame:
    """The same of runs that were read already."""
    runs = ordered(read)
    behind = provenance(runs)
    about = about_scorers(runs)
    names = list(about)
    frame = pd.DataFrame([_row(run, _baseline(run, runs), _same_evictions(run, runs), behind, names) for run in runs])
    frame.attrs[ABOUT_SCORERS] = about
    _note_shares_of_own_texts(frame)
    frame["speed_differs"] = differences(frame)
    settings = [settings_of(run) for run in runs]
    for position, key in enumerate(_telling(settings, frame), start=len(IDENTITY)):
        values = [setting.get(key) for setting in settings]
        frame.insert(position, key, pd.Series(values, dtype=object))  # object: a whole number stays one beside a gap
    for name in names:
        frame[score_columns(name).best] = _best(frame, [scores(run.samples, name) for run in runs])
    for name in dict.fromkeys(name for run in runs for sample in run.samples for name in sample.measures):
        totals = [_measured(run.samples, name) for run in runs]
        found = [mean_by_prompt([total / count for total, count in prompts.values()]) for prompts in totals]
        bounds = zip(*found, strict=True)
        for column, percent in zip(measure_columns(name), bounds, strict=True):
            frame[column] = [100 * value for value in percent]
        frame[f"{MEASURED}{name}_best"] = _best(frame, totals)
    return frame


def cache_heading(frame: pd.DataFrame) -> str:
    """What `cache_percent` is called: where only some rows are of their own texts, their notes say so."""
    return "cache % of own texts" if (frame["cache_percent_of"] == OWN_TEXTS).all() else "cache % of full"


def _note_shares_of_own_texts(frame: pd.DataFrame) -> None:
    """Mark the rows whose share of bytes is of another thing than that of the rows beside them."""
    if cache_heading(frame) == "cache % of full":
        note = "cache % of its own texts: no uncompressed run of them"
        own = (frame["cache_percent_of"] == OWN_TEXTS) & frame["cache_percent"].notna()
        frame.loc[own, "notes"] = ["; ".join([*[notes] * bool(notes), note]) for notes in frame.loc[own, "notes"]]


def measure_columns(name: str) -> tuple[str, str, str]:
    """The columns of a measure: mean over prompts and its bounds."""
    return f"{MEASURED}{name}_percent", f"{MEASURED}{name}_low_percent", f"{MEASURED}{name}_high_percent"


def scored(frame: pd.DataFrame) -> list[str]:
    """The names of the scorers that the frame has, the primary one first."""
    return [*STANDARD, *(c[len(SCORED) : -len("_best")] for c in frame if c.startswith(SCORED) and c.endswith("_best"))]


def about_scorers(runs: Sequence[Run]) -> dict[str, str]:
    """The standard scorers and those of these runs, with what each counts in a few words, where that is known."""
    told = {name: scorer.about for name, scorer in standard().items()}
    told |= {name: "" for run in runs for name in run.scorers if name not in told}
    return told | {name: about for run in runs for name, about in run.scorers.items() if about}


def measured(frame: pd.DataFrame) -> list[str]:
    """The names of the measures that the frame has."""
    return [c[len(MEASURED) : -len("_best")] for c in frame if c.startswith(MEASURED) and c.endswith("_best")]


def blocks(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows that may be held against each other: those of one model, task and seed."""
    compared = ("method.", "decoding.")
    conditions = ["model", "task"] + [column for column in settings(frame) if not column.startswith(compared)]
    return [block for _, block in frame.groupby(conditions, sort=False, dropna=False)]


def asked(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """For each row the model and what it was asked, the settings that tell tasks of one name apart included.

    Rows where these differ belong in different panels: `arithmetic_tiny` of 8 questions is not that of 58.
    """

    def with_settings(row: Mapping[str, Any], part: str) -> str:
        columns = [column for column in settings(frame) if column.startswith(f"{part}.") and not pd.isna(row[column])]
        return ", ".join([str(row[part]), *(f"{column.removeprefix(f'{part}.')} {row[column]}" for column in columns)])

    return [(with_settings(row, "model"), with_settings(row, "task")) for row in frame.to_dict("records")]


def settings(frame: pd.DataFrame) -> list[str]:
    """The columns that were added to tell rows apart."""
    return [
        column for column in frame if column not in IDENTITY + MEASURES and not column.startswith((MEASURED, SCORED))
    ]


def complete(frame: pd.DataFrame) -> "pd.Series[bool]":
    return frame["prompts"] >= frame["planned_prompts"]


def _best(frame: pd.DataFrame, scores: Sequence[Scores]) -> list[bool]:
    """Which compressed runs tie with the best of their block; a partial run had other prompts, and leads nothing."""
    best = [False] * len(frame)
    for block in blocks(frame):
        rows = list(block.index[block["compressed"] & complete(block)])
        for row, tied in zip(rows, tied_with_best([scores[row] for row in rows]), strict=True):
            best[row] = tied
    return best


def scores(samples: Sequence[Sample], scorer: str = PRIMARY) -> Scores:
    """Right answers and questions by prompt; a prompt is the same only if it asks for the same answers.

    None of a scorer that has not scored all samples.
    """
    marks = [(sample, sample.marks_by(scorer)) for sample in samples]
    by_it = [(sample, found.correct) for sample, found in marks if found is not None]
    return _by_prompt(by_it) if len(by_it) == len(marks) else {}


def _measured(samples: Sequence[Sample], name: str) -> Scores:
    found: dict[str, tuple[float, float]] = {}
    for sample in samples:
        if name in sample.measures:
            total, count = found.get(sample.prompt, (0.0, 0.0))
            found[sample.prompt] = total + sample.measures[name], count + 1
    return found


def _by_prompt(samples: Sequence[tuple[Sample, Sequence[bool]]]) -> Scores:
    found: dict[tuple[str, tuple[str, ...]], tuple[float, float]] = {}
    for sample, correct in samples:
        right, asked = found.get((sample.prompt, sample.expected), (0, 0))
        found[sample.prompt, sample.expected] = right + sum(correct), asked + len(correct)
    return found


def ordered(runs: Sequence[Run]) -> list[Run]:
    """As the rows of the frame: uncompressed first, then as created."""
    first: dict[tuple[str, str], int] = {}
    for position, run in enumerate(runs):
        for part, label in run.labels.items():
            first.setdefault((part, label), position)

    parts = ("model", "task", "method", "decoding")

    def rank(run: Run) -> tuple[int, ...]:
        model, task, method, decoding = (first[part, run.labels[part]] for part in parts)
        return model, task, run.compresses_prefill, method, run.compresses_decoding, decoding

    return sorted(runs, key=rank)


def _baseline(run: Run, runs: Sequence[Run]) -> Run | None:
    """The uncompressed run over the same model, task and seed: of this experiment if it can be, then the longest."""
    if not run.compressed:
        return None
    alike = [other for other in runs if not other.compressed and _conditions(other) == _conditions(run)]
    return max(alike, key=lambda other: (other.experiment == run.experiment, len(other.samples)), default=None)


def _same_evictions(run: Run, runs: Sequence[Run]) -> list[Run]:
    """Runs of the same methods with another budget that evicted as many slots at every step: the budget did nothing."""

    def methods(r: Run) -> tuple[Any, ...]:
        return _conditions(r), r.labels["method"], r.labels["decoding"]

    alike = [other for other in runs if methods(other) == methods(run) and other.budget_words != run.budget_words]
    traces = {sample.name: sample.trace for sample in run.samples if sample.trace}
    found = []
    for other in alike:
        common = [(traces[s.name], s.trace) for s in other.samples if s.trace and s.name in traces]
        if common and all(mine == theirs for mine, theirs in common):
            found.append(other)
    return found


def _conditions(run: Run) -> tuple[Any, ...]:
    return run.settings.get("model"), run.settings.get("task"), run.seed


TYPED = {"cache.max_bytes": "budget.bytes", "cache.granularity": "fidelity.granularity"}  # as a command line has them


def settings_of(run: Run) -> dict[str, Any]:
    """All that a run was asked for, by the keys of the command line; no D where it is what `budget.bytes` leave."""
    found = {TYPED.get(key, key): value for key, value in flat(run.settings).items()}
    if run.max_bytes is not None:
        found["decoding.budget"] = None
    return found | {"seed": run.seed}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys; lists become their JSON text, so that every value can be compared."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return found


def _telling(settings: Sequence[Mapping[str, Any]], frame: pd.DataFrame) -> list[str]:
    """The keys whose values differ between runs that the frame labels alike: for one of a model or task, these alone.

    Runs of one method on 8 questions and of another on 58 are not alike, and must not look it.
    """
    keys = dict.fromkeys(key for setting in settings for key in setting)
    alike = frame.groupby(["model", "task", "method", "decoding"]).indices.values()
    asked_alike = frame.groupby(["model", "task"]).indices.values()

    def tells(key: str) -> bool:
        groups = asked_alike if key.startswith(("model.", "task.")) else alike
        return any(len({repr(settings[row].get(key)) for row in rows}) > 1 for rows in groups)

    return [key for key in keys if tells(key)]


def _row(
    run: Run, baseline: Run | None, same: Sequence[Run], behind: Mapping[Path, tuple[str, ...]], names: Sequence[str]
) -> dict[str, Any]:
    """names: of the scorers that any of the runs has."""
    samples = run.samples
    by_scorer = {name: scores(samples, name) for name in names}
    duplicates = [s.marks[PRIMARY].duplicates for s in samples]
    lost, paired = _lost(run, baseline)
    cache_bytes = sum(s.cache_bytes for s in samples)
    cache_share, cache_of = _cache_share(run, baseline)
    return {
        "experiment": run.experiment,
        "run": run.name,
        **{part: run.labels.get(part, "") for part in IDENTITY[2:]},
        "compressed": run.compressed,
        "prompts": len(samples),
        "planned_prompts": run.planned,
        "failed_prompts": len(run.failed),
        "questions": sum(len(s.correct) for s in samples),
        **{column: v for name in names for column, v in _scored(name, by_scorer[name]).items()},
        **{score_columns(name).best: False for name in names},  # needs the other rows
        **_percent(LOST, lost),
        "paired_prompts": paired,
        **{score_columns(name).missing: _missing_percent(samples, name, by_scorer[name]) for name in names},
        "duplicates": float("nan") if None in duplicates else sum(count or 0 for count in duplicates),
        "slots": _ratio(sum(sum(s.slots_kept) for s in samples), sum(len(s.slots_kept) for s in samples)),
        "kept_percent": 100 * _ratio(sum(sum(s.slots_kept) for s in samples), sum(s.slots_full for s in samples)),
        "cache_mib": _ratio(cache_bytes, len(samples)) / 2**20,
        "cache_percent": 100 * cache_share,
        "cache_percent_of": cache_of,
        "tokens_per_second": _ratio(sum(s.generated_tokens for s in samples), _decoding_seconds(samples)),
        **measured_with(run),
        "notes": "; ".join((*_notes(run, baseline, lost, paired, same, names), *behind[run.folder])),
        "identity": run.identity,
        "commit": run.made_by[0]["commit"],
    }


def _scored(name: str, by_prompt: Scores) -> dict[str, float]:
    return _percent(score_columns(name)[:3], _proportion(by_prompt))


def _missing_percent(samples: Sequence[Sample], scorer: str, by_prompt: Scores) -> float:
    """Questions in which a scorer found no answer, in percent; NaN where it has not scored all samples."""
    marks = [sample.marks_by(scorer) for sample in samples]
    return 100 * _ratio(sum(m.missing for m in marks if m), sum(size for _, size in by_prompt.values()))


def _proportion(scores: Scores) -> Interval:
    hits, sizes = [score for score, _ in scores.values()], [size for _, size in scores.values()]
    return clustered_proportion(hits, sizes)


def _percent(names: Sequence[str], interval: Interval) -> dict[str, float]:
    return {name: 100 * value for name, value in zip(names, interval, strict=True)}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _lost(run: Run, baseline: Run | None) -> tuple[Interval, int]:
    """What the baseline answers better, in 0..1 over the prompts both answered, and how many these are."""
    if baseline is None:
        return UNKNOWN, 0
    return lost_to(scores(baseline.samples), scores(run.samples))


def _cache_share(run: Run, baseline: Run | None) -> tuple[float, str]:
    """Bytes of the cache as a share of the full one's, and which full one that is, as `MEASURES` has it."""
    full = {s.name: s.full_cache_bytes for s in (baseline.samples if baseline else ())}
    common = [s for s in run.samples if s.name in full] if full else []
    if common:
        return _ratio(sum(s.cache_bytes for s in common), sum(full[s.name] for s in common)), UNCOMPRESSED
    share = _ratio(sum(s.cache_bytes for s in run.samples), sum(s.full_cache_bytes for s in run.samples))
    return share, OWN_TEXTS if run.compressed else UNCOMPRESSED


def batches(samples: Sequence[Sample]) -> list[tuple[float, int, float, float]]:
    """Of each batch: mean tokens of a sequence, rows, tokens/s while decoding, mean bytes of a sequence's cache."""
    answers: dict[str, list[Sample]] = {}
    for s in samples:
        answers.setdefault(s.batch, []).append(s)
    found = []
    for rows in answers.values():
        seconds = max(s.batch_seconds for s in rows)
        if seconds > 0:
            length = sum(s.prompt_tokens + s.generated_tokens for s in rows) / len(rows)
            speed = sum(s.generated_tokens for s in rows) / seconds
            found.append((length, rows[0].batch_rows, speed, sum(s.cache_bytes for s in rows) / len(rows)))
    return found


def _decoding_seconds(samples: Sequence[Sample]) -> float:
    """The time of all batches one after the other; a batch lasts until its last row has ended."""
    longest: dict[str, float] = {}
    for s in samples:
        longest[s.batch] = max(longest.get(s.batch, 0.0), s.batch_seconds)
    return sum(longest.values())


def _notes(
    run: Run, baseline: Run | None, lost: Interval, paired: int, same: Sequence[Run], names: Sequence[str]
) -> Iterator[str]:
    recorded, answered = len(run.samples) + len(run.failed), len(run.samples)
    if recorded < run.planned:
        yield f"partial: {recorded} of {run.planned}"
    if run.failed:
        yield f"failed: {len(run.failed)} of {recorded}"
    yield from run.notes
    cut = sum(sample.finish == "length" for sample in run.samples)
    if cut:
        yield f"cut at the most tokens: {cut} of {answered} prompts"
    if answered == 1:
        yield "one prompt: no interval"
    if run.compresses_prefill:
        yield from _idle("prefill", [s.prefill_evicted for s in run.samples])
    if run.compresses_decoding:
        yield from _idle("decoding", [s.decode_evicted for s in run.samples])
    if lacking := [name for name in names if any(s.marks_by(name) is None for s in run.samples)]:
        yield f"older records: python -m scope.scoring gives the {' and '.join(lacking)} score"
    for other in same:
        yield f"same evictions as with budget {' and '.join(other.budget_words)}"
    asked = sum(bool(sample.correct) for sample in run.samples)
    if baseline is not None and paired < asked:
        yield f"points lost over {paired} of {asked} prompts"
    if paired > 1 and isnan(lost.low):
        what = "no prompt's score differs" if abs(lost.estimate) < SAME else "every prompt's score differs by as much"
        yield f"points lost: {what}, no interval"


def _idle(part: str, evicted: Sequence[int]) -> Iterator[str]:
    idle = sum(count == 0 for count in evicted)
    if idle:
        everywhere = idle == len(evicted)
        yield f"{part}: nothing to evict" + ("" if everywhere else f" in {idle} of {len(evicted)} prompts")
