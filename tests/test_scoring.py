"""Both scorers on generations with every kind of slip, and on a published one; and that their cost is linear."""

import json
import re
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope.scoring import Answer, Question, Score, form_of, released, score
from scope.scoring.values import equal, read

ASKED = [Question(n, str(10 * n)) for n in (3, 4, 5)]
SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "longgenbench_sample" / "results"


def found(text: str, asked: list[Question] = ASKED, form: str = "number") -> list[str | None]:
    return [a.found for a in score(asked, text, form)]


def numbered(first: int, count: int) -> list[Question]:
    return [Question(n, str(10 * n)) for n in range(first, first + count)]


def counts(answers: list[Answer]) -> tuple[int, int, int, int]:
    """Right by the aligned scorer, missing, duplicates; right by the released one."""
    return (
        sum(a.correct for a in answers),
        sum(a.found is None for a in answers),
        sum(max(0, a.given - 1) for a in answers),
        sum(s.correct for s in by_position(answers)),
    )


def by_position(answers: list[Answer]) -> list[Score]:
    """What the paper's scorer says of them."""
    return [answer.scores["released"] for answer in answers]


# --- which question an answer belongs to -----------------------------------------------------------------------------


def test_answers_belong_to_the_number_printed_beside_them() -> None:
    text = "\nAnswer_3: so. The answer is 30.\nAnswer_5: hm. The answer is 50.\nAnswer_4: The answer is 41."
    answers = score(ASKED, text)
    assert [(a.found, a.correct) for a in answers] == [("30", True), ("41", False), ("50", True)]
    assert [(s.found, s.correct) for s in by_position(answers)] == [("30", True), ("50", False), ("41", False)]


def test_a_skipped_question_costs_one_answer_and_shifts_nothing() -> None:
    """The paper's scorer loses all answers after the skipped one, too."""
    assert counts(score(ASKED, "Answer_3: The answer is 30.\nAnswer_5: The answer is 50.")) == (2, 1, 0, 1)


def test_the_first_of_two_answers_counts() -> None:
    answers = score(ASKED, "Answer_3: The answer is 30.\nAnswer_3: The answer is 31.\nAnswer_4: The answer is 40.")
    assert [a.given for a in answers] == [2, 1, 0]
    assert counts(answers) == (2, 1, 1, 1)


@pytest.mark.parametrize(
    "header",
    [
        "Answer_4:",
        "Answer_4 (now wet):",
        "**Answer_4:**",
        "**Answer_4**:",
        "**Answer_4 (now wet):**",
        "### Answer 4:",
        "> Answer_4 :",
        "- **Answer\\_4**\n",
        "answer_٤:",
        "Answer_４：",
        "Answer_3: The answer is 30. Answer_4:",  # no new line
    ],
)
def test_headers_may_be_decorated(header: str) -> None:
    assert found(f"{header}\nSo 2 x 20 = 40. The answer is 40.")[1] == "40"


def test_a_reference_is_not_a_header() -> None:
    text = "Answer_4: as many as Answer_3: 12. So Answer_3 = 30 and Answer_4 = 40. The answer is 40."
    assert found(text) == [None, "40", None]


def test_a_conclusion_is_looked_for_under_its_own_header_only() -> None:
    """The paper's scorer gives question 3 the answer to question 4."""
    answers = score(ASKED, "Answer_3: and so on\nAnswer_4: The answer is 40.")
    assert [a.found for a in answers] == [None, "40", None]
    assert by_position(answers)[0].found == "40"


def test_numbering_that_restarts_at_1_is_moved_to_the_first_question() -> None:
    asked = numbered(9, 30)
    text = "\n\n".join(f"Answer_{n}: The answer is {10 * (n + 8)}." for n in range(1, 31))
    assert counts(score(asked, text)) == (30, 0, 0, 30)


def test_a_restart_that_goes_on_to_the_last_number_answered_the_examples_as_well() -> None:
    """The numbers are right as printed; the paper's scorer takes the examples' answers for the questions'."""
    asked = numbered(9, 30)
    text = "\n\n".join(f"Answer_{n}: The answer is {10 * n}." for n in range(1, 39))
    assert counts(score(asked, text)) == (30, 0, 0, 0)


