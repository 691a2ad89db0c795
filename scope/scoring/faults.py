"""Calls a scorer, which may be anybody's code, and says in one line how it fails: the error, the file, the line."""

import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from scope.scoring.answer import Question, Score
from scope.scoring.scorers import Scorer
from scope.util.errors import ScopeError, one_line, shown
from scope.util.importing import allowed_packages
from scope.util.secrets import redact

MOST_GIVEN = 2**53  # no record holds a larger count


class ScorerError(ScopeError):
    """A scorer that fails at a text. scorer: its name, as the setting writes it. why: the error and its place."""

    def __init__(self, scorer: str, why: str, at: str = "a text") -> None:
        super().__init__(f"scoring={scorer}: it fails on {at}: {why}")
        self.scorer, self.why, self.text = scorer, why, at

    def __reduce__(self) -> tuple[object, ...]:  # so that it can be sent from another process
        return type(self), (self.scorer, self.why, self.text)

    def at(self, what: str) -> "ScorerError":
        """The same error, which names the text: `an empty text`, `sample gsm8k-3`."""
        return ScorerError(self.scorer, self.why, what)


def scores_by(scorer: Scorer, questions: Sequence[Question], text: str, form: str) -> list[Score]:
    """What a scorer finds in a text: one `Score` for each question, in their order.

    Raises ScorerError for whatever the scorer raises, and for what no record can hold.
    """
    try:
        given = scorer.score(questions, text, form)
        scores = list(given) if isinstance(given, Iterable) else []
    except (Exception, SystemExit) as error:  # anybody's code may raise anything
        said = one_line(str(redact(f"{type(error).__name__}: {error}")))
        raise ScorerError(scorer.name, f"{said}{_place(error, scorer)}") from error
    if len(scores) != len(questions) or not all(isinstance(one, Score) for one in scores):
        number = len(questions)
        said = (
            "must give a Score for the question" if number == 1 else f"must give a Score for each of {number} questions"
        )
        raise ScorerError(scorer.name, f"it {said}")
    if wrong := next(filter(None, map(_wrong, scores)), ""):
        raise ScorerError(scorer.name, wrong)
    return scores


def _wrong(score: Score) -> str:
    """What of a score no record can hold; empty where nothing is."""
    found, correct, given = score.found, score.correct, score.given
    if found is not None and not isinstance(found, str):
        return f"Score.found={shown(found)}: must be a text or None"
    if found is not None and found != found.encode(errors="ignore").decode():
        return f"Score.found={shown(found)}: holds half a character (a lone surrogate)"
    if not isinstance(correct, bool):
        return f"Score.correct={shown(correct)}: must be True or False"
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < MOST_GIVEN:
        return f"Score.given={shown(given)}: must be a count"
    return ""


def _place(error: BaseException, scorer: Scorer) -> str:
    """The line of the scorer's own package in which an error came up, as ` (mylab/bad.py line 2)`; empty where none."""
    package = scorer.name.partition(".")[0]
    package = package if package in allowed_packages() else "scope.scoring"
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module, file = str(frame.f_globals.get("__name__")), Path(frame.f_code.co_filename)
        if f"{module}.".startswith(f"{package}.") and module != __name__:
            names = module.count(".") + 1 + (file.name == "__init__.py")
            return f" ({Path(*file.parts[-names:]).as_posix()} line {line})"
    return ""
