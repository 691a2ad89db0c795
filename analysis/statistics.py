"""95% intervals and paired tests for the tables: how far a figure may be from that of infinitely many prompts.

The questions of one prompt are answered from one compressed cache, so their errors are correlated. The unit is the
prompt, not the question. All distributions are scipy's.

Which interval where was measured (experiments/coverage.py). An accuracy has Korn and Graubard's: near 1, where the best
runs are, few prompts have a wrong answer, and a bootstrap is too narrow. Means and differences of two runs on the same
prompts are bootstrapped by prompt, with a wider interval for few prompts. Below `FEW` prompts Student's t is used: no
resample of so few goes beyond their own values.
"""

from collections.abc import Mapping, Sequence
from math import fsum
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 1999
FEW = 12  # prompts
TESTABLE = 6  # prompts: of n, an exact paired test gives at best p = 2 / 2^n, and 2 / 2^5 is above 5%
SAME = 1e-9  # differences closer than this are equal: 2/3 - 1/3 and 1 - 2/3


class Interval(NamedTuple):
    """An estimate and the bounds of its confidence interval, in the same unit.

    Bounds of NaN: there is an estimate and no interval.
    """

    estimate: float
    low: float
    high: float


NAN = float("nan")
UNKNOWN = Interval(NAN, NAN, NAN)


def clustered_proportion(successes: Sequence[float], sizes: Sequence[float], confidence: float = 0.95) -> Interval:
    """The proportion of successes over clusters, with the interval of Korn & Graubard (1998), in 0..1.

    `successes[i]` of `sizes[i]` trials succeeded in cluster i; empty clusters say nothing and are left out. The exact
    interval of Clopper & Pearson is taken at an effective number of trials: the trials over their design effect,
    times (t[trials - 1] / t[clusters - 1])^2 for a variance that few clusters estimate badly. It has width at 0 and 1
    too; there the data hold no sign of a design effect and 1 is taken, so that it is the narrowest it can be.

    A single cluster shows nothing of the spread between clusters: bounds of NaN, no interval. None at all: NaN.

    Source: E. L. Korn and B. I. Graubard, Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data, Survey Methodology 24 (1998), 193-201.
    """
    hits, trials = _filled(successes, sizes)
    if not len(trials):
        return UNKNOWN
    total = trials.sum()
    estimate = float(hits.sum() / total)
    if len(trials) == 1:
        return Interval(estimate, NAN, NAN)
    tail = (1 + confidence) / 2
    few_clusters = (stats.t.ppf(tail, total - 1) / stats.t.ppf(tail, len(trials) - 1)) ** 2
    effective = total / design_effect(successes, sizes) * few_clusters
    return Interval(estimate, *clopper_pearson(estimate, float(effective), confidence))


def design_effect(successes: Sequence[float], sizes: Sequence[float]) -> float:
    """How many times the clusters multiply the variance that independent trials would have; at least 1.

    The variance of the ratio estimator, robust to clusters, over the binomial one. Both are the unbiased estimates
    (G - 1 and n - 1), so that clusters of one trial each give exactly 1. Fewer than two clusters, or a proportion of
    0 or 1: 1.
    """
    hits, trials = _filled(successes, sizes)
    total, clusters = trials.sum(), len(trials)
    proportion = hits.sum() / total if total else 0.0
    if clusters < 2 or not 0 < proportion < 1:
        return 1.0
    robust = clusters / (clusters - 1) * np.square(hits - proportion * trials).sum() / total**2
    binomial = proportion * (1 - proportion) / (total - 1)
    return max(1.0, float(robust / binomial))


def clopper_pearson(proportion: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """The exact binomial bounds at `proportion` of `trials`, which need not be a whole number."""
    hits, tail = proportion * trials, (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, hits, trials - hits + 1)) if proportion > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, trials - hits)) if proportion < 1 else 1.0
    return low, high


