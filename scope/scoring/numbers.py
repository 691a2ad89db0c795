"""Reads the number that an answer states.

The rules:
- The first number of the line is read. Words before it, units after it, currencies and % are ignored: 50% is 50.
- In an equation the number after the last `=` of the clause is read: "5 apples + 3 apples = 8 apples" is 8.
  A clause ends at a full stop, a comma, a bracketed remark, "because" and similar words.
- Arithmetic without `=` is computed: "2*9" is 18, "20% of 50" is 10, "√16" is 4. "about" and ≈ are ignored.
- Several numbers are no answer: "5 or 6", "16 - 18", "1~2", "between 5 and 6", "5, 10 and 15", 3:30,
  "2 hours 30 minutes". Dollars with cents are one number: "18 dollars and 50 cents" is 18.50.
- A hyphen between two numbers is a range if the second is larger. Otherwise it is a minus.
- A point is the decimal point. A comma, an apostrophe, an underscore or a space separates groups of three digits:
  1,200 and 1 200 000. A comma before any other count of digits is a decimal comma: 1,5 is 1.5. Points separate groups
  if there are several of them, or if there is a decimal comma too: 1.200.000 and 1.200,50.
- 1e3, 1.2 × 10^3, "2 million" and 20k are read. Number words ("seven") and irrational values are not.
  A dozen is a unit like any other: "3 dozen" is 3.
- A denied number is not read: "not 5" has no number. "not 5 but 6" is 6.
"""

import re
from fractions import Fraction
from functools import lru_cache
from math import isqrt

MOST_BITS = 4096  # the longest computed value: Python refuses to print whole numbers that are much longer

MONEY = r"[$€£¥₹₩₽₺₴₦฿¢₫₱₪]"
GROUP_END = r"(?!\d)"
LITERAL = re.compile(
    rf"(?P<grouped>[1-9]\d{{0,2}}(?:(?:,\d{{2,3}})*,\d{{3}}|(?:'\d{{3}})+|(?: \d{{3}})+(?!-[a-z]| ?/ ?\d)){GROUP_END}"
    rf"(?:\.\d+)?(?!,\d))"
    rf"|(?P<european>[1-9]\d{{0,2}}(?:(?:[. ]\d{{3}})+,\d{{1,2}}|(?:\.\d{{3}}){{2,}}){GROUP_END})"
    rf"|(?P<comma>\d+,(?:\d{{1,2}}|\d{{4,}}){GROUP_END}|0,\d+)"
    r"|(?P<point>\d+(?:\.\d+)?|\.\d+)"
)
EXPONENT = re.compile(r"[eE]([+-]?\d{1,3})(?!\w)")
POWER = re.compile(r" ?\^ ?\(?([+-]?\d{1,4})\)?(?![\d.])")
MIXED = re.compile(r" (?:and )?(\d{1,9}) ?/ ?(\d{1,9})(?![\d.,/])")
PERCENT = re.compile(r" ?(?:%|percent\b|per cent\b)", re.IGNORECASE)
MAGNITUDE = re.compile(r" ?(hundred|thousand|million|billion|trillion)s?\b|(k)(?![\w'])", re.IGNORECASE)
MONEYS_MAGNITUDE = re.compile(r" ?([mb])n?(?![\w'])", re.IGNORECASE)
ZEROS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "k": 3, "m": 6, "b": 9}

UNIT = r"(?: ?-?[^\W\d]++(?:/[^\W\d]++)*+| ?/ ?[^\W\d]++){0,3}?"  # apples, red apples, stars/row, /hour
OPERATOR = re.compile(
    rf"(?P<unit>{UNIT})\s?(?P<sign>[-+×÷/]|x(?=[\s\d(.]|{MONEY})|(?:times|plus|minus|multiplied by|divided by)\b)\s?"
    rf"(?=[-+]?\s?(?:{MONEY}\s?)?-?(?:\(|√|\.?\d))",
    re.IGNORECASE,
)
SIGNS = {"x": "×", "times": "×", "multiplied by": "×", "plus": "+", "minus": "-", "÷": "/", "divided by": "/"}
OF = re.compile(rf" of (?=(?:{MONEY} ?)?\.?\d)", re.IGNORECASE)
WORD = re.compile(r" ?([^\W\d]+)")
CLOSE = re.compile(rf"{UNIT}\s?\)")

