"""The questions of the page, asked of the results: paired differences, and how far two tasks order policies alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr

from analysis.statistics import Interval
from experiments.real.results import Result
from experiments.real.rows import METHODS, PROTECTED, UNPROTECTED, Row

Results = Mapping[Row, Result]
RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """One minus the other, of two main rows."""

    label: str
    one: Row
    other: Row


def strategy(name: str, protect: str, share: float = 0.25) -> Row:
    return Row("decode", share, "full", name, protect)


def method(name: str, share: float = 0.5) -> Row:
    return Row("prefill", share, name, "none")


def _between(kind: str, one: str, other: str) -> Difference:
    if kind == "method":
        return Difference(f"{one} - {other}", method(one), method(other))
    return Difference(f"{one} - {other}", strategy(one, kind), strategy(other, kind))


QUESTIONS = {
    "1. Protection of the prompt: unprotected minus protected": [
        Difference("h2o - slide", strategy("h2o", "nothing"), strategy("slide", "prompt")),
        *(
            Difference(name, strategy(name, "nothing"), strategy(name, "prompt"))
            for name in ("distinct", "keydiff", "recent", "random", "tova", "morphkv")
        ),
    ],
    "2. distinct, the prompt protected": [
        _between("prompt", "distinct", other) for other in ("slide", "keydiff", "morphkv")
    ],
    "3. distinct, the prompt unprotected": [
        _between("nothing", "distinct", other) for other in ("h2o", "keydiff", "r_kv")
    ],
    "4. Prefill methods": [
        _between("method", "distinct", "snapkv"),
        _between("method", "distinct", "h2o"),
        _between("method", "snapkv", "h2o"),
        *(_between("method", name, "recent") for name in METHODS if name != "recent"),
    ],
}
ORDERS = {
    "32 strategies": [
        *(strategy(name, "prompt") for name in PROTECTED),
        *(strategy(name, "nothing") for name in UNPROTECTED),
    ],
    "16 strategies, protected": [strategy(name, "prompt") for name in PROTECTED],
    "16 strategies, unprotected": [strategy(name, "nothing") for name in UNPROTECTED],
    "12 prefill methods": [method(name) for name in METHODS],
}


def agreement(one: Results, other: Results, rows: Sequence[Row]) -> tuple[Interval, int]:
    """Spearman's correlation of the mean KL over the rows that both have, and how many these are.

    The interval is the percentile bootstrap's: clusters are drawn anew on both sides, the same for all rows of a side.
    """
    shared = [row for row in rows if row in one and row in other]
    if len(shared) < 3:
        return Interval(float("nan"), float("nan"), float("nan")), len(shared)
    tables = [_table(side, shared) for side in (one, other)]
    lots = np.random.default_rng(0)
    picks = [[lots.integers(table.shape[1], size=table.shape[1]) for table in tables] for _ in range(RESAMPLES)]
    return _correlated(spearmanr, tables, picks), len(shared)


def told_alike(free: Results, replayed: Results) -> tuple[Interval, Interval, list[Row]]:
    """Pearson's and Spearman's correlation, over rows, of the values that the model writes right by itself and of the
    answer tokens that are recalled in replay; on the same prompts. And the rows.

    The intervals are the percentile bootstrap's over prompts.
    """
    rows = [row for row in free if row in replayed]
    prompts = sorted(next(iter(free.values())).prompts)
    sides = [
        np.array([[results[row].prompts[prompt][name] for prompt in prompts] for row in rows])
        for results, name in ((free, "values"), (replayed, "answers_recalled"))
    ]
    lots = np.random.default_rng(0)
    picks = [[lots.integers(len(prompts), size=len(prompts))] * 2 for _ in range(RESAMPLES)]
    return _correlated(pearsonr, sides, picks), _correlated(spearmanr, sides, picks), rows


def _correlated(
    correlation: Callable[..., Any], sides: Sequence[np.ndarray], picks: Sequence[Sequence[np.ndarray]]
) -> Interval:
    """The correlation over rows of two tables' means, with its percentile bootstrap's interval.

    sides: two tables, rows by clusters. picks: for each resample the clusters that are drawn of each table.
    """
    means = [[side[:, pick].mean(1) for side, pick in zip(sides, both, strict=True)] for both in picks]
    drawn = [correlation(*both).statistic for both in means]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Interval(float(correlation(*(side.mean(1) for side in sides)).statistic), low, high)


def _table(side: Results, rows: Sequence[Row]) -> np.ndarray:
    """The mean KL of each row in each cluster."""
    found = [side[row].values("kl") for row in rows]
    return np.array([[values[cluster] for cluster in sorted(found[0])] for values in found])
