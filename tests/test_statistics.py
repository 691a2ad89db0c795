"""The intervals of the tables: against scipy's exact ones, against loops over the formulas, and by their coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import clopper_pearson, clustered_proportion, design_effect, paired_difference


@pytest.mark.parametrize(("hits", "trials"), [(0, 12), (1, 12), (7, 12), (12, 12), (93, 100)])
def test_clusters_of_one_trial_give_the_exact_interval(hits: int, trials: int) -> None:
    exact = stats.binomtest(hits, trials).proportion_ci(0.95, method="exact")
    interval = clustered_proportion([1] * hits + [0] * (trials - hits), [1] * trials)
    assert interval == pytest.approx((hits / trials, exact.low, exact.high))


def test_the_interval_is_the_formula_of_korn_and_graubard() -> None:
    hits, sizes = [8, 3, 5, 0, 6, 8], [8, 6, 8, 4, 8, 8]
    n, groups = sum(sizes), len(sizes)
    p = sum(hits) / n
    robust = 0.0
    for hit, size in zip(hits, sizes, strict=True):
        robust += (hit - p * size) ** 2
    robust *= groups / (groups - 1) / n**2
    deff = robust / (p * (1 - p) / (n - 1))
    assert deff > 1
    effective = n / deff * (stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, groups - 1)) ** 2
    low = stats.beta.ppf(0.025, p * effective, effective - p * effective + 1)
    high = stats.beta.ppf(0.975, p * effective + 1, effective - p * effective)
    assert design_effect(hits, sizes) == pytest.approx(deff)
    assert clustered_proportion(hits, sizes) == pytest.approx((p, low, high))


def test_equal_clusters_make_a_design_effect_of_their_size() -> None:
    hits, sizes = [8, 0] * 50, [8] * 100  # every cluster is one decision, taken eight times
    assert design_effect(hits, sizes) == pytest.approx(8, rel=0.02)


def test_the_design_effect_never_falls_below_one() -> None:
    assert design_effect([4] * 10, [8] * 10) == 1


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_certainty_has_width(rate: float) -> None:
    sizes = [8] * 20
    estimate, low, high = clustered_proportion([int(rate * size) for size in sizes], sizes)
    assert estimate == rate
    assert low <= rate <= high
    assert 0.01 < high - low < 0.1


def test_coverage_of_clustered_data() -> None:
    """Of 95% intervals about 95% hold the truth; those that take the questions as independent fall well short."""
    random, truth, rounds = np.random.default_rng(0), 0.8, 400
    levels = random.beta(truth * 2, (1 - truth) * 2, size=(rounds, 25))  # correlation of 1/3 within a cluster
    hits = random.binomial(8, levels)
    held = naive = 0
    for drawn in hits:
        _, low, high = clustered_proportion(drawn.tolist(), [8] * 25)
        held += low <= truth <= high
        low, high = clopper_pearson(drawn.sum() / 200, 200)
        naive += low <= truth <= high
    assert 0.93 <= held / rounds <= 0.99
    assert naive / rounds < 0.85


def test_one_cluster_says_nothing_of_its_spread() -> None:
    assert clustered_proportion([3], [4]) == (0.75, 0.0, 1.0)
    assert clustered_proportion([3, 0], [4, 0]) == (0.75, 0.0, 1.0)


def test_no_trial_is_unknown() -> None:
    assert all(math.isnan(value) for value in clustered_proportion([], []))
    assert all(math.isnan(value) for value in clustered_proportion([0], [0]))


def test_the_paired_interval_is_students() -> None:
    differences = [0.25, 0.0, -0.125, 0.5, 0.0, 0.125]
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert paired_difference(differences) == pytest.approx((np.mean(differences), expected.low, expected.high))


def test_pairs_without_spread_still_leave_doubt() -> None:
    """If a share of 1 - 0.05^(1/20) of all prompts differed, 20 prompts would show none of them once in 20 times."""
    mean, low, high = paired_difference([0.0] * 20)
    assert mean == 0
    assert (1 - high) ** 20 == pytest.approx(0.05)
    assert low == -high
    mean, low, high = paired_difference([2 / 3 - 1 / 3, 1 - 2 / 3])  # equal but for rounding
    assert -1 < low < mean < high < 1


def test_the_paired_interval_stays_in_range() -> None:
    assert paired_difference([1.0, 0.0])[1:] == (-1, 1)
    assert all(math.isnan(value) for value in paired_difference([]))
