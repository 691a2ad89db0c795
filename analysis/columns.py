"""The table of columns: all that tables, figures, the page and the dashboard show of a run. A new column is one entry.

A column says what it is called, in which unit and with how many decimals it is shown, where it is shown, and how it is
computed. Three kinds of columns:

- a plain value of a run: `value`;
- a score with a 95% interval and a paired test against the best run: `scores` and `Statistic.SHARE` or `MEAN`;
- what a run loses to the uncompressed run on the same prompts, with its interval: `scores` and `Statistic.LOSS`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from math import isnan
from typing import Any, Literal

import pandas as pd

from analysis import speeds
from analysis.notes import notes
from analysis.records import Run, Sample
from analysis.scores import measured, of_answers, replayed, right_answers
from analysis.statistics import (
    UNKNOWN,
    Interval,
    Scores,
    clustered_proportion,
    lost_to,
    mean_by_prompt,
    paired_differences,
)
from scope.scoring import PRIMARY, STANDARD, standard
from scope.util.errors import ScopeError

UNCOMPRESSED, OWN_TEXTS = "uncompressed run", "own texts"  # what a share of bytes is of
PERCENT, MIB = 100.0, 2.0**-20
Digits = int | Literal["significant"]  # decimals; or at least one decimal and two significant digits


class Statistic(Enum):
    """How the scores of a run's prompts become one figure with a 95% interval."""

    SHARE = "share of questions, by Korn and Graubard"
    MEAN = "mean over prompts, by bootstrap"
    LOSS = "paired difference from the uncompressed run, mean over prompts, by bootstrap; positive is worse"


class Place(Enum):
    """Where a column is shown, beside the CSV and the W&B table, which have them all."""

    QUALITY = "the table: how good the answers are"
    COST = "the table: what they cost"
    PAGE = "report.html"
    FRONTIER = "a figure of its own, against the bytes of the cache"
    PAPER = "the tables in the paper's layouts, beside each row, as a mean over its runs"
    PAPER_CSV = "the CSV of these tables"


TABLE_AND_PAGE = frozenset({Place.QUALITY, Place.PAGE})
COST_AND_PAGE = frozenset({Place.COST, Place.PAGE})
IN_PAPER_CSV = frozenset({Place.PAPER_CSV})
IN_PAPER = frozenset({Place.PAPER, Place.PAPER_CSV})