@pytest.mark.parametrize(
    ("printed", "right"),
    [
        ((1, 2, 3), 3),  # up to the number of questions, itself included
        ((1, 2, 3, 4), 2),  # beyond it: 3 and 4 stand as printed
        ((1, 2, 2, 3, 4, 5), 3),  # what comes after the first number that does not rise is no part of the restart
        ((1, 1, 3, 4), 2),
    ],
)
def test_a_restart_rises_to_at_most_the_number_of_questions(printed: tuple[int, ...], right: int) -> None:
    """Questions 3 to 5; where the numbers are moved, an answer printed under n is question n + 2's."""
    moved = printed != (1, 2, 3, 4)
    text = "".join(f"Answer_{n}: The answer is {10 * (n + 2 if moved else n)}.\n" for n in printed)
    assert sum(a.correct for a in score(ASKED, text)) == right


def test_a_restart_after_the_answers_adds_duplicates_only_where_the_numbers_are_asked() -> None:
    text = "".join(f"Answer_{n}: The answer is {10 * n}.\n" for n in (3, 4, 5, 1, 2, 3))
    assert counts(score(ASKED, text)) == (3, 0, 1, 3)


def test_81_answers_to_40_questions() -> None:
    """Each twice and one more: the first count, 40 are duplicates, and question 46 was never asked."""
    asked = numbered(6, 40)
    numbers = [*range(6, 46), *range(6, 47)]
    assert counts(score(asked, "\n".join(f"Answer_{n}: The answer is {10 * n}." for n in numbers))) == (40, 0, 40, 40)
    on = "\n".join(f"Answer_{n}: The answer is {10 * n}." for n in range(6, 87))
    assert counts(score(asked, on)) == (40, 0, 0, 40)


def test_a_repeated_question_is_not_its_answer() -> None:
    """Its numbers, and even an "answer is" within it, are the question's."""
    text = "Answer_3:\nQuestion_3: Bob says that the answer is 7. Tom has 3 and buys 27. How many?\nThe answer is 30."
    assert found(text)[0] == "30"
    assert by_position(score(ASKED, text))[0].found == "7"


@pytest.mark.parametrize(
    ("end", "last"),
    [("", "50"), ("The answer", None), ("5 x 10 = 50. The answer is", None), ("The answer is 5", "5")],
)
def test_an_answer_cut_off_at_the_most_tokens(end: str, last: str | None) -> None:
    """Cut before its value it is missing; cut inside of it, what stands there is what was said."""
    whole = "Answer_3: The answer is 30.\nAnswer_4: The answer is 40.\nAnswer_5: "
    assert found(whole + (end or "The answer is 50.")) == ["30", "40", last]


def test_nothing_is_found_in_nothing() -> None:
    for text in ("", "Answer_", "Answer_3:", "The answer is 30.", "Answer_99999999999999999999: The answer is 30."):
        assert found(text) == [None, None, None]


def test_without_the_words_a_box_or_the_value_alone_is_the_answer() -> None:
    assert found("Answer_3: 30\nAnswer_4:\n\\[ 4 \\cdot 10 = \\boxed{40} \\]\nAnswer_5: it has 50 legs, I think") == [
        "30",
        "40",
        None,  # a number somewhere in a sentence is not an answer
    ]
    choices = [Question(6, "A"), Question(7, "B")]
    assert found("Answer_6: (A)\nAnswer_7: **B**", choices, "choice") == ["A", "B"]


# --- what a value looks like -----------------------------------------------------------------------------------------