FIRST = re.compile(r"(?<!\w)(?<!\w[.,])(?:\d|√)|(?<![\w.])\.\d")
BEFORE = re.compile(rf"(?:\b(?:negative|minus)\b|(?<!\w)-|[+(]|{MONEY}|\s)*\Z", re.IGNORECASE)
DENIED = re.compile(r"\b(?:not|neither|cannot|unknown|never)\b|n't\b|[≠±]|!=", re.IGNORECASE)
PART = re.compile(r"\b(?:half|twice|double|triple|quarter)(?: of)?(?: the)?\s?\Z", re.IGNORECASE)
RATHER = re.compile(r"^.*?\bnot\b.{0,60}?\bbut\b", re.IGNORECASE)
REMARK = re.compile(r"(?<=[\w%])\s*\([^()]*\)(?!\s?[-=+×÷/^])|(?<=[\w%])\s\([^()]*\Z")
EQUALS = re.compile(rf"\b(?:is |are )?equal(?:s| to)\b|\bmakes (?=-?{MONEY}?\d)", re.IGNORECASE)
IS = re.compile(
    rf"((?:[+×÷/]|\b(?:times|plus|minus|of)\b) ?[^=]{{0,80}}?\d[^=.]{{0,40}}?) is (?=-?{MONEY}?\d)", re.IGNORECASE
)
CLAUSE = re.compile(
    r"[.!?](?=\s|\Z)|[;≈]|,(?=\s|\Z)"
    r"|\b(?:because|since|so|where|when|if|given|which|while|but|and|or|then|as|thus|hence|therefore)\b",
    re.IGNORECASE,
)

LED = rf"(?:(?:about|maybe|perhaps|possibly|even|[a-z] ?=) ?)?-?{MONEY}?\.?\d"
ANOTHER = re.compile(rf"{UNIT},? ?(?:\b(?:or|and|versus|vs\.?)|&) (?={LED})", re.IGNORECASE)
RANGE = re.compile(rf"%?(?: ?-?to-? ?| ?~ ?| ?\.\.\.? ?| (?:through|until) ){LED}", re.IGNORECASE)
LIST = re.compile(rf"(?:,? (?:and |or )?-?{MONEY}?\d+(?:\.\d+)?)+\W*\Z", re.IGNORECASE)
BROKEN = re.compile(r"[.,:'^]?\d|\^| ?[π±√]| ?:(?= ?\d)|!=| ?(?:is|was)(?:n't| not| wrong| incorrect)\b")
DATE = re.compile(r"\d{1,2}/\d{1,2}/(?:\d\d){1,2}(?!\d)(?! ?[-+×÷/=])|\d{4}-\d\d-\d\d(?!\d)")
CENTS = re.compile(r" ?dollars?,?(?: and)? (\d{1,2}) ?cents?\b", re.IGNORECASE)
SMALL = (
    r"(?:hours?|hrs?|h|minutes?|mins?|seconds?|secs?|days?|weeks?|months?|years?|feet|foot|ft|inch(?:es)?|pounds?"
    r"|lbs?|ounces?|oz|meters?|m|centimeters?|cm|kilograms?|kg|grams?|g|gallons?|quarts?|pints?|dollars?|cents?)"
)
COMPOUND = re.compile(rf" ?-?{SMALL}\.?,?(?: and)? \d+(?:\.\d+)? ?-?(?:{SMALL}|in)\b", re.IGNORECASE)


class _NoValueError(Exception):
    """The text does not state exactly one number."""


