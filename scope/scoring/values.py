"""What is written after "The answer is": a number, or the letter of a choice.

Numbers are compared as exact fractions: 16.00 is 16, and 0.5 is 1/2. A point is the decimal point; a comma, an
apostrophe or a thin space groups them. Words ("seven"), powers and magnitudes ("2 million") are not read. Only the next
`REACH` characters are looked at, which bounds what any of these patterns can cost.
"""

import re
import unicodedata
from fractions import Fraction

REACH = 200
FORMS = ("number", "choice")  # what an answer looks like

DIGITS = r"\d{1,3}(?:[,'’]\d{2,3})*[,'’]\d{3}(?!\d)|\d+"  # 1,200 and 1,00,000
NUMBER = re.compile(
    rf"(?<![\w.,])(?P<sign>-(?=[\d.$€£¥₹]))?(?:[$€£¥₹] ?(?P<after>-)?)?(?:(?P<whole>\d+) (?=\d+ ?/ ?\d))?"
    rf"(?P<value>(?:{DIGITS})(?:\.\d+)?|\.\d+)(?: ?/ ?(?P<below>\d+))?"
)
SUM = re.compile(r"[-\d\s.,+*/x×·÷()$€£¥₹%=]+")
CHOICE = re.compile(r"[^\w(]*(?:(?:the |an? )?(?:option|choice|letter) )?(?:\( ?([A-Ja-j]) ?\)|([A-HJ])(?!\w|['’]\w))")
BRACKETED = re.compile(r"\(([A-J])\)")
DENIED = re.compile(r"\b(?:not|neither|cannot|unknown)\b", re.I)

LATEX_FRACTION = re.compile(r"\\[dtc]?frac ?\{? ?(\d{1,50}) ?\}? ?\{? ?(\d{1,50}) ?\}?")
LATEX = re.compile(r"\\(?:boxed|text|textbf|mathbf|mathrm|left|right|[,;!: ()\[\]]|(?=[$%]))|[{}]")
MIXED = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞]|\\[dtc]?frac)")  # 1½ is 1 1/2, not 11/2
THIN = str.maketrans("", "", "\u066c\u2009\u202f")  # Arabic thousands separator, thin spaces
MARKS = str.maketrans("−–‐‑٫⁄", "----./", "*`~")  # minus signs, the Arabic decimal point, the fraction's bar; markdown


def read(form: str, text: str) -> str | None:
    """The value that `text` comes to first; None where it comes to none.

    form: "number" (-> sign, ASCII digits, and one point or fraction's bar) or "choice" (-> a capital letter).
    """
    plain = _plain(text[:REACH])
    return _choice(plain) if form == "choice" else _number(plain)


def alone(form: str, text: str) -> str | None:
    """The value that `text` is, and is nothing but."""
    plain = _plain(text.strip()) if len(text) < REACH else ""
    if form == "choice":
        return _choice(plain) if re.fullmatch(r"[^\w]*[A-J][^\w]*", plain) else None
    return _number(plain) if re.fullmatch(r"[^\w]*\d[\d.,/ ]*[^\w]*(?:[^\W\d]+[^\w]*)?", plain) else None


def equal(form: str, found: str | None, expected: str) -> bool:
    """Whether what `read` found is the right answer."""
    right = read(form, expected)
    if found is None or right is None:
        return False
    return found == right if form == "choice" else Fraction(found) == Fraction(right)


def _plain(text: str) -> str:
    """Without LaTeX, markdown and look-alikes; fractions with a bar."""
    text = unicodedata.normalize("NFKC", MIXED.sub(" ", text.translate(THIN)))
    return LATEX.sub("", LATEX_FRACTION.sub(r"\1/\2", text)).translate(MARKS).strip()


def _choice(text: str) -> str | None:
    if match := CHOICE.match(text):
        return (match[1] or match[2]).upper()
    line = text.split("\n", 1)[0]
    letters = set(BRACKETED.findall(line))  # The answer is "bank" (A)
    return letters.pop() if len(letters) == 1 and not DENIED.search(line) else None


def _number(text: str) -> str | None:
    line = text.lstrip(' \n\t:=[("').split("\n", 1)[0]
    found = NUMBER.search(line)
    if not found or DENIED.search(line[: found.start()]):
        return None
    run = SUM.match(line, found.start())
    if run and "=" in run[0]:  # the answer is 20 x 3 = 60
        found = NUMBER.search(run[0].rpartition("=")[2]) or found
    value = Fraction(0) if not found["whole"] else Fraction(found["whole"])
    digits = "".join(str(unicodedata.decimal(c, c)) for c in found["value"] if c not in ",'’")
    digits = f"0{digits}" if digits.startswith(".") else digits
    if found["below"]:
        if not int(found["below"]):
            return None
        digits = str(value + Fraction(digits) / int(found["below"]))
    return ("-" if found["sign"] or found["after"] else "") + digits
