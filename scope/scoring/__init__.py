"""From text to answers: the aligned scorer and the paper's, side by side."""

from collections.abc import Sequence

from scope.scoring import aligned, released
from scope.scoring.answer import Answer, Question
from scope.scoring.values import FORMS, equal

__all__ = ["FORMS", "Answer", "Question", "form_of", "score"]


def score(questions: Sequence[Question], generation: str, form: str = "number") -> list[Answer]:
    """Each question with what both scorers find for it in the generation. Linear in the length of the text.

    form: one of `FORMS`, what an answer looks like. A number is `expected` as it stands after the `####` of a solution.
    """
    found = aligned.find(questions, generation, form)
    in_order: list[str | None] = [*released.find(form, generation)]
    in_order += [None] * (len(questions) - len(in_order))
    answers = []
    for question, second in zip(questions, in_order, strict=False):
        given = found[question.number]
        first = given[0] if given else None
        answers.append(
            Answer(
                question.number,
                question.expected,
                found=first,
                correct=equal(form, first, question.expected),
                given=len(given),
                released_found=second,
                released_correct=second is not None and second == released.expected(form, question.expected),
            )
        )
    return answers


def form_of(questions: Sequence[Question]) -> str:
    """What the answers to these look like: choices where all that is expected are letters."""
    return "choice" if all(len(q.expected) == 1 and q.expected.isalpha() for q in questions) else "number"
