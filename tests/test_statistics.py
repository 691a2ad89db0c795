"""The intervals of the tables: against scipy's exact ones, against loops over the formulas, and by their coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import (
    FEW,
    UNKNOWN,
    Interval,
    bootstrap,
    by_position,
    cautious,
    clopper_pearson,
    clustered_proportion,
    design_effect,
    lost_to,
    mean_by_prompt,
    mean_of_independent,
    tied_with_best,
)


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


@pytest.mark.parametrize("found", [clustered_proportion([3], [4]), clustered_proportion([3, 0], [4, 0])])
def test_one_cluster_says_nothing_of_its_spread(found: Interval) -> None:
    assert found.estimate == 0.75
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_no_trial_is_unknown() -> None:
    assert all(math.isnan(value) for value in clustered_proportion([], []))
    assert all(math.isnan(value) for value in clustered_proportion([0], [0]))


def test_the_paired_interval_of_few_prompts_is_students() -> None:
    differences = [0.25, 0.0, -0.125, 0.5, 0.0, 0.125]
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert mean_by_prompt(differences) == pytest.approx((np.mean(differences), expected.low, expected.high))


@pytest.mark.parametrize("differences", [[0.0] * 20, [0.25], [0.25] * 4, [2 / 3 - 1 / 3, 1 - 2 / 3]])
def test_prompts_that_differ_by_the_same_give_no_interval(differences: list[float]) -> None:
    found = mean_by_prompt(differences)
    assert found.estimate == pytest.approx(differences[0])
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_decisions_without_spread_still_have_doubt() -> None:
    """If a share of 1 - 0.05^(1/20) of all prompts differed, 20 prompts would show none of them once in 20 times."""
    found = mean_by_prompt([0.0] * 20)
    mean, low, high = cautious(found, 20)
    assert mean == 0
    assert (1 - high) ** 20 == pytest.approx(0.05)
    assert low == -high
    known = mean_by_prompt([0.0, 0.5, 0.25])
    assert cautious(known, 3) == known
    assert all(math.isnan(value) for value in cautious(UNKNOWN, 0))
    alike = dict.fromkeys(range(6), (3, 4))
    assert tied_with_best([alike, dict.fromkeys(range(6), (2, 4))]) == [True, True]  # too few to be sure


@pytest.mark.parametrize("count", [5, FEW, 40])
def test_a_difference_has_one_interval_whichever_run_comes_first(count: int) -> None:
    differences = np.random.default_rng(7).integers(-3, 12, size=count) / 24
    mean, low, high = mean_by_prompt(differences.tolist())
    assert mean_by_prompt((-differences).tolist()) == (-mean, -high, -low)
    assert mean_by_prompt(differences[::-1].tolist()) == (mean, low, high)
    assert low < mean < high


def test_the_paired_interval_stays_in_range() -> None:
    assert mean_by_prompt([1.0, 0.0])[1:] == (-1, 1)
    assert all(math.isnan(value) for value in mean_by_prompt([]))


@pytest.mark.parametrize("prompts", [1, 3, 20, 200])
@pytest.mark.parametrize("mean", [-1.0, -0.4, 0.0, 0.25, 1.0])
def test_where_all_prompts_agree_the_others_may_differ_by_all_there_is(mean: float, prompts: int) -> None:
    """Oracle: as many prompts agree by chance, in 1 of 20 cases, if so large a share of all differs; its mean is then
    -1 or 1, the rest has the mean that was seen."""
    share = stats.binomtest(0, prompts).proportion_ci(0.90, method="exact").high
    estimate, low, high = cautious(Interval(mean, math.nan, math.nan), prompts)
    assert estimate == mean
    assert (low, high) == pytest.approx(tuple((1 - share) * mean + share * end for end in (-1, 1)))
    assert -1 <= low <= mean <= high <= 1


# --- the bootstrap ---------------------------------------------------------------------------------------------------


def test_the_bootstrap_is_a_loop_over_resampled_prompts() -> None:
    """Oracle: draw prompts with replacement, take the ratio of sums, sort, cut off the expanded tails."""
    totals, sizes = [8.0, 3.0, 5.0, 0.0, 6.0, 8.0, 2.0, 7.0], [8.0, 6.0, 8.0, 4.0, 8.0, 8.0, 4.0, 8.0]
    random, ratios, n = np.random.default_rng(5), [], len(totals)
    for _ in range(20_000):
        drawn = random.integers(n, size=n)
        ratios.append(sum(totals[i] for i in drawn) / sum(sizes[i] for i in drawn))
    tail = stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    estimate, low, high = bootstrap(totals, sizes)
    assert estimate == pytest.approx(sum(totals) / sum(sizes))
    assert (low, high) == pytest.approx(np.quantile(ratios, [tail, 1 - tail]), abs=0.02)
    assert bootstrap(totals, sizes) == (estimate, low, high)


def test_the_bootstrap_reaches_as_far_as_students_t() -> None:
    """Of many different prompts a mean is all but normal: its bounds lie where t with the sample's own spread has them,
    sqrt(n / (n - 1)) times that of the resamples."""
    values = np.random.default_rng(8).normal(size=9)
    _, low, high = bootstrap(values.tolist(), [1.0] * 9, resamples=200_000)
    spread = np.mean(np.random.default_rng(9).choice(values, (400_000, 9)), axis=1)
    tail = stats.norm.sf(math.sqrt(9 / 8) * stats.t.ppf(0.975, 8))
    assert (low, high) == pytest.approx(np.quantile(spread, [tail, 1 - tail]), abs=0.02)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 8) * values.std(ddof=1) / 3, rel=0.05)


def test_the_bootstrap_of_nothing_and_of_one_prompt() -> None:
    assert all(math.isnan(value) for value in bootstrap([], []))
    assert all(math.isnan(value) for value in bootstrap([0.0], [0.0]))
    estimate, low, high = bootstrap([3.0], [4.0])
    assert (estimate, math.isnan(low), math.isnan(high)) == (0.75, True, True)


def test_pairing_sees_what_single_intervals_cannot() -> None:
    """A run that loses one answer of 30 on every other prompt, whatever their levels are, is told from the best."""
    levels = np.random.default_rng(2).integers(5, 29, size=30)
    best = {prompt: (int(level) + 1, 30) for prompt, level in enumerate(levels)}
    less = {prompt: (int(level) + prompt % 2, 30) for prompt, level in enumerate(levels)}
    single = [clustered_proportion(*zip(*run.values(), strict=True)) for run in (best, less)]
    assert single[1].high > single[0].low  # they overlap widely
    lost, common = lost_to(best, less)
    assert common == 30
    assert lost.estimate == pytest.approx(0.5 / 30)
    assert 0 < lost.low < lost.estimate < lost.high
    assert tied_with_best([less, best]) == [False, True]
    assert tied_with_best([less, best], larger_is_better=False) == [True, False]


def test_ties_are_over_the_prompts_that_both_have() -> None:
    random = np.random.default_rng(3)
    best = {k: (int(random.binomial(30, 0.8)), 30) for k in range(40)}
    same = {k: (hits + (1 if k % 2 else -1), size) for k, (hits, size) in best.items() if k < 30}
    other = {k + 100: (25, 30) for k in range(40)}  # better, on other prompts
    assert tied_with_best([best, same, {}]) == [True, True, False]
    assert tied_with_best([best, same, other]) == [False, False, True]
    assert tied_with_best([{}, {}]) == [False, False]
    some, none = (dict.fromkeys(range(6), (right, 4)) for right in (1, 0))
    assert tied_with_best([some]) == [True]  # nothing is better
    assert tied_with_best([none, none]) == [False, False]  # nothing is right, so nothing is the best
    assert tied_with_best([none, none], larger_is_better=False) == [True, True]


@pytest.mark.parametrize("prompts", range(1, 9))
def test_bold_needs_as_many_prompts_as_an_exact_test(prompts: int) -> None:
    """Oracle: scipy's permutation test of the clearest difference there can be, every prompt better by as much."""
    found = stats.wilcoxon([1.0] * prompts, method="exact") if prompts > 1 else None
    can_tell = bool(found and found.pvalue <= 0.05)
    runs = [dict.fromkeys(range(prompts), (right, 4)) for right in (4, 1)]
    assert tied_with_best(runs)[0] is can_tell


