"""What each prompt of a run scored, by prompt: what every interval and every paired test starts from."""

from collections.abc import Callable, Sequence
from math import fsum

from analysis.records import Replay, Sample
from analysis.statistics import Scores
from scope.scoring import PRIMARY


def right_answers(samples: Sequence[Sample], scorer: str = PRIMARY) -> Scores:
    """By prompt: its right answers by this scorer, of its questions.

    A prompt is the same only if it asks for the same answers. All draws of a prompt count together. Empty where the
    scorer has not scored all samples.
    """
    marks = [(sample, sample.marks_by(scorer)) for sample in samples]
    if any(found is None for _, found in marks):
        return {}
    scores: dict[tuple[str, tuple[str, ...]], tuple[float, float]] = {}
    for sample, found in marks:
        right, asked = scores.get((sample.prompt, sample.expected), (0, 0))
        correct = found.correct if found else ()
        scores[sample.prompt, sample.expected] = right + sum(correct), asked + len(correct)
    return scores


def measured(samples: Sequence[Sample], name: str) -> Scores:
    """By prompt: the sum of a measure of whole texts over the prompt's draws, of the number of draws that have it."""
    scores: dict[str, tuple[float, float]] = {}
    for sample in samples:
        if name in sample.measures:
            total, count = scores.get(sample.prompt, (0.0, 0.0))
            scores[sample.prompt] = total + sample.measures[name], count + 1
    return scores


PerToken = Callable[[Replay], Sequence[float]]  # a number, or a yes or no, of each forced token


def replayed(samples: Sequence[Sample], of: PerToken) -> Scores:
    """By cluster: the sum over its samples of the mean over their forced tokens, of so many samples.

    The first token is left out, since no policy changes it. Samples without any other say nothing.
    """
    scores: dict[str, tuple[float, float]] = {}
    for sample in samples:
        if sample.replay and len(values := of(sample.replay)[1:]):
            total, count = scores.get(sample.cluster, (0.0, 0.0))
            scores[sample.cluster] = total + fsum(values) / len(values), count + 1
    return scores


def of_answers(samples: Sequence[Sample], of: PerToken) -> Scores:
    """By cluster: the sum over the answer tokens of all its samples, of so many tokens. The first token is left out."""
    scores: dict[str, tuple[float, float]] = {}
    for sample in samples:
        if sample.replay and any(sample.replay.answers[1:]):
            later = zip(of(sample.replay)[1:], sample.replay.answers[1:], strict=True)
            values = [value for value, is_answer in later if is_answer]
            total, count = scores.get(sample.cluster, (0.0, 0.0))
            scores[sample.cluster] = total + fsum(values), count + len(values)
    return scores
