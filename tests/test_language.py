"""The embedded task's language: documents that are solvable, readable, and what they say they are."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scope.tasks import Arithmetic, language
from scope.util.errors import SettingError

QUESTION = re.compile(
    r"Question_(\d+)(?:: now (dry|wet))?: \w+ has (?:(\d+)|as many as Answer_(\d+))((?: and \w+ \d)+)\."
)
STEP = re.compile(r" and (\w+) (\d)")
WORKED = re.compile(r"Answer_(\d+):.*The answer is (\d+)\.")
GAINS = {word.split()[-1] for word in language.GAINS}


def solve(prompt: str) -> dict[int, int]:
    """Read the prompt as a person would and work every question out."""
    asked = {int(n): facts for n, *facts in QUESTION.findall(prompt)}
    answers: dict[int, int] = {}
    wet = False
    for number in sorted(asked):
        weather, start, reference, steps = asked[number]
        wet = weather == "wet" if weather else wet
        answers[number] = answers[int(reference)] if reference else int(start)
        for verb, amount in STEP.findall(steps):
            answers[number] += int(amount) * (1 if (verb in GAINS) != wet else -1)
            assert 1 <= answers[number] <= language.MAX_VALUE
    return answers


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    questions=st.integers(1, 40),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_every_answer_follows_from_the_prompt(seed: int, questions: int, shares: tuple[float, float, float]) -> None:
    made = language.make_document(random.Random(seed), questions, language.Mix(*shares))
    prompt, generation = language.text(made.prompt), language.text(made.generation)
    solved = solve(prompt)
    assert {int(n): int(v) for n, v in WORKED.findall(prompt + generation)} == solved
    assert {q.number: q.answer for q in made.questions} == {q.number: solved[q.number] for q in made.questions}
    assert [int(n) for n in re.findall(r"^Answer_(\d+)", generation, re.M)] == [q.number for q in made.questions]


def test_every_token_is_in_the_vocabulary_once() -> None:
    assert max(Counter(language.VOCABULARY).values()) == 1
    made = language.make_document(random.Random(0), 30)
    assert {token for token, _ in (*made.prompt, *made.generation)} <= set(language.VOCABULARY)


def test_the_listing_is_shuffled_and_the_numbering_starts_anywhere() -> None:
    starts, in_order = set(), 0
    for seed in range(50):
        made = language.make_document(random.Random(seed), 8)
        listed = [int(n) for n in re.findall(r"Question_(\d+)", language.text(made.prompt))][2:]
        starts.add(min(listed))
        in_order += listed == sorted(listed)
    assert len(starts) > 20
    assert in_order < 3


def test_another_start_or_listing_asks_the_same_questions() -> None:
    def bare(task: Arithmetic) -> list[tuple[object, ...]]:
        questions = task.document(0).questions
        first = questions[0].number
        return [(q.number - first, q.refers_to and q.refers_to - first, q.steps, q.answer, q.filler) for q in questions]

    usual = Arithmetic(questions=10)
    assert bare(Arithmetic(questions=10, start=1)) == bare(Arithmetic(questions=10, listing=1)) == bare(usual)
    assert Arithmetic(questions=10, start=1).document(0).questions[0].number == 3
    listings = [Arithmetic(questions=10, listing=i).samples()[0].prompt for i in range(2)]
    assert listings[0] != listings[1]
    assert sorted(listings[0].split("\n")) == sorted(listings[1].split("\n"))


def test_the_weather_comes_and_goes() -> None:
    documents = [language.make_document(random.Random(seed), 24) for seed in range(40)]
    assert all(document.questions[0].change for document in documents)
    changes = [q.change for document in documents for q in document.questions[1:]]
    assert 0.08 < sum(change is not None for change in changes) / len(changes) < 0.16
    assert {q.steps[0].verb == q.steps[0].meant for document in documents for q in document.questions} == {True, False}


def test_numbers_that_would_run_out_are_refused() -> None:
    with pytest.raises(ValueError, match="run past 60"):
        language.make_document(random.Random(0), 59)


def test_samples_do_not_depend_on_how_many_are_taken() -> None:
    assert Arithmetic(questions=5, prompts=2).samples() == Arithmetic(questions=5, prompts=6).samples()[:2]
    assert Arithmetic(questions=5, prompts=2, seed=1).samples() != Arithmetic(questions=5, prompts=2).samples()


@pytest.mark.parametrize("field", ["questions", "prompts", "max_new_tokens"])
def test_values_that_cannot_be_are_refused(field: str) -> None:
    with pytest.raises(SettingError, match=f"Arithmetic.{field}=0"):
        Arithmetic(**{field: 0})
