"""Intervals for what the tables report: how far a figure could be from the one that endless prompts would give.

The questions of one prompt are answered from one compressed cache and stand or fall together, so the prompt, not the
question, is what was drawn at random. scipy supplies every distribution; here is only the glue.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """An estimate and the bounds of its confidence interval, all in the unit of what was estimated."""

    estimate: float
    low: float
    high: float


UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


def clustered_proportion(successes: Sequence[int], sizes: Sequence[int], confidence: float = 0.95) -> Interval:
    """The proportion of successes over clusters, with the interval of Korn & Graubard (1998), in 0..1.

    `successes[i]` of `sizes[i]` trials succeeded in cluster i; empty clusters say nothing and are left out. The exact
    interval of Clopper & Pearson is taken at an effective number of trials: the trials over their design effect,
    times (t[trials - 1] / t[clusters - 1])^2 for a variance that few clusters estimate badly. It has width at 0 and 1
    too; there the data hold no sign of a design effect and 1 is taken, so that it is the narrowest it can be.

    A single cluster shows nothing of the spread between clusters: the bounds are then 0 and 1. None at all: NaN.

    Source: E. L. Korn and B. I. Graubard, Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data, Survey Methodology 24 (1998), 193-201.
    """
    hits, trials = _filled(successes, sizes)
    if not len(trials):
        return UNKNOWN
    total = trials.sum()
    estimate = float(hits.sum() / total)
    if len(trials) == 1:
        return Interval(estimate, 0.0, 1.0)
    tail = (1 + confidence) / 2
    few_clusters = (stats.t.ppf(tail, total - 1) / stats.t.ppf(tail, len(trials) - 1)) ** 2
    effective = total / design_effect(successes, sizes) * few_clusters
    return Interval(estimate, *clopper_pearson(estimate, float(effective), confidence))


def design_effect(successes: Sequence[int], sizes: Sequence[int]) -> float:
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


def paired_difference(differences: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of differences, each in -1..1 and one per pair, with Student's t interval cut to that range.

    Where all pairs differ by the same (as with one pair, or a method that changes no answer) t would claim a width of
    zero. The bounds are then those of the share of pairs that could still differ otherwise, 1 - (1 - confidence)^(1/n)
    by Clopper & Pearson's one-sided bound, each by as much as it can. No pair: NaN.
    """
    values = np.asarray(differences, dtype=float)
    if not len(values):
        return UNKNOWN
    mean = float(values.mean())
    if np.ptp(values) < 1e-9:  # 2/3 - 1/3 and 1 - 2/3 are the same difference
        unseen = 1 - (1 - confidence) ** (1 / len(values))
        return Interval(mean, mean - unseen * (mean + 1), mean + unseen * (1 - mean))
    reach = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))
    return Interval(mean, max(-1.0, mean - reach), min(1.0, mean + reach))


def _filled(successes: Sequence[int], sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Both as float arrays, without the empty clusters."""
    hits, trials = np.asarray(successes, dtype=float), np.asarray(sizes, dtype=float)
    return hits[trials > 0], trials[trials > 0]
