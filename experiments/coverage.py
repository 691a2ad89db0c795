"""How often 95% intervals hold the truth, at this benchmark's sizes: which interval the tables should show.

python -m experiments.coverage [rounds]

Prompts of K = 30 questions whose levels of difficulty are drawn from a beta distribution (correlation within a prompt
0.1), 400 rounds a cell, so that a figure is known to 2 points or so. % held, over accuracies .5, .8, .95, .99:

    prompts  Korn-Graubard    percentile       BCa              expanded
    4        98 98 100 100    81 80 80 42      81 80 80 41      88 89 81 43
    8        96 96 95 100     88 88 83 71      88 89 86 70      94 94 89 72
    16       96 98 93 88      92 93 89 74      92 94 90 81      95 96 91 74
    30       96 96 95 91      94 94 91 83      94 96 93 86      95 96 92 83
    60       95 96 95 94      94 94 93 92      94 95 94 94      95 95 93 92

An accuracy is Korn and Graubard's: no bootstrap holds near 1, where few prompts show a wrong answer. For what one run
loses to another on the same prompts, 0, 2, 10 and 30% of an accuracy of .8:

    prompts  Student          percentile       BCa              expanded
    4        96 95 94 94      84 81 80 79      82 80 79 78      93 89 88 86
    8        95 95 95 96      89 86 88 91      87 86 88 91      95 94 94 96
    16       97 95 95 96      92 91 91 92      91 90 90 92      97 94 94 96
    30       92 95 95 95      90 93 93 93      90 92 92 93      92 94 95 95
    60       96 96 94 95      94 95 94 94      94 95 94 93      95 96 94 96

The expanded percentile bootstrap holds as Student's interval does, and takes ratios and ROUGE as well as differences;
below a dozen prompts it is Student's that holds.
"""

import argparse

import numpy as np
from scipy import stats

from analysis.statistics import bootstrap as expanded
from analysis.statistics import clustered_proportion

QUESTIONS, CORRELATION, RESAMPLES = 30, 0.1, 999
METHODS = ("percentile", "BCa", "expanded")
PROMPTS, ACCURACIES, LOSSES = (4, 8, 16, 30, 60), (0.5, 0.8, 0.95, 0.99), (0.0, 0.02, 0.1, 0.3)


def levels(random: np.random.Generator, accuracy: float, shape: tuple[int, ...]) -> np.ndarray:
    both = 1 / CORRELATION - 1
    return random.beta(accuracy * both, (1 - accuracy) * both, size=shape)


def proportions(random: np.random.Generator, rounds: int) -> None:
    print("accuracy of one run: held % (mean width, points)")
    print(f"{'prompts':>7} {'accuracy':>8} {'Korn-Graubard':>16} {'percentile':>16} {'BCa':>16} {'expanded':>16}")
    for prompts in PROMPTS:
        for truth in ACCURACIES:
            hits = random.binomial(QUESTIONS, levels(random, truth, (rounds, prompts)))
            exact = [clustered_proportion(row.tolist(), [QUESTIONS] * prompts)[1:] for row in hits]
            cells = [exact] + [[bootstrap(row / QUESTIONS, method) for row in hits] for method in METHODS]
            print(f"{prompts:>7} {truth:>8} " + " ".join(f"{about(cell, truth):>16}" for cell in cells), flush=True)


def differences(random: np.random.Generator, rounds: int) -> None:
    print("difference of two runs on the same prompts (0.8 and less): held % (mean width, points)")
    print(f"{'prompts':>7} {'loss':>8} {'Student':>16} {'percentile':>16} {'BCa':>16} {'expanded':>16}")
    for prompts in PROMPTS:
        for loss in LOSSES:
            before = levels(random, 0.8, (rounds, prompts))
            after = before * levels(random, 1 - loss, (rounds, prompts)) if loss else before
            lost = (random.binomial(QUESTIONS, before) - random.binomial(QUESTIONS, after)) / QUESTIONS
            cells = [[student(row) for row in lost]]
            cells += [[bootstrap(row, method) for row in lost] for method in METHODS]
            print(f"{prompts:>7} {loss:>8} " + " ".join(f"{about(c, 0.8 * loss):>16}" for c in cells), flush=True)


def bootstrap(values: np.ndarray, method: str) -> tuple[float, float]:
    """Of the mean over prompts, resampling prompts; equal sizes make it the proportion's."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    if method == "expanded":
        return expanded(values.tolist(), [1.0] * len(values))[1:]
    found = stats.bootstrap((values,), np.mean, n_resamples=RESAMPLES, method=method, rng=0).confidence_interval
    return float(found.low), float(found.high)


def student(values: np.ndarray) -> tuple[float, float]:
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return float(found.low), float(found.high)


def about(intervals: list[tuple[float, float]], truth: float) -> str:
    held = np.mean([low - 1e-12 <= truth <= high + 1e-12 for low, high in intervals])
    width = np.mean([high - low for low, high in intervals])
    return f"{100 * held:.1f} ({100 * width:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rounds", type=at_least_one, nargs="?", default=400, help="of every cell (400)")
    rounds = parser.parse_args().rounds
    random = np.random.default_rng(0)
    proportions(random, rounds)
    differences(random, rounds)


def at_least_one(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word}: must be a whole number of at least 1")
    return int(word)


if __name__ == "__main__":
    main()
