"""What each prompt of a run scored, by prompt: what every interval and every paired test starts from."""

from collections.abc import Sequence

from analysis.records import Sample
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