@lru_cache(maxsize=4096)  # every scorer reads the same answers
def number(text: str) -> str | None:
    """The number that an answer states; None if it states none, or more than one.

    text: the answer, as `scope.scoring.plain` returns it. Only its first line is read.
    Returns an optional minus sign and ASCII digits, with at most one decimal point or one fraction bar.
    """
    line = RATHER.sub("", text.lstrip(" \n\t:=[\"'").split("\n", 1)[0])
    line = IS.sub(r"\1 =", EQUALS.sub("=", REMARK.sub("", line)))
    start, digits = _first(line, 0)
    if digits < 0 or DENIED.search(line[:start]) or DATE.match(line, digits):
        return None
    ends = CLAUSE.search(line, digits)
    end = ends.start() if ends else len(line)
    for equals in range(end - 1, digits, -1):
        if line[equals] == "=" and digits < _first(line, equals + 1)[1] < end:
            start = _first(line, equals + 1)[0]
            break
    if PART.search(line[:start]):  # half of 10
        return None
    try:
        return _Reader(line, start).read()
    except (_NoValueError, ZeroDivisionError):
        return None


def _first(line: str, begin: int) -> tuple[int, int]:
    """(start, start of the digits) of the first number from `begin` on; (-1, -1) if there is none.

    The first index includes the number's sign and currency.
    """
    found = FIRST.search(line, begin)
    if not found:
        return -1, -1
    before = BEFORE.search(line[begin : found.start()])
    return (begin + before.start() if before else found.start()), found.start()


