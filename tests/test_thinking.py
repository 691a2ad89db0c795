"""What a reasoning model thinks aloud is not its answer: in a text, in records, and when they are scored again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.library import experiment
from hypothesis import given
from hypothesis import strategies as st
from made_up import answered_record

from scope.generation.models import ModelSource
from scope.generation.prompts import Encoded
from scope.generation.rows import Generated
from scope.records.lines import seal
from scope.runs.answers import record
from scope.scoring import Question, score
from scope.scoring.sources import read
from scope.scoring.thinking import THINK, without_thinking
from scope.tasks import Sample
from scope.util.errors import SettingError

ISSUE = "<think>... Answer_9: hm. The answer is 5.</think> Answer_9: The answer is 7."

TEXTS = {
    "one part": ("<think>a</think>b", "b"),
    "no part": ("b", "b"),
    "not closed": ("b<think>a", "b"),
    "not closed, all of it": ("<think>a", ""),
    "opened by the prompt": ("a</think>b", "b"),
    "several parts": ("<think>a</think>b<think>c</think>d", "b\nd"),
    "inside each other": ("<think>a<think>b</think>c</think>d", "d"),
    "inside each other, the outer one not closed": ("b<think>a<think>c</think>d", "b"),
    "opened by the prompt and again": ("a<think>b</think>c</think>d", "d"),
    "opened twice in a row": ("<think>\n<think>a</think>b", "b"),
    "empty": ("<think>\n\n</think>\n\nb", "\n\nb"),
    "numbers on both sides": ("1<think>a</think>2", "1\n2"),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_thinking_parts_are_left_out(kind: str) -> None:
    text, answer = TEXTS[kind]
    assert without_thinking(text, THINK) == answer
    other = text.replace("<think>", "[THINK]").replace("</think>", "[/THINK]")
    assert without_thinking(other, ("[THINK]", "[/THINK]")) == answer
    assert without_thinking(text, None) == text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a</think>b", "b"),
        ("a", ""),
        ("<think>a</think>b", "b"),
        ("\n<think>a</think>b", "b"),
        ("a<think>b</think>c", ""),
    ],
)
def test_a_text_that_begins_inside_of_a_part(text: str, answer: str) -> None:
    assert without_thinking(text, THINK, opened=True) == answer


@given(st.lists(st.sampled_from(["<think>", "</think>", "t", " "]), max_size=12).map("".join), st.booleans())
def test_no_marker_is_left(text: str, opened: bool) -> None:
    found = without_thinking(text, THINK, opened)
    assert "think>" not in found
    assert found.count("t") <= text.replace("think", "").count("t")


def test_an_answer_that_was_only_thought_of_does_not_count() -> None:
    asked = [Question(9, "7")]

    def scored(text: str, **given: Any) -> tuple[str | None, str | None]:
        (answer,) = score(asked, text, thinking=THINK, **given)
        assert answer.correct == (answer.found == "7")
        return answer.found, answer.scores["released"].found

    assert scored(ISSUE) == ("7", "5")  # the paper's scorer reads all there is
    assert scored(ISSUE.removeprefix("<think>")) == ("7", "5")
    assert scored("<think>Answer_9: The answer is 7.") == (None, "7")
    assert scored("Answer_9: The answer is 7.", opened=True) == (None, "7")
    assert scored("Answer_9: The answer is 7.") == ("7", "7")


class Summary:
    """A task whose measure is the share of a text that is no x."""

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        return {"without x": 1 - generation.count("x") / len(generation)}


def test_a_record_keeps_the_whole_text_and_the_scores_of_the_answer() -> None:
    text = ISSUE.replace("hm", "xx")
    held = {"prefill_kept": (3,), "slots_kept": (4,), "prefill_full": (3,), "slots_full": (4,)}
    made = Generated((1, 2), text, "eos", 0, 1, 1, **held, cache_bytes=5, full_cache_bytes=6, trace="")
    sample = Sample("a", "prompt", (Question(9, "7"),))
    line = record(Summary(), sample, 3, made, THINK)  # type: ignore[arg-type]
    assert line["generation"] == made.text
    assert line["measures"] == {"without x": 1}
    assert [question["scores"]["aligned"]["found"] for question in line["questions"]] == ["7"]
    assert line["starts_thinking"] is False
    raw = record(Summary(), sample, 3, made, None)  # type: ignore[arg-type]
    assert [question["scores"]["aligned"]["found"] for question in raw["questions"]] == ["5"]
    assert raw["measures"]["without x"] < 1


@pytest.mark.parametrize(
    ("settings", "opened", "found"),
    [
        ({}, False, "7"),  # a run of older code, which was told no markers
        ({"model": {"thinking": ["<think>", "</think>"]}}, False, "7"),
        ({"model": {"thinking": ["<think>", "</think>"]}}, True, "7"),
        ({"model": {"thinking": None}}, False, "5"),
        ({"model": {"thinking": ["[THINK]", "[/THINK]"]}}, False, "5"),
    ],
)
def test_records_are_scored_again_with_the_markers_of_their_run(
    tmp_path: Path, settings: dict[str, Any], opened: bool, found: str
) -> None:
    about = {"identity": "a", "samples": 1, "settings": settings}
    (tmp_path / "manifest.json").write_text(json.dumps(about))
    asked = {"number": 9, "expected": "7", "found": "7", "correct": True}
    text = ISSUE.removeprefix("<think>") if opened else ISSUE
    line = answered_record() | {"generation": text, "questions": [asked], "starts_thinking": opened}
    (tmp_path / "records.jsonl").write_bytes(seal(line, "a"))
    ((answer,),) = read(tmp_path)[0].answers.values()
    assert (answer.found, answer.scores["released"].found) == (found, "5")


@pytest.mark.parametrize(
    ("prompt", "markers", "opens"),
    [
        ("1 +", ("+", "-"), True),
        ("1 + 2", ("+", "-"), False),
        ("1 + 2 -", ("+", "-"), False),  # opened and closed: no thinking is asked for
        ("1 +", None, False),
        ("", ("+", "-"), False),
    ],
)
def test_a_prompt_that_opens_a_thinking_part_is_seen(prompt: str, markers: Any, opens: bool) -> None:
    assert Encoded((1,), text=prompt).starts_thinking(markers) is opens


@pytest.mark.parametrize("thinking", ["<think>", ["<think>"], ["a", "b", "c"], ["a", "a"], ["", "b"], [1, 2], 7, {}])
def test_markers_that_cannot_be(thinking: Any) -> None:
    with pytest.raises(
        SettingError,
        match=r"ModelSource\.thinking=.*: must be null or two texts, what a model writes before and after its thinking",
    ):
        ModelSource(thinking=thinking)


def test_markers_come_as_a_list_from_a_configuration() -> None:
    assert ModelSource(thinking=["[THINK]", "[/THINK]"]).thinking == ("[THINK]", "[/THINK]")  # type: ignore[arg-type]
    assert hash(ModelSource(thinking=["a", "b"])) == hash(ModelSource(thinking=("a", "b")))  # type: ignore[arg-type]


def test_another_marker_is_another_run() -> None:
    """The scores in its records are others."""
    one = experiment()
    other = replace(one, model=replace(one.model, thinking=None))
    assert one.identity() != other.identity()
