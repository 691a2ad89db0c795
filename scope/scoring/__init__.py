"""From text to answers: one file for each scorer, and `score`, which has several of them side by side."""

from collections.abc import Mapping, Sequence
from functools import cache

from scope.scoring.answer import PRIMARY, Answer, Question, Score
from scope.scoring.scorers import STANDARD, Scorer, scorers
from scope.scoring.thinking import Markers, without_thinking
from scope.scoring.values import FORMS
from scope.util.errors import ScopeError

__all__ = ["FORMS", "PRIMARY", "STANDARD", "Answer", "Question", "Score", "Scorer", "form_of", "score", "scorers"]


def score(
    questions: Sequence[Question],
    generation: str,
    form: str | None = None,
    by: Mapping[str, Scorer] | None = None,
    thinking: Markers | None = None,
    opened: bool = False,
) -> list[Answer]:
    """Each question with what every scorer finds for it in the generation. Linear in the length of the text.

    form: one of `FORMS`, what an answer looks like; None: what `form_of` says. A number is `expected` as it stands
    after the `####` of a solution.
    by: the scorers by name; None: those of `STANDARD`. thinking: what stands before and after a thinking part, which
    only scorers that read it are given; opened: whether the text begins inside of one.
    Raises ScopeError for a scorer that does not give one score for each question.
    """
    form = form_of(questions) if form is None else form
    answer = without_thinking(generation, thinking, opened)
    found = {
        name: list(scorer.score(questions, generation if scorer.reads_thinking else answer, form))
        for name, scorer in (standard() if by is None else by).items()
    }
    for name, scores in found.items():
        if len(scores) != len(questions) or not all(isinstance(one, Score) for one in scores):
            raise ScopeError(f"scoring: {name} must give a Score for each of {len(questions)} questions")
    return [
        Answer(question.number, question.expected, {name: scores[place] for name, scores in found.items()})
        for place, question in enumerate(questions)
    ]


@cache
def standard() -> Mapping[str, Scorer]:
    """The scorers of a run that asks for no others."""
    return scorers(STANDARD)


def form_of(questions: Sequence[Question]) -> str:
    """What the answers to these look like: choices where all that is expected are letters."""
    return "choice" if all(len(q.expected) == 1 and q.expected.isalpha() for q in questions) else "number"