@dataclass(frozen=True)
class Context:
    """A run with what the table knows around it; from this a plain value is computed.

    baseline: the uncompressed run that it is compared with, if there is one. same_evictions: runs with another budget
    that evicted as many slots at every step. origin: notes on the code and machine that made the run. scorers: the
    names of those that any run of the table has.
    """

    run: Run
    baseline: Run | None
    same_evictions: tuple[Run, ...]
    origin: tuple[str, ...]
    scorers: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """One column. Exactly one of `value`, `scores` (with `statistic`) and `across` says how it is computed.

    name: in the frame, the CSV and W&B. title: in tables and figures; a narrow table may break the line where the title
    does. unit: after the title. digits: decimals. factor: what a computed number is multiplied by to be in `unit`.
    value: the value of one run. scores: what each prompt of a run scored. across: the values of all rows at once, where
    they depend on other rows; it gets the frame of all columns before.
    statistic: how scores become a figure. larger_is_better: of scores. most: no score is larger than this, with either
    sign; infinite where there is no such bound. least: no score is smaller, so no interval of a mean reaches below.
    logarithmic: whether figures show it on a logarithmic scale, without the uncompressed runs, whose value is 0.
    shown_in: the places that show it. about: what it is, in a few words; under the tables if it has an interval. tied:
    the column that says whether a run ties with the best; by default `name` with _best. out_of: a column with the count
    there should be; less than that shows as `2 of 3`. marked_by: a column that says why a figure does not compare;
    where it says so, the figure gets a dagger. tracked: what W&B's summary of a single run calls it, for the
    dashboard's panels.
    """

    name: str
    title: str = ""
    unit: str = ""
    digits: Digits = 1
    factor: float = 1.0
    value: Callable[[Context], Any] | None = None
    scores: Callable[[Sequence[Sample]], Scores] | None = None
    across: Callable[[pd.DataFrame], Sequence[Any]] | None = None
    statistic: Statistic | None = None
    larger_is_better: bool = True
    most: float = 1.0
    least: float = float("-inf")
    logarithmic: bool = False
    shown_in: frozenset[Place] = frozenset()
    about: str = ""
    tied: str = ""
    out_of: str = ""
    marked_by: str = ""
    tracked: str = ""

    def __post_init__(self) -> None:
        given = [source for source in (self.value, self.scores, self.across) if source is not None]
        if len(given) != 1 or (self.scores is None) != (self.statistic is None):
            raise ValueError(f"column {self.name}: give one of value, scores and across; a statistic with scores alone")

    def __deepcopy__(self, memo: object) -> "Column":
        """Itself, since nothing in it changes: pandas copies what a frame carries at every step."""
        return self

    @property
    def low(self) -> str:
        """The name of the column with the lower bound."""
        return self._beside("low")

    @property
    def high(self) -> str:
        """The name of the column with the upper bound."""
        return self._beside("high")

    @property
    def best(self) -> str:
        """The name of the column that says whether a run ties with the best; empty where nothing is compared."""
        compared = self.statistic in (Statistic.SHARE, Statistic.MEAN)
        return (self.tied or f"{self.name.removesuffix('_percent')}_best") if compared else ""

    @property
    def names(self) -> tuple[str, ...]:
        """All columns of the frame that come of this one."""
        if self.statistic is None:
            return (self.name,)
        return (self.name, self.low, self.high, *[self.best] * bool(self.best))

    def _beside(self, bound: str) -> str:
        stem = self.name.removesuffix("_percent")
        return f"{stem}_{bound}{self.name[len(stem) :]}"

    @property
    def one_line(self) -> str:
        """Title and unit, as a page or the axis of a figure has them."""
        return " ".join(part for part in (self.title.replace("\n", " "), self.unit) if part)

    @property
    def heading(self) -> str:
        """Title and unit over at most two lines, as a narrow table has them; of a score with its interval."""
        if self.statistic is None:
            return self.heading_alone
        return f"{' '.join(part for part in (self.title, self.unit) if part)}\n[95% interval]"

    @property
    def heading_alone(self) -> str:
        """The same without the interval: of a mean over runs, say."""
        if not self.unit:
            return self.title
        return f"{self.title}{' ' if chr(10) in self.title else chr(10)}{self.unit}"

    def cells(self, context: Context) -> dict[str, Any]:
        """What this column is for one run, by the names of `names`. Ties, and what `across` gives, come later."""
        if self.scores is None:
            found: Any = self.value(context) if self.value else None
            return {self.name: found if self.factor == 1 else self.factor * found}
        estimate = (self.factor * bound for bound in self._interval(context))
        return dict(zip(self.names, (*estimate, *[False] * bool(self.best)), strict=True))

    def _interval(self, context: Context) -> Interval:
        assert self.scores is not None
        own = self.scores(context.run.samples)
        if self.statistic is Statistic.SHARE:
            return clustered_proportion([score for score, _ in own.values()], [size for _, size in own.values()])
        if self.statistic is Statistic.MEAN:
            found = mean_by_prompt([score / size for score, size in own.values() if size], self.most)
            return found if isnan(found.low) else found._replace(low=max(self.least, found.low))
        if context.baseline is None:
            return UNKNOWN
        lost, _ = lost_to(self.scores(context.baseline.samples), own, self.most)
        if self.larger_is_better:
            return lost
        return Interval(-lost.estimate, -lost.high, -lost.low)


Family = Callable[[Sequence[Run]], Sequence[Column]]
"""Columns that depend on what the runs have: one for each scorer, say."""


# --- one column for each scorer, and for each measure of whole texts ----------------------------------------------


def about_scorers(runs: Sequence[Run]) -> dict[str, str]:
    """The standard scorers and those of these runs, with what each counts in a few words, where that is known."""
    told = {name: scorer.about for name, scorer in standard().items()}
    told |= {name: "" for run in runs for name in run.scorers if name not in told}
    return told | {name: about for run in runs for name, about in run.scorers.items() if about}


def accuracy(scorer: str = PRIMARY, about: str = "") -> Column:
    """Answers right in percent, by one scorer."""
    primary = scorer == PRIMARY
    return Column(
        "accuracy_percent" if primary else f"{_prefix(scorer)}_percent",
        "accuracy" if primary else scorer,
        "%",
        factor=PERCENT,
        scores=partial(right_answers, scorer=scorer),
        statistic=Statistic.SHARE,
        shown_in=TABLE_AND_PAGE | ({Place.FRONTIER} if primary or scorer not in STANDARD else frozenset()),
        about=about,
        tied="best" if primary else "",
        tracked="accuracy" if primary else "",
    )


