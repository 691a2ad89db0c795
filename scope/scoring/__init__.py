"""From text to answers: one file for each scorer, and `score`, which applies several scorers to one text."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from scope.scoring.aligned import under_headers
from scope.scoring.answer import PRIMARY, Answer, Question, Score
from scope.scoring.faults import ScorerError, scores_by
from scope.scoring.scorers import STANDARD, Scorer, scorers
from scope.scoring.thinking import Markers, without_thinking
from scope.scoring.values import FORMS, equal

__all__ = [
    "FORMS",
    "PRIMARY",
    "STANDARD",
    "Answer",
    "Question",
    "Score",
    "Scorer",
    "ScorerError",
    "attempt",
    "equal",
    "form_of",
    "score",
    "scorers",
    "under_headers",
]


def score(
    questions: Sequence[Question],
    generation: str,
    form: str | None = None,
    by: Mapping[str, Scorer] | None = None,
    thinking: Markers | None = None,
    opened: bool = False,
) -> list[Answer]:
    """What every scorer finds in a generation, for each question. The time is linear in the length of the text.

    questions: of one prompt, in its order. The expected number is written as a data set has it, after the `####`.
    generation: the whole text.
    form: what an answer looks like, one of `FORMS`; None takes what `form_of` says.
    by: the scorers by name; None takes those of `STANDARD`.
    thinking: the markers before and after a thinking part. That part is removed, except for scorers that read it. None
    means that the model has no such markers, so nothing is removed.
    opened: whether the text begins inside a thinking part.
    Returns one `Answer` for each question, in their order.
    Raises ScorerError if a scorer fails at the text, or does not give one `Score` for each question.
    """
    answers, failed = attempt(questions, generation, form, by, thinking, opened)
    if failed:
        raise failed[0]
    return answers


def attempt(
    questions: Sequence[Question],
    generation: str,
    form: str | None = None,
    by: Mapping[str, Scorer] | None = None,
    thinking: Markers | None = None,
    opened: bool = False,
) -> tuple[list[Answer], list[ScorerError]]:
    """As `score`, but a scorer that fails leaves out its own scores only. -> the answers, and why scores are left out.

    Raises ScorerError only if the primary scorer fails, without which there is no answer.
    """
    form = form_of(questions) if form is None else form
    answer = without_thinking(generation, thinking, opened)
    found: dict[str, Sequence[Score]] = {}
    failed: list[ScorerError] = []
    for name, scorer in (standard() if by is None else by).items():
        try:
            named = scorer if scorer.name else replace(scorer, name=name)
            found[name] = scores_by(named, questions, generation if scorer.reads_thinking else answer, form)
        except ScorerError as error:
            if name == PRIMARY:
                raise
            failed.append(error)
    answers = [
        Answer(question.number, question.expected, {name: scores[place] for name, scores in found.items()})
        for place, question in enumerate(questions)
    ]
    return answers, failed


@cache
def standard() -> Mapping[str, Scorer]:
    """The scorers of a run that names no others."""
    return scorers(STANDARD)


def form_of(questions: Sequence[Question]) -> str:
    """ "choice" if every expected answer is one letter, else "number"."""
    return "choice" if all(len(q.expected) == 1 and q.expected.isalpha() for q in questions) else "number"