def bootstrap(
    totals: Sequence[float], sizes: Sequence[float], confidence: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """The ratio of sums over prompts, sum(totals) / sum(sizes), with its interval by resampling prompts.

    The percentile interval at Hesterberg's expanded level, which undoes its being too narrow for few prompts: the level
    at which a normal distribution reaches as far as sqrt(n / (n - 1)) times Student's t with n - 1 degrees of freedom.
    The same resamples are drawn every time. Prompts of size 0 say nothing. One prompt: bounds of NaN; none: NaN.

    Source: T. C. Hesterberg, What teachers should know about the bootstrap, American Statistician 69 (2015), 371-386.
    """
    amounts, weights = _filled(totals, sizes)
    count = len(weights)
    if not count:
        return UNKNOWN
    estimate = float(amounts.sum() / weights.sum())
    if count == 1:
        return Interval(estimate, NAN, NAN)
    reach = np.sqrt(count / (count - 1)) * stats.t.ppf((1 + confidence) / 2, count - 1)
    found = stats.bootstrap(
        (amounts, weights),
        lambda a, w, axis: a.sum(axis=axis) / w.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=1 - 2 * stats.norm.sf(reach),
        n_resamples=resamples,
        rng=0,
    ).confidence_interval
    return Interval(estimate, float(found.low), float(found.high))


def mean_by_prompt(differences: Sequence[float], most: float = 1.0) -> Interval:
    """The mean of values, one per prompt, with the interval of `bootstrap`; below `FEW` prompts Student's.

    most: no value is larger than this, with either sign; infinite where there is no such bound. Student's interval ends
    there.

    Where all values are equal (one prompt, or a method that changes no answer) there is no interval: resampling would
    give a width of zero, and the bounds of `cautious` would make a method that changes nothing look less certain than
    one that changes a little. No prompt: NaN.

    The interval of b - a is that of a - b with its sign turned, and no order of the prompts changes it: the bounds are
    the means of those of the sorted values and of those of the sorted values with their signs turned.
    """
    if not len(differences):
        return UNKNOWN
    mean = fsum(differences) / len(differences)
    if np.ptp(differences) < SAME:
        return Interval(mean, NAN, NAN)
    if len(differences) >= FEW:
        ones = [1.0] * len(differences)
        found, turned = (
            bootstrap(sorted(sign * value for value in differences), ones, resamples=RESAMPLES // 2) for sign in (1, -1)
        )
        return Interval(mean, (found.low - turned.high) / 2, (found.high - turned.low) / 2)
    student = stats.ttest_1samp(sorted(differences), 0).confidence_interval(0.95)
    return Interval(mean, max(-most, float(student.low)), min(most, float(student.high)))


def cautious(lost: Interval, prompts: int, most: float = 1.0) -> Interval:
    """A mean of `mean_by_prompt` with bounds in any case, for decisions and not for tables.

    Where there is no interval, a share of up to 1 - 0.05^(1/n) of all prompts may have any value (Clopper & Pearson's
    one-sided bound), so the bounds let that share be as low or as high as `most` allows.
    """
    if not prompts or not np.isnan(lost.low):
        return lost
    mean, unseen = lost.estimate, float(1 - 0.05 ** (1 / prompts))
    return Interval(mean, mean - unseen * (mean + most), mean + unseen * (most - mean))


def mean_of_independent(parts: Sequence[Interval]) -> Interval:
    """The plain mean of estimates from separate samples (tasks, say), with the interval that theirs imply.

    Each bound lies as far from the mean as the root of the sum of squares of the parts' own distances, over their
    number, which for normal intervals is exact and for lopsided ones keeps them lopsided. None, or one unknown: NaN.

    Source: G. Y. Zou and A. Donner, Construction of confidence limits about effect measures: a general approach,
    Statistics in Medicine 27 (2008), 1693-1702.
    """
    if not parts:
        return UNKNOWN
    estimates, lows, highs = np.array(parts, dtype=float).T
    mean, count = float(estimates.mean()), len(parts)
    down, up = np.sqrt(np.square(estimates - lows).sum()), np.sqrt(np.square(highs - estimates).sum())
    return Interval(mean, mean - float(down) / count, mean + float(up) / count)


Scores = Mapping[Any, tuple[float, float]]  # prompt -> what it scored, of how much


def paired_differences(better: Scores, run: Scores) -> list[float]:
    """For each prompt that both have: the mean score of `better` minus that of `run`."""
    common = [prompt for prompt in run if prompt in better]
    return [better[p][0] / better[p][1] - run[p][0] / run[p][1] for p in common if better[p][1] and run[p][1]]


def lost_to(better: Scores, run: Scores, most: float = 1.0) -> tuple[Interval, int]:
    """The mean of `paired_differences` with its interval, and over how many prompts. most: as in `mean_by_prompt`."""
    differences = paired_differences(better, run)
    return mean_by_prompt(differences, most), len(differences)


def tied_with_best(runs: Sequence[Scores], larger_is_better: bool = True, most: float = 1.0) -> list[bool]:
    """Which runs cannot be told from the best one: the 95% interval of their difference from it holds 0.

    Only prompts that both have count. The best is tied with itself; a run that shares no prompt with it, or has no
    scores at all, is tied with nothing. Where the best has no point at all, or fewer than `TESTABLE` prompts, nothing
    is the best. most: as in `mean_by_prompt`.
    """
    scored = [row for row, run in enumerate(runs) if any(size for _, size in run.values())]
    if not scored:
        return [False] * len(runs)
    best = (max if larger_is_better else min)(scored, key=lambda row: _ratio(runs[row]))
    pointless = larger_is_better and not _ratio(runs[best])
    if pointless or sum(size > 0 for _, size in runs[best].values()) < TESTABLE:
        return [False] * len(runs)
    tied = []
    for row, run in enumerate(runs):
        _, low, high = cautious(*lost_to(runs[best], run, most), most)
        tied.append(row == best or low <= 0 <= high)
    return tied


def by_position(correct: Sequence[Sequence[bool]]) -> list[Interval]:
    """Accuracy of the first questions of all prompts, of the second ones, and so on; prompts may differ in length."""
    longest = max((len(prompt) for prompt in correct), default=0)
    columns = [[int(prompt[k]) for prompt in correct if len(prompt) > k] for k in range(longest)]
    return [clustered_proportion(column, [1] * len(column)) for column in columns]


def _ratio(run: Scores) -> float:
    return sum(score for score, _ in run.values()) / sum(size for _, size in run.values())


def _filled(successes: Sequence[float], sizes: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Both as float arrays, without the empty clusters."""
    hits, trials = np.asarray(successes, dtype=float), np.asarray(sizes, dtype=float)
    return hits[trials > 0], trials[trials > 0]
