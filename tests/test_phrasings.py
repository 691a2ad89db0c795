"""How people and models write a number or a choice, phrase by phrase, with the right value beside it.

tests/data/numbers.csv and choices.csv are ours, but for phrases of GSM8K's solutions (openai/grade-school-math, MIT)
and of the benchmark's published generations. `math_verify`: what math-verify 0.9.0 comes to for the bare phrase, as a
fraction; empty where it finds nothing.
"""

import csv
import json
import re
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scope.scoring import Question, score
from scope.scoring.plain import REACH
from scope.scoring.values import FORMS, alone, equal, read

DATA = Path(__file__).parent / "data"
GSM8K = Path(__file__).resolve().parents[2] / "shared" / "data" / "gsm8k" / "test.jsonl"


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


NUMBERS, CHOICES = rows("numbers.csv"), rows("choices.csv")


def number(text: str) -> Fraction | None:
    found = read("number", text)
    return None if found is None else Fraction(found)


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row["phrase"])
def test_a_number_is_what_a_reader_takes_it_for(row: dict[str, str]) -> None:
    right = Fraction(row["value"]) if row["value"] else None
    assert number(f" {row['phrase']}") == right
    answer = score([Question(1, row["value"] or "7")], f"Answer_1: The answer is {row['phrase']}")[0]
    assert answer.correct == (right is not None)


@pytest.mark.parametrize("row", CHOICES, ids=lambda row: row["phrase"])
def test_a_choice_is_what_a_reader_takes_it_for(row: dict[str, str]) -> None:
    assert read("choice", f" {row['phrase']}") == (row["value"] or None)


def test_the_tables_are_as_large_as_they_say() -> None:
    for table, least in ((NUMBERS, 150), (CHOICES, 60)):
        assert len({row["phrase"] for row in table}) == len(table) >= least


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row["phrase"])
def test_math_verify_reads_what_the_table_says(row: dict[str, str]) -> None:
    math_verify = pytest.importorskip("math_verify")
    sympy = pytest.importorskip("sympy")
    if row["math_verify"].startswith("("):
        pytest.skip("math-verify does not come back from it")
    found = math_verify.parse(row["phrase"])
    value = "" if not found or isinstance(found[0], str) else found[0]
    value = value.rhs if isinstance(value, sympy.Equality) else value
    if value != "" and not value.free_symbols:
        value = sympy.nsimplify(value.doit(), rational=True)
    assert str(value) == row["math_verify"]


@pytest.mark.skipif(not GSM8K.exists(), reason="GSM8K's test set is not here")
def test_gsm8ks_own_arithmetic_comes_to_what_its_authors_noted() -> None:
    """Oracle: the value in each <<...=value>> of the solutions, which no reader of ours had a hand in."""
    steps, wrong = 0, []
    for line in GSM8K.read_text().splitlines():
        *solution, last = json.loads(line)["answer"].split("\n")
        right = last.removeprefix("#### ")
        assert equal("number", read("number", f" {right}."), right)
        assert number(f" {right}.") == Fraction(right.replace(",", ""))
        for step in solution:
            noted = re.findall(r"<<[^<>]*=(-?[\d.]+)>>", step)
            said = re.search(r"(?:^|(?<=[a-z:] ))(?=\$?\d)[-+*/x×÷().\d $%,]*=[^=]*$", re.sub("<<.*?>>", "", step))
            if len(noted) == 1 and said and not re.search(r"[.,] \$?\d|\d:\d", said[0]):  # prose before, a time
                steps += 1
                if number(f" {said[0]}") != Fraction(noted[0]):
                    wrong.append((said[0], noted[0]))
    assert steps > 3000
    assert wrong == []


# --- any text --------------------------------------------------------------------------------------------------------

PIECES = ["5", "18", " ", "-", "+", "*", "/", "x", "=", "(", ")", ".", ",", "$", "%", "^", "√", "½", "²", "e", "~", ":"]
PIECES += ["\\frac", "{", "}", "\\sqrt", "\\boxed", "or ", "and ", "is ", "not ", "but ", "of ", "to ", "million", "A"]
PIECES += ["B", "(C)", "option ", "\n", "\ud800", "\0", "٣", "①", "dollars", "cents", "k", "—", "_", "<b>", "1,200"]


@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=60).map("".join), st.sampled_from(FORMS))
@example("7" * 5000, "number")
@example("9^9^9^9", "number")
@example("1e999*" * 40, "number")
@example("2^4000*" * 30, "number")
@example("(" * 199 + "5", "number")
@example("√" * 199 + "4", "number")
@example("-" * 199 + "4", "number")
@example("1/" * 99 + "0", "number")
@example("\u0967" * 300, "number")
def test_any_text_has_a_value_or_none(text: str, form: str) -> None:
    for found in (read(form, text), alone(form, text)):
        pattern = r"-?\d+(\.\d+|/\d+)?" if form == "number" else "[A-J]"
        assert found is None or re.fullmatch(pattern, found, re.ASCII)
    assert equal(form, read(form, text), text) == (read(form, text) is not None)


@pytest.mark.parametrize("digits", [1, REACH - 30, REACH, 5000])
def test_a_number_is_read_whole_or_not_at_all(digits: int) -> None:
    whole = "7" * digits
    found = read("number", f" {whole}.")
    assert found in (whole, None)
    assert (found is None) == (digits >= REACH)
    assert not equal("number", "7" * 100, "7" * 5000)


@pytest.mark.parametrize("a", [0, 1, 7, 40])
@pytest.mark.parametrize("b", [1, 3, 50])
def test_arithmetic_is_python_s_own(a: int, b: int) -> None:
    """Oracle: Python's operators on fractions; a difference that rises is a range."""
    x, y = Fraction(a), Fraction(b)
    assert number(f" {a} + {b}") == number(f" {a}+{b}") == x + y
    assert number(f" {a} * {b}") == number(f" {a}×{b}") == number(f" {a} x {b}") == x * y
    assert number(f" {a} / {b}") == number(f" \\frac{{{a}}}{{{b}}}") == x / y
    assert number(f" {a} - {b}") == (None if a < b else x - y)
    assert number(f" {a} - {b} = {a - b}") == x - y
    assert number(f" ({a} + {b}) * {b} - 2 * {a}") == (x + y) * y - 2 * x


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text",
    ["5 " + "a" * 500, "5 a" * 200, "1+" * 200, "a/" * 200, "½" * 300, "1 200 " * 100, "(1)" * 100, "\\frac{" * 100],
)
def test_no_text_takes_long(text: str, form: str) -> None:
    """A pattern that tries all ways to part a long word took 0.7 s for the first of these."""
    began = time.process_time()
    read(form, text)
    assert time.process_time() - began < 0.2
