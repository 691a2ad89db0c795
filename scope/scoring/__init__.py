"""From text to answers."""

from collections.abc import Sequence

from scope.scoring import aligned
from scope.scoring.answer import Answer, Question

FORMS = ("number", "choice")  # what an answer looks like


def score(questions: Sequence[Question], generation: str, form: str = "number") -> list[Answer]:
    """Each question with what was found for it in the generation."""
    return aligned.score(questions, generation)