def missing(scorer: str = PRIMARY) -> Column:
    """Questions without an answer in percent, by one scorer."""
    primary = scorer == PRIMARY
    return Column(
        "missing_percent" if primary else f"{_prefix(scorer)}_missing_percent",
        "missing" if primary else f"missing, {scorer}",
        "%",
        factor=PERCENT,
        value=lambda context: _missing_share(context.run.samples, scorer),
        about="questions to which no answer was found",
        larger_is_better=False,
        shown_in=IN_PAPER_CSV | (TABLE_AND_PAGE if primary else frozenset()),
        tracked="missing" if primary else "",
    )


def measure(name: str) -> Column:
    """What a task measures on whole texts, such as ROUGE: the mean over prompts in percent."""
    return Column(
        f"measured.{name}_percent",
        name,
        "%",
        factor=PERCENT,
        scores=partial(measured, name=name),
        statistic=Statistic.MEAN,
        shown_in=TABLE_AND_PAGE,
    )


def each_scorer(runs: Sequence[Run]) -> list[Column]:
    """The accuracy by each scorer of these runs, the primary scorer first."""
    return [accuracy(name, about) for name, about in about_scorers(runs).items()]


def each_scorer_missing(runs: Sequence[Run]) -> list[Column]:
    """The missing answers by each scorer of these runs."""
    return [missing(name) for name in about_scorers(runs)]


def each_measure(runs: Sequence[Run]) -> list[Column]:
    """The mean of each measure of whole texts that these runs have."""
    return [measure(name) for name in dict.fromkeys(n for run in runs for s in run.samples for n in s.measures)]


# --- replays -------------------------------------------------------------------------------------------------------

IN_ALL = TABLE_AND_PAGE | IN_PAPER
REPLAYED: tuple[Column, ...] = (
    Column(
        "kl",
        "KL",
        "nats/token",
        digits=4,
        scores=partial(replayed, of=lambda tokens: tokens.kl),
        statistic=Statistic.MEAN,
        larger_is_better=False,
        most=float("inf"),
        least=0.0,
        logarithmic=True,
        shown_in=IN_ALL | {Place.FRONTIER},
        about="divergence of the compressed cache from the full one, per forced token but the first; smaller is "
        "better; samples of one text count as one prompt",
        tracked="kl",
    ),
    Column(
        "agreement_percent",
        "same top token",
        "%",
        factor=PERCENT,
        scores=partial(replayed, of=lambda tokens: tokens.agrees),
        statistic=Statistic.MEAN,
        shown_in=IN_ALL,
        about="forced tokens at which both caches have the same most likely token",
        tracked="agreement",
    ),
    Column(
        "log_likelihood_lost",
        "log-likelihood lost",
        "nats/token",
        digits=4,
        scores=partial(
            replayed,
            of=lambda tokens: [
                full - own for full, own in zip(tokens.full_log_likelihood, tokens.log_likelihood, strict=True)
            ],
        ),
        statistic=Statistic.MEAN,
        larger_is_better=False,
        most=float("inf"),
        shown_in=TABLE_AND_PAGE,
        about="of the forced tokens, with the full cache minus with this one; positive is worse",
        tracked="log_likelihood_lost",
    ),
    Column(
        "answers_recalled_percent",
        "answer tokens recalled",
        "%",
        factor=PERCENT,
        scores=partial(of_answers, of=lambda tokens: tokens.recalls),
        statistic=Statistic.SHARE,
        shown_in=IN_ALL | {Place.FRONTIER},
        about="tokens of values that have to be recalled, at which the forced token is the most likely one",
        tracked="answers_recalled",
    ),
    Column(
        "answers_lost",
        "answer points lost",
        factor=PERCENT,
        scores=partial(of_answers, of=lambda tokens: tokens.recalls),
        statistic=Statistic.LOSS,
        shown_in=TABLE_AND_PAGE,
        about="answer tokens recalled by the uncompressed run minus by this one, over the same prompts",
    ),
    Column(
        "answers_kl",
        "KL on answer tokens",
        "nats/token",
        digits=4,
        scores=partial(of_answers, of=lambda tokens: tokens.kl),
        statistic=Statistic.MEAN,
        larger_is_better=False,
        most=float("inf"),
        least=0.0,
        shown_in=TABLE_AND_PAGE,
        tracked="answers_kl",
    ),
)