NUMBERS = {
    "$1,200.50.": Fraction(2401, 2),
    "-3.": -3,
    "−3": -3,  # the minus sign proper
    "-$5": -5,
    "$-5": -5,
    "1/2": Fraction(1, 2),
    "1 1/2 cups": Fraction(3, 2),
    "1½": Fraction(3, 2),
    "26/3.": Fraction(26, 3),
    "\\boxed{7}": 7,
    "$\\boxed{\\frac{3}{4}}$": Fraction(3, 4),
    "-\\dfrac{3}{4}": Fraction(-3, 4),
    "1{,}200": 1200,
    "\\$18": 18,
    "2,125 dollars": 2125,
    "1'200": 1200,
    "16.00": 16,
    ".5": Fraction(1, 2),
    "17.": 17,
    "5km": 5,
    "20%": 20,
    "**18**": 18,
    ": 18": 18,
    "\n\n18": 18,
    "x = 18": 18,
    "20 x 3 = 60 apples": 60,
    "60 (60 minutes = 1 hour)": 60,
    "that she makes $18 a day": 18,
    "٤٢": 42,  # Arabic
    "४२": 42,  # Devanagari
    "４２": 42,  # full width
    "١٬٢٠٠٫٥": Fraction(2401, 2),
    "not provided for the last 5 questions": None,
    "unclear": None,
    "1/0": None,
    "": None,
}
CHOICES = {
    "(B).": "B",
    "B": "B",
    "(b)": "B",
    "**B**": "B",
    "[B]": "B",
    "'B'": "B",
    "B. a bank": "B",
    "(B) a bank": "B",
    "option B": "B",
    "$\\boxed{\\text{(B)}}$": "B",
    '"bank" (B)': "B",
    "（Ｂ）": "B",
    "a bank": None,  # an article
    "Bank": None,
    "neither (A) nor (B)": None,
    "not (B)": None,
    "": None,
}


@pytest.mark.parametrize(("text", "value"), NUMBERS.items())
def test_numbers_are_read_as_people_write_them(text: str, value: Fraction | int | None) -> None:
    got = read("number", f" {text}")
    assert (got if got is None else Fraction(got)) == value
    assert got is None or re.fullmatch(r"-?\d+(\.\d+|/\d+)?", got, re.ASCII)


@pytest.mark.parametrize(("text", "value"), CHOICES.items())
def test_choices_are_letters_with_or_without_brackets(text: str, value: str | None) -> None:
    assert read("choice", f" {text}") == value


@given(st.fractions(), st.sampled_from(["{}", "${}", "so {} km", "\\boxed{{{}}}", "**{}**", "{}."]))
def test_any_fraction_is_read_back(value: Fraction, form: str) -> None:
    if len(str(value)) < 60:
        got = read("number", form.format(value))
        assert got is not None
        assert Fraction(got) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2), st.booleans())
def test_any_decimal_is_read_back(value: object, grouped: bool) -> None:
    text = f"{value:,f}" if grouped else f"{value:f}"
    if len(text) < 60:
        assert Fraction(read("number", text) or "nan") == Fraction(str(value))


@pytest.mark.parametrize(
    ("said", "expected", "right"),
    [("16.00", "16", True), ("0.5", "1/2", True), ("1200", "1,200", True), ("-3", "-3", True), ("3", "-3", False)],
)
def test_numbers_are_compared_by_value(said: str, expected: str, right: bool) -> None:
    assert equal("number", read("number", said), expected) == right


def test_what_is_asked_tells_what_an_answer_looks_like() -> None:
    assert form_of([Question(6, "A"), Question(7, "E")]) == "choice"
    assert form_of(ASKED) == "number"


# --- the paper's scorer ----------------------------------------------------------------------------------------------


def test_the_papers_scorer_reads_bare_integers_and_passes_over_the_others() -> None:
    """One "$40" and all that follows is held against the wrong question; 50.9 is 50, and negatives are never right."""
    text = "Answer_3: The answer is 30.\nAnswer_4: The answer is $40.\nAnswer_5: The answer is 50.9."
    answers = score(ASKED, text)
    assert [s.found for s in by_position(answers)] == ["30", "50", None]
    assert counts(answers) == (2, 0, 0, 1)
    assert released.expected("number", "-3") is None
    assert released.expected("number", "1,200") == "1"


def test_the_papers_scorer_wants_choices_in_brackets_in_the_line_after_the_header() -> None:
    text = (
        "Answer_6:\nso. The answer is (A).\nAnswer_7:\nThe answer is B.\nAnswer_8:\nhm\nThe answer is (C).\n"
        "Answer_9: The answer is (D"
    )
    answers = score([Question(n, letter) for n, letter in zip(range(6, 10), "ABCD", strict=True)], text, "choice")
    assert [s.found for s in by_position(answers)] == ["A", None, None, None]
    assert [a.found for a in answers] == ["A", "B", "C", None]