def test_how_often_equal_runs_tie() -> None:
    """Runs of equal truth on the same prompts: the lower one is told from the other in about 5% of the cases."""
    random, rounds, told = np.random.default_rng(4), 300, 0
    for _ in range(rounds):
        levels = random.beta(8, 2, size=FEW + 8)
        runs = [{k: (int(random.binomial(30, level)), 30) for k, level in enumerate(levels)} for _ in range(2)]
        told += not all(tied_with_best(runs))
    assert 0.02 < told / rounds < 0.09


def test_accuracy_by_position_is_that_of_a_loop() -> None:
    correct = [[True, True, False], [True, False], [False, False, False], [True, True, False]]
    found = by_position(correct)
    for k, interval in enumerate(found):
        column = [prompt[k] for prompt in correct if len(prompt) > k]
        exact = stats.binomtest(sum(column), len(column)).proportion_ci(0.95, method="exact")
        assert interval == pytest.approx((sum(column) / len(column), exact.low, exact.high))
    assert len(found) == 3
    assert by_position([]) == []


def test_the_mean_of_separate_samples_is_exact_for_normal_intervals() -> None:
    """Standard errors add as squares: those of half-widths 2, 3 and 6 make 7, of which a mean of three has a third."""
    found = mean_of_independent([Interval(10, 8, 12), Interval(20, 17, 23), Interval(60, 54, 66)])
    assert found == pytest.approx((30, 30 - 7 / 3, 30 + 7 / 3))
    lopsided = mean_of_independent([Interval(0.9, 0.6, 1.0), Interval(0.9, 0.5, 1.0)])
    assert lopsided == pytest.approx((0.9, 0.9 - 0.5 / 2, 0.9 + math.hypot(0.1, 0.1) / 2))
    assert all(math.isnan(value) for value in mean_of_independent([]))
    assert math.isnan(mean_of_independent([Interval(1, 0, 2), UNKNOWN]).estimate)


def test_the_mean_of_separate_samples_holds_the_truth() -> None:
    random, truths, rounds, held = np.random.default_rng(6), (0.3, 0.6, 0.95), 300, 0
    for _ in range(rounds):
        parts = [clustered_proportion(random.binomial(30, t, size=20).tolist(), [30] * 20) for t in truths]
        _, low, high = mean_of_independent(parts)
        held += low <= np.mean(truths) <= high
    assert 0.92 <= held / rounds <= 0.995