def each_of_replays(runs: Sequence[Run]) -> Sequence[Column]:
    """What replays say of each forced token; nothing where no run has any."""
    return REPLAYED if any(sample.replay for run in runs for sample in run.samples) else ()


def _prefix(scorer: str) -> str:
    return scorer if scorer in STANDARD else f"scored.{scorer}"


# --- plain values --------------------------------------------------------------------------------------------------


def ratio(part: float, whole: float) -> float:
    """NaN where there is nothing to be a part of."""
    return part / whole if whole else float("nan")


def _missing_share(samples: Sequence[Sample], scorer: str) -> float:
    """Questions in which a scorer found no answer, 0..1; NaN where it has not scored all samples."""
    marks = [sample.marks_by(scorer) for sample in samples]
    asked = 0 if None in marks else sum(len(sample.correct) for sample in samples)
    return ratio(sum(found.missing for found in marks if found), asked)


def _duplicates(context: Context) -> float:
    """Answers beyond the first to a question; NaN where the records do not count them."""
    counts = [sample.marks[PRIMARY].duplicates for sample in context.run.samples]
    return float("nan") if None in counts else sum(count or 0 for count in counts)


def _paired_prompts(context: Context) -> int:
    if context.baseline is None:
        return 0
    return len(paired_differences(right_answers(context.baseline.samples), right_answers(context.run.samples)))


def _slots(context: Context) -> float:
    samples = context.run.samples
    return ratio(sum(sum(s.slots_kept) for s in samples), sum(len(s.slots_kept) for s in samples))


def _kept(context: Context) -> float:
    samples = context.run.samples
    return ratio(sum(sum(s.slots_kept) for s in samples), sum(s.slots_full for s in samples))


def _bytes(context: Context) -> float:
    samples = context.run.samples
    return ratio(sum(s.cache_bytes for s in samples), len(samples))


def _share_of_bytes(context: Context) -> tuple[float, str]:
    """Bytes of the cache as a share of the full cache's, 0..1, and which full cache that is.

    Where the uncompressed run answered the same prompts, its bytes for these; else what a full cache would have needed
    for this run's own texts, by which a method that stops early looks larger.
    """
    run, baseline = context.run, context.baseline
    full = {s.name: s.full_cache_bytes for s in (baseline.samples if baseline else ())}
    common = [s for s in run.samples if s.name in full]
    if common:
        return ratio(sum(s.cache_bytes for s in common), sum(full[s.name] for s in common)), UNCOMPRESSED
    share = ratio(sum(s.cache_bytes for s in run.samples), sum(s.full_cache_bytes for s in run.samples))
    return share, OWN_TEXTS if run.compressed else UNCOMPRESSED


def _notes(context: Context) -> str:
    own = notes(context.run, context.baseline, context.same_evictions, context.scorers)
    return "; ".join((*own, *context.origin))


def _label(part: str) -> Column:
    return Column(part, part, value=lambda context: context.run.labels.get(part, ""))


# --- the table -------------------------------------------------------------------------------------------------------

LABELS: tuple[Column, ...] = (
    Column("experiment", "experiment", value=lambda context: context.run.experiment, shown_in=IN_PAPER_CSV),
    Column("run", "run", value=lambda context: context.run.name, shown_in=IN_PAPER_CSV),
    *map(_label, ("model", "task", "method", "decoding", "budget", "fidelity")),
)
"""Which run a row is. The settings that tell rows apart follow them in the frame."""