def test_a_header_within_brackets_that_were_read_is_no_header() -> None:
    """The search goes on behind the closing bracket, as that of the released code's pattern does."""
    text = "Answer_6: The answer is (see Answer_7: answer is (A), so the answer is (B).\nAnswer_8: The answer is (C)."
    assert released.find("choice", text) == ["see Answer_7: answer is (A", "C"]
    assert released.find("choice", text) == re.findall(r"Answer_\d+:\s*(?:.*?)answer is \(([^)\n]*)\)", text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5 boxes = 60 eggs = 15 dollars", "15"),
        ("7 = x = 9", "9"),
        ("3 weeks = 21 days = 504 hours.", "504"),
        ("4 = 5 = 6 = 8, since 2 = 3", "8"),
    ],
)
def test_of_a_chain_of_equations_the_last_value_counts(text: str, value: str) -> None:
    assert read("number", text) == value


PIECES = [
    "Answer_3:",
    "Answer_44: ",
    "Answer_x:",
    "answer is 7",
    "The answer is (",
    "(A)",
    ")",
    "\n",
    "\n \n",
    " so ",
    "9",
]


@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_one_pass_finds_what_a_search_that_goes_back_finds(pieces: list[str]) -> None:
    """Oracle: what the module says, as the plainest patterns that go back over the text."""
    text = "".join(pieces)
    assert released.find("number", text) == re.findall(r"(?s)Answer_\d+:.*?answer is (\d+)", text)
    assert released.find("choice", text) == re.findall(r"Answer_\d+:\s*(?:.*?)answer is \(([^)\n]*)\)", text)


# --- cost ------------------------------------------------------------------------------------------------------------

LONG = {
    "headers without an answer": "Answer_3: ",
    "headers on lines": "Answer_3:\nso it goes\n",
    "answers without a header": "The answer is (",
    "answers that are none": "The answer is not given. ",
    "answers": "Answer_4: The answer is 40.\n",
    "decoration": "* ",
    "stops": ".",
    "spaces": " ",
    "lines": "\n",
    "digits": "7",
    "groups": "1,",
    "brackets": "(",
    "boxes": "\\boxed{",
    "words of a header": "Answer_",
    "questions": "Question_1 ",
}


@pytest.mark.parametrize("form", ["number", "choice"])
@pytest.mark.parametrize("piece", LONG.values(), ids=LONG)
def test_ten_times_the_text_takes_some_ten_times_as_long(piece: str, form: str) -> None:
    """A search that goes back over the text would take a hundred times as long, if it came back at all."""

    def seconds(size: int) -> float:
        text = f"Answer_3: {piece * (size // len(piece))}"
        began = time.process_time()
        score(ASKED, text, form)
        return time.process_time() - began

    short = min(seconds(10_000) for _ in range(3))
    assert seconds(100_000) < 40 * max(short, 0.001)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["answers", "headers without an answer", "spaces"])
def test_10_mb_are_scored(kind: str) -> None:
    piece = LONG[kind]
    answers = score(ASKED, f"Answer_3: {piece * (10_000_000 // len(piece))}Answer_5: The answer is 50.")
    assert answers[1].given == (10_000_000 // len(piece) - 1 if kind == "answers" else 0)


# --- the benchmark's own generations ---------------------------------------------------------------------------------


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of the benchmark's released files is not here")
def test_a_published_generation() -> None:
    """30 answers, each with its number; those with a $ are no bare integers, and shift the others."""
    (path,) = SAMPLE.glob("ALLKV*/*/gsm8k/*.json")
    line = json.loads(path.read_text().splitlines()[0])
    asked = [Question(n, answer.rpartition("####")[2].strip()) for n, answer in enumerate(line["answers"], start=9)]
    answers = score(asked, line["pred"])
    said = re.findall(r"Answer_(\d+):.*?The answer is ([^\n]*?)\.?\n", line["pred"] + "\n", re.DOTALL)
    assert [str(a.number) for a in answers] == [number for number, _ in said]
    assert [a.found for a in answers] == [text.strip("$%").replace(",", "").split()[0] for _, text in said]
    assert counts(answers)[3] < counts(answers)[0] / 2
