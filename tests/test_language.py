"""The embedded task's language: documents that are solvable, readable, and what they say they are."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scope.errors import SettingError
from scope.tasks import Arithmetic, language

QUESTION = re.compile(r"Question_(\d+): (\w+) has (?:(\d+)|as many as Answer_(\d+)) and (\w+) (\d)\.")
WORKED = re.compile(r"Answer_(\d+): .*The answer is (\d+)\.")
GAINS = {word.split()[-1] for word in language.GAINS}


def solve(prompt: str) -> dict[int, int]:
    """Read the prompt as a person would and work every question out."""
    asked = {
        int(n): (start, reference, verb, int(step)) for n, _, start, reference, verb, step in QUESTION.findall(prompt)
    }
    answers: dict[int, int] = {}
    for number in sorted(asked):
        start, reference, verb, step = asked[number]
        begin = int(start) if start else answers[int(reference)]
        answers[number] = begin + step if verb in GAINS else begin - step
    return answers


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), questions=st.integers(1, 40), share=st.floats(0, 1))
def test_every_answer_follows_from_the_prompt(seed: int, questions: int, share: float) -> None:
    made = language.make_document(random.Random(seed), questions, reference_share=share)
    prompt, generation = language.text(made.prompt), language.text(made.generation)
    solved = solve(prompt)
    assert {int(n): int(v) for n, v in WORKED.findall(prompt + generation)} == solved
    assert {q.number: q.answer for q in made.questions} == {q.number: solved[q.number] for q in made.questions}
    assert [int(n) for n in re.findall(r"^Answer_(\d+):", generation, re.M)] == [q.number for q in made.questions]


def test_every_token_is_in_the_vocabulary_once() -> None:
    assert max(Counter(language.VOCABULARY).values()) == 1
    made = language.make_document(random.Random(0), 30)
    assert {token for token, _ in (*made.prompt, *made.generation)} <= set(language.VOCABULARY)


def test_the_listing_is_shuffled_and_the_numbering_starts_anywhere() -> None:
    starts, in_order = set(), 0
    for seed in range(50):
        made = language.make_document(random.Random(seed), 8)
        listed = [int(n) for n in re.findall(r"Question_(\d+):", language.text(made.prompt))][2:]
        starts.add(min(listed))
        in_order += listed == sorted(listed)
    assert len(starts) > 20
    assert in_order < 3


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