COLUMNS: tuple[Column | Family, ...] = (
    *LABELS,
    Column("compressed", value=lambda context: context.run.compressed),
    Column(
        "prompts",
        "prompts",
        digits=0,
        value=lambda context: context.run.prompts[0],
        out_of="planned_prompts",
        shown_in=TABLE_AND_PAGE | IN_PAPER_CSV,
        about="prompts that the run has answered, of those planned",
    ),
    Column("planned_prompts", digits=0, value=lambda context: context.run.prompts[1], shown_in=IN_PAPER_CSV),
    Column("failed_prompts", digits=0, value=lambda context: len(context.run.failed)),
    Column(
        "questions",
        "questions",
        digits=0,
        value=lambda context: sum(len(sample.correct) for sample in context.run.samples),
        shown_in=TABLE_AND_PAGE | IN_PAPER_CSV,
        about="questions of these prompts; a prompt asks several",
    ),
    each_scorer,
    Column(
        "points_lost",
        "points lost",
        factor=PERCENT,
        scores=right_answers,
        statistic=Statistic.LOSS,
        shown_in=TABLE_AND_PAGE,
        about="accuracy of the uncompressed run minus this one's, over the prompts both answered; positive is worse",
    ),
    Column("paired_prompts", digits=0, value=_paired_prompts),
    each_scorer_missing,
    Column(
        "duplicates",
        "repeats",
        digits=0,
        value=_duplicates,
        shown_in=TABLE_AND_PAGE,
        about="answers beyond the first to a question, over all prompts",
    ),
    each_measure,
    each_of_replays,
    Column(
        "slots",
        "slots",
        value=_slots,
        shown_in=COST_AND_PAGE | IN_PAPER,
        about="slots that a layer and head holds at the end of a text, on average",
    ),
    Column(
        "kept_percent",
        "slots\nkept",
        "%",
        factor=PERCENT,
        value=_kept,
        shown_in=COST_AND_PAGE,
        about="these slots, of those that a full cache would hold after the same text",
    ),
    Column(
        "cache_mib",
        "cache",
        "MiB",
        factor=MIB,
        value=_bytes,
        shown_in=COST_AND_PAGE | IN_PAPER,
        about="bytes of one prompt's cache, with what the strategy remembers of each slot",
    ),
    Column(
        "cache_percent",
        "cache %",
        "of full",
        factor=PERCENT,
        value=lambda context: _share_of_bytes(context)[0],
        shown_in=COST_AND_PAGE,
        tracked="cache_share",
        about="these bytes, of the uncompressed run's for the same prompts; without such a run, of what a full cache "
        "would have needed for the run's own texts",
    ),
    Column("cache_percent_of", value=lambda context: _share_of_bytes(context)[1]),
    Column(
        "tokens_per_second",
        "tokens/s",
        digits="significant",
        value=lambda context: speeds.tokens_per_second(context.run.samples),
        marked_by="speed_differs",
        shown_in=COST_AND_PAGE,
        tracked="tokens_per_second",
        about="tokens written a second while decoding, over all rows of a batch; the prefill is not counted",
    ),
    Column("engine", value=lambda context: speeds.engine(context.run)),
    Column("device", value=lambda context: speeds.device(context.run)),
    Column("threads", value=lambda context: speeds.threads(context.run)),
    Column("batch_rows", value=lambda context: speeds.batch_rows(context.run)),
    Column("cpu_wait_percent", factor=PERCENT, value=lambda context: speeds.waited(context.run.samples)),
    Column(
        "speed_differs",
        "tokens/s do not compare",
        across=speeds.differences,
        shown_in=frozenset({Place.PAGE}),
    ),
    Column(
        "notes",
        "notes",
        value=_notes,
        shown_in=COST_AND_PAGE | IN_PAPER_CSV,
        about="what has to be known before two rows are compared",
    ),
    Column("identity", value=lambda context: context.run.identity),
    Column("commit", value=lambda context: context.run.made_by[0]["commit"], shown_in=IN_PAPER_CSV),
)
"""The order is that of the frame, of the CSV and of every table."""


def columns_for(runs: Sequence[Run], table: Sequence[Column | Family] = COLUMNS) -> tuple[Column, ...]:
    """The columns of a table for these runs: each family replaced by its columns.

    Raises ScopeError where two columns have one name.
    """
    found = [column for entry in table for column in ([entry] if isinstance(entry, Column) else entry(runs))]
    names = [name for column in found for name in column.names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ScopeError(f"columns: {', '.join(twice)} is there twice")
    return tuple(found)


def without_value(column: Column, frame: pd.DataFrame) -> bool:
    """Whether no row has anything to show in a column."""
    cells = frame[column.name]
    return not (cells.notna() & (cells != "")).any()


def shown(frame: pd.DataFrame, columns: Sequence[Column], place: Place) -> Iterator[Column]:
    """The columns that a place shows of a frame, those without any value left out."""
    asks = bool(frame["questions"].any())
    for column in columns:
        of_answers = column.name in ("questions", "duplicates")  # they say nothing of a task that asks no question
        if place in column.shown_in and (asks or not of_answers) and not without_value(column, frame):
            yield column


def named(columns: Sequence[Column]) -> Mapping[str, Column]:
    """The columns by their names."""
    return {column.name: column for column in columns}
