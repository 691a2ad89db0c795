"""Sums of reasoning-gym in LongGenBench's shape. Oracles: the package itself, and the solutions' own sums."""

import re
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
from golden import composed

from scope.scoring import score
from scope.tasks import GSMSymbolic, Sample
from scope.util.errors import ScopeError, SettingError

SMALL = GSMSymbolic(4, 400, prompts=3)
ASKED = re.compile(r"^Question_(\d+):\n(.+?)\n$", re.MULTILINE | re.DOTALL)

needs_package = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed")


def asked(sample: Sample) -> list[str]:
    return [text.strip() for _, text in ASKED.findall(sample.prompt.partition("Following Question:")[2] + "\n")]


@needs_package
def test_every_question_is_asked_and_answered_with_its_steps() -> None:
    worked = 0
    for sample in replace(SMALL, prompts=12).samples():
        assert sample.gold
        assert [question.number for question in sample.questions] == [9, 10, 11, 12]
        assert list(sample.asked) == asked(sample)
        assert not any("final answer" in text for text in sample.asked)  # the package's own order, to another reader
        assert all(answer.correct for answer in score(sample.questions, sample.gold.text))
        values = [sample.gold.text[begin:end] for begin, end in sample.gold.spans]
        assert values == [question.expected for question in sample.questions]
        for left, right in re.findall(r"(?<![\d*/+-] )(\d+ [-+*] \d+) = (\d+)\b(?![.\d])", sample.gold.text):
            assert eval(left) == int(right)
            worked += 1
    assert worked > 8


@needs_package
def test_questions_are_the_packages_own() -> None:
    """Each sum of a prompt is one that the package makes from some template, with the answer that it says."""
    from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import GSMSymbolicDataset, GSMSymbolicDatasetConfig

    generators = GSMSymbolicDataset(GSMSymbolicDatasetConfig(seed=0, size=1)).generators

    def shape(text: str) -> str:
        return " ".join(re.sub(r"[^a-z ]", "", text).split()[:6])

    from random import Random

    shapes = {shape(make(Random(n), 1.0)["question"]) for make in generators.values() for n in range(40)}
    found = [shape(text) in shapes for sample in SMALL.samples() for text in sample.asked]
    assert sum(found) >= 0.7 * len(found)  # names and things of a template vary


@needs_package
def test_splits_and_seeds_share_no_question_and_samples_are_those_of_their_seed() -> None:
    tasks = [SMALL, replace(SMALL, split="search"), replace(SMALL, split="choice"), replace(SMALL, seed=1)]
    texts = [text for task in tasks for sample in task.samples() for text in sample.asked]
    assert len(set(texts)) == len(texts) == 4 * 12
    assert replace(SMALL, prompts=6).samples()[:3] == SMALL.samples() == replace(SMALL).samples()


@needs_package
def test_a_configuration_makes_it_and_its_prompts_are_a_limit() -> None:
    one = composed("task=gsm_symbolic", "task.prompts=2")
    assert [len(sample.questions) for sample in one.task.samples()] == [8, 8]
    assert composed("task=gsm_symbolic", "task.prompts=3").identity() == one.identity()
    assert composed("task=gsm_symbolic", "task.prompts=2", "task.split=search").identity() != one.identity()
    assert composed("task=gsm_symbolic", "task.prompts=2", "task.examples=mmlu").identity() != one.identity()


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "reasoning_gym"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ScopeError, match=r"^task=gsm_symbolic needs: pip install -e '\.\[gsm\]'$"):
        replace(SMALL, seed=7).samples()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SettingError, match=r"GSMSymbolic.split=serch: must be one of search, choice, report"):
        replace(SMALL, split="serch")
    with pytest.raises(SettingError, match=r"GSMSymbolic.questions=0"):
        replace(SMALL, questions=0)
