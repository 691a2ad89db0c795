"""The aligned scorer, on generations with every kind of slip."""

from scope.scoring import aligned
from scope.scoring.answer import Question

ASKED = [Question(n, str(10 * n)) for n in (3, 4, 5)]


def found(text: str) -> list[tuple[int, str | None, bool]]:
    return [(a.number, a.found, a.correct) for a in aligned.score(ASKED, text)]


def test_answers_belong_to_the_number_printed_beside_them() -> None:
    text = "\nAnswer_3: so. The answer is 30.\nAnswer_5: hm. The answer is 50.\nAnswer_4: The answer is 41."
    assert found(text) == [(3, "30", True), (4, "41", False), (5, "50", True)]


def test_a_skipped_question_costs_one_answer_and_shifts_nothing() -> None:
    text = "Answer_3: The answer is 30.\nAnswer_5: The answer is 50."
    assert found(text) == [(3, "30", True), (4, None, False), (5, "50", True)]


def test_the_first_of_two_answers_counts() -> None:
    text = "Answer_3: The answer is 30.\nAnswer_3: The answer is 31."
    assert found(text)[0] == (3, "30", True)


def test_a_conclusion_is_looked_for_under_its_own_header_only() -> None:
    text = "Answer_3: and so on\nAnswer_4: The answer is 40."
    assert found(text)[:2] == [(3, None, False), (4, "40", True)]


def test_a_reference_is_not_a_header() -> None:
    text = "Answer_4: as many as Answer_3: 12. The answer is 40."
    assert found(text)[:2] == [(3, None, False), (4, "40", True)]


def test_negative_numbers_and_empty_generations() -> None:
    assert aligned.find("Answer_9: The answer is -7.") == {9: "-7"}
    assert found("") == [(3, None, False), (4, None, False), (5, None, False)]