class _Reader:
    """A recursive descent parser of sums of products of powers of numbers. It begins at one place of a line."""

    def __init__(self, line: str, at: int) -> None:
        self.line, self.at = line, at
        self.printed = ""  # the digits of a number that was only read; empty once something was computed

    def read(self) -> str:
        if re.match(r"\s*-\s", self.line[self.at :]):  # the dash of a list, not a sign
            self.at += self.line[self.at :].index("-") + 1
        value = self._checked(self._sum(outermost=True))
        if cents := CENTS.match(self.line, self.at):
            value, self.printed, self.at = value + Fraction(int(cents[1]), 100), "", cents.end()
        self._require_one(value)
        return self.printed or str(value)

    def _require_one(self, value: Fraction) -> None:
        """Raises _NoValueError if the line states another value, or if the number that was read is only part of one."""
        if any(pattern.match(self.line, self.at) for pattern in (BROKEN, RANGE, LIST, COMPOUND)):
            raise _NoValueError
        if another := ANOTHER.match(self.line, self.at):
            rest = _Reader(self.line, _first(self.line, another.end())[0])
            if rest._sum() != value:  # the same value may be written twice: 0.5 or 1/2
                raise _NoValueError

    def _sum(self, outermost: bool = False) -> Fraction:
        first, _ = total, _ = self._product()
        range_only, second = bool(self.printed), None
        while found := self._operator("+-"):
            right, _ = self._product()
            range_only &= found == "-" and bool(self.printed)
            second = right if second is None else second
            total = self._checked(total + right if found == "+" else total - right)
            self.printed = ""
        if outermost and range_only and second is not None and 0 <= first < second:  # 16 - 18: a range
            raise _NoValueError
        return total

    def _product(self) -> tuple[Fraction, bool]:
        """-> the value, and whether it is in percent."""
        value, percent = self._power()
        divided = False
        while True:
            of = OF.match(self.line, self.at) if percent or divided else None
            sign = "×" if of else self._operator("×/")
            if not sign:
                return value, percent
            self.at = of.end() if of else self.at
            right, right_percent = self._power()
            value, right = (v / 100 if p else v for v, p in ((value, percent), (right, right_percent)))
            value = self._checked(value * right if sign == "×" else value / right)
            percent, divided, self.printed = False, sign == "/", ""

    def _operator(self, signs: str) -> str:
        """The next operator if it is one of `signs`, else "". It and the unit before it are then read."""
        found = OPERATOR.match(self.line, self.at)
        if not found:
            return ""
        sign = SIGNS.get(found["sign"].lower(), found["sign"])
        if sign not in signs or (sign == "-" and found["unit"].strip() and not self._same_unit(found)):
            return ""
        self.at, self.printed = found.end(), ""
        return sign

    def _same_unit(self, operator: "re.Match[str]") -> bool:
        """Whether the numbers around an operator have one unit: "9 cups - 2 cups", not "9 cups - 2 more than I"."""
        behind = LITERAL.match(self.line, FIRST.search(self.line, operator.end()).start())  # type: ignore[union-attr]
        unit, other = WORD.match(operator["unit"]), behind and WORD.match(self.line, behind.end())
        return bool(unit and other and unit[1].rstrip("s") == other[1].rstrip("s"))

    def _power(self) -> tuple[Fraction, bool]:
        value, percent = self._atom()
        if found := POWER.match(self.line, self.at):
            exponent = int(found[1])
            size = max(value.numerator.bit_length(), value.denominator.bit_length())
            if size * abs(exponent) > MOST_BITS:
                raise _NoValueError
            value, self.at, self.printed = value**exponent, found.end(), ""
        return value, percent

    def _atom(self) -> tuple[Fraction, bool]:
        lead = re.compile(rf"(?:\s|{MONEY}|\+)*").match(self.line, self.at)
        money = bool(lead and re.search(MONEY, lead[0]))
        self.at = lead.end() if lead else self.at
        if minus := re.compile(r"-|(?:negative|minus)\b", re.IGNORECASE).match(self.line, self.at):
            self.at = minus.end()
            value, percent = self._power()
            self.printed = f"-{self.printed}" if self.printed and not self.printed.startswith("-") else ""
            return -value, percent
        if self.line.startswith("(", self.at):
            self.at += 1
            value = self._sum()
            if close := CLOSE.match(self.line, self.at):
                self.at = close.end()
            return value, self._percent()
        if self.line.startswith("√", self.at):
            self.at += 1
            return self._root(self._atom()[0]), False
        return self._literal(money)

    def _literal(self, money: bool) -> tuple[Fraction, bool]:
        found = LITERAL.match(self.line, self.at)
        if not found:
            raise _NoValueError
        digits = re.sub(r"[ ',]", "", found[0]) if found["grouped"] else found[0]
        if found["european"] or found["comma"]:
            digits = re.sub(r"[ .]", "", digits).replace(",", ".")
        self.printed = f"0{digits}" if digits.startswith(".") else digits
        value, self.at = Fraction(self.printed), found.end()
        if found["point"] and digits.isdigit() and (part := MIXED.match(self.line, self.at)):
            value, self.printed, self.at = value + Fraction(int(part[1]), int(part[2])), "", part.end()
        if exponent := EXPONENT.match(self.line, self.at):
            value, self.printed, self.at = value * Fraction(10) ** int(exponent[1]), "", exponent.end()
        magnitude = MAGNITUDE.match(self.line, self.at)
        if magnitude or (money and (magnitude := MONEYS_MAGNITUDE.match(self.line, self.at))):
            zeros = ZEROS[magnitude[magnitude.lastindex or 0].lower()]
            value, self.printed, self.at = value * 10**zeros, "", magnitude.end()
        return self._checked(value), self._percent()

    def _percent(self) -> bool:
        found = PERCENT.match(self.line, self.at)
        self.at = found.end() if found else self.at
        return bool(found)

    def _root(self, value: Fraction) -> Fraction:
        above, below = isqrt(max(0, value.numerator)), isqrt(value.denominator)
        if Fraction(above**2, below**2) != value:  # irrational, or of a negative number
            raise _NoValueError
        self.printed = ""
        return Fraction(above, below)

    def _checked(self, value: Fraction) -> Fraction:
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
            raise _NoValueError
        return value
