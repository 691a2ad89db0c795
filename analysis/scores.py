"""What each prompt of a run scored, by prompt: what every interval and every paired test starts from."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from math import fsum

from analysis.records import Replay, Sample
from analysis.statistics import Scores
from scope.scoring import PRIMARY


def right_answers(samples: Sequence[Sample], scorer: str = PRIMARY) -> Scores:
    """By prompt: its right answers by this scorer, of its questions.

    A prompt is the same only if it asks for the same answers. All draws of a prompt count together. Empty where the
    scorer has not scored all samples.
    """
    marks = [sample.marks_by(scorer) for sample in samples]
    whole = [(sample, found.correct) for sample, found in zip(samples, marks, strict=True) if found is not None]
    if len(whole) < len(marks):
        return {}
    return _summed(((sample.prompt, sample.expected), sum(right), len(right)) for sample, right in whole)


def measured(samples: Sequence[Sample], name: str) -> Scores:
    """By cluster: the sum of a measure of whole texts over its samples, of the number of those that have it."""
    return _summed((sample.cluster, sample.measures[name], 1) for sample in samples if name in sample.measures)


PerToken = Callable[[Replay], Sequence[float]]  # a number, or a yes or no, of each forced token


def replayed(samples: Sequence[Sample], of: PerToken) -> Scores:
    """By cluster: the sum over its samples of the mean over their forced tokens, of so many samples.

    The first token is left out, since no policy changes it. Samples without any other say nothing.
    """
    later = [(sample.cluster, of(sample.replay)[1:]) for sample in samples if sample.replay]
    return _summed((cluster, fsum(values) / len(values), 1) for cluster, values in later if len(values))


def of_answers(samples: Sequence[Sample], of: PerToken) -> Scores:
    """By cluster: the sum over the answer tokens of all its samples, of so many tokens. The first token is left out."""
    replays = [(sample.cluster, sample.replay) for sample in samples if sample.replay]
    values = [
        (cluster, [value for value, is_answer in zip(of(told)[1:], told.answers[1:], strict=True) if is_answer])
        for cluster, told in replays
    ]
    return _summed((cluster, fsum(found), len(found)) for cluster, found in values if found)


def _summed(parts: Iterable[tuple[Hashable, float, float]]) -> Scores:
    """parts: of each sample its group, its score, and of how many. -> by group, the sums of both."""
    scores: dict[Hashable, tuple[float, float]] = {}
    for group, score, count in parts:
        total, so_far = scores.get(group, (0, 0))
        scores[group] = total + score, so_far + count
    return scores
