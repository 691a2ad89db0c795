"""The value after "The answer is": a number (scope.scoring.numbers), or the letter of a choice (scope.scoring.choices).

Only the next `REACH` characters are read, which bounds the time of every pattern. A number that goes on beyond them is
not read. Numbers are compared as exact fractions: 16.00 is 16, and 0.5 is 1/2."""

import re
from fractions import Fraction

from scope.scoring.choices import choice
from scope.scoring.numbers import number
from scope.scoring.plain import REACH, plain

__all__ = ["FORMS", "REACH", "alone", "equal", "read"]

FORMS = ("number", "choice")  # what an answer looks like

ONLY_A_NUMBER = re.compile(r"[^\w]*\d[\d.,/ +×÷=^()$%-]*[^\w]*(?:[^\W\d]+[^\w]*)?")
ONLY_A_LETTER = re.compile(r"[^\w]*[A-J][^\w]*")


def read(form: str, text: str) -> str | None:
    """The value that the text states; None if it states none. It raises nothing, whatever the text.

    form: "number" gives a sign, ASCII digits, and a decimal point or a fraction bar. "choice" gives a capital letter.
    """
    return choice(plain(text)) if form == "choice" else number(plain(text))


def alone(form: str, text: str) -> str | None:
    """The value, if the text is nothing but a value; else None. form: "number" or "choice"."""
    short = plain(text.strip()) if len(text) < REACH else ""
    if form == "choice":
        return choice(short) if ONLY_A_LETTER.fullmatch(short) else None
    return number(short) if ONLY_A_NUMBER.fullmatch(short) else None


def equal(form: str, found: str | None, expected: str) -> bool:
    """Whether `found`, a result of `read`, equals the expected answer. None is never equal.

    expected: as a data set writes it, such as "1,250". Raises ValueError for a `found` that is no number in digits.
    """
    right = read(form, expected)
    if found is None or right is None:
        return False
    return found == right if form == "choice" else Fraction(found) == Fraction(right)
