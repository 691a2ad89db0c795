"""What `python -m scope.tasks build`, a plan and a run's start say of a task of rows before anything is answered."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from golden import composed
from helpers.command import Scope
from made_up import Row, write

from scope.cli.build_set import main as command
from scope.generation import models
from scope.generation.prompts import Encoded, unknown_share
from scope.scoring import Question
from scope.scoring.released import misread
from scope.tasks import Arithmetic
from scope.util.errors import ConfigError

ANSWERS = ["1,250", "-6", "3.5", *map(str, range(17))]  # the released scorer reads 1, nothing and 3
SMALL = ("task.max_new_tokens=4", "budget.prefill=60", "budget.window=8", "budget.decode=12", "budget.recent=8")
MISREAD = "3 of 20 expected answers (1,250, -6, 3.5) cannot be read as the released scorer reads them"
UNKNOWN = r"the tokenizer does not know \d\d% of this text: the embedded model's words are those of arithmetic"


def rows(answers: list[str]) -> list[Row]:
    return [{"question": f"How many lamps are on shelf {n}?", "answer": text} for n, text in enumerate(answers)]


@pytest.fixture
def scope(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Scope:
    return Scope(tmp_path, capfd, monkeypatch)


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [("7", False), ("1250", False), ("16.00", False), ("007", False)]
    + [(text, True) for text in ("1,250", "-6", "3.5", "0.5", "$18", "12,000", "-0.1")],
)
def test_which_answers_the_released_scorer_cannot_read(answer: str, wrong: bool) -> None:
    assert misread([Question(1, answer)], "number") == [answer] * wrong


def test_a_letter_is_always_read() -> None:
    assert misread([Question(1, "A"), Question(2, "J")], "choice") == []


@pytest.mark.slow
def test_build_plan_and_run_name_the_answers_that_released_misreads(tmp_path: Path, scope: Scope) -> None:
    words = ("task=questions", f"task.source={write(tmp_path / 'mine.csv', rows(ANSWERS))}", "task.questions=4", *SMALL)
    assert command(["build", *words, f"output={tmp_path}"]) == 0
    for said in (scope.capfd.readouterr().out, scope(*words, "plan=true").out, scope(*words).out):
        assert said.count(MISREAD) == 1
        assert len(re.findall(UNKNOWN, said)) == 1
    assert MISREAD not in scope(*words, "plan=true", "scoring=[aligned]").out
    assert "1 of 4 expected answers (1,250)" not in scope(*words, "plan=true", "limit=2").out
    assert "3 of 8 expected answers (1,250, -6, 3.5)" in scope(*words, "plan=true", "limit=2").out


def test_the_task_of_the_embedded_model_has_no_such_note(scope: Scope) -> None:
    said = scope("task=arithmetic_tiny", "plan=true").out
    assert "note:" not in said
    assert re.search(r"^1 run, 8 samples, ", said, re.M)


def test_the_share_is_of_characters() -> None:
    """Known: " 12", " 34" and the stop, 7 of 13 characters. `zzzzzz` is one token."""
    tokenizer = models.load_shape(composed("task=arithmetic_tiny").model)[1]

    def prompt(text: str) -> Encoded:
        return Encoded(tuple(tokenizer(text).input_ids), text=text)

    assert unknown_share(tokenizer, [prompt("zzzzzz 12 34.")]) == pytest.approx(6 / 13)
    assert unknown_share(tokenizer, [prompt("zzzzzz 12 34."), prompt(" 12 34.")]) == pytest.approx(6 / 20)
    assert unknown_share(tokenizer, [prompt(sample.prompt) for sample in Arithmetic(prompts=3).samples()]) == 0
    assert unknown_share(tokenizer, []) == 0


def test_build_counts_in_words_and_says_nothing_of_a_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["build", "task=questions", f"output={tmp_path}", f"task.source={write(tmp_path / 'a.csv', rows(['7']))}"]
    assert command([*words, "budget.prefill=0.75"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 prompt, 1 question\n")
    assert "prefill budget" not in said
    assert command([*words, "budget.prefill=60", "budget.window=8"]) == 0
    assert "longer than the prefill budget of snapkv (60): 0%" in capsys.readouterr().out


def test_build_keeps_a_set_of_another_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def build(name: str, answers: list[str]) -> str:
        source = write(tmp_path / name, rows(answers))
        assert command(["build", "task=questions", f"output={tmp_path}", f"task.source={source}"]) == 0
        return capsys.readouterr().out

    file, aside = tmp_path / "sets" / "questions.jsonl", tmp_path / "sets" / "questions.1.jsonl"
    assert f"written: {file}\n" in build("a.csv", ["7"])
    first = file.read_bytes()
    assert f"written: {file}\n" in build("a.csv", ["7"])  # the same set again
    assert not aside.exists()
    assert f"written: {file}; the other set that was there is now {aside}\n" in build("b.csv", ["8", "9"])
    assert aside.read_bytes() == first
    assert [json.loads(line)["answers"] for line in file.open()] == [["8"], ["9"]]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"q": 1, "answer": 2}, "no column question; it has answer, q; did you mean task.columns.question=q?"),
        ({"questions": 1, "answer": 2}, "it has answer, questions; did you mean task.columns.question=questions?"),
        ({"question": 1, "a": 2}, "no column answer; it has a, question; did you mean task.columns.answer=a?"),
        ({"text": 1, "answer": 2}, "it has answer, text; task.columns.question=... names another"),
        ({"q": 1, "qu": 1, "answer": 2}, "it has answer, q, qu; task.columns.question=... names another"),
    ],
)
def test_a_column_of_another_name_is_named_by_its_setting(tmp_path: Path, columns: dict[str, int], told: str) -> None:
    row: dict[str, Any] = {name: ["", "Which lamp?", "7"][kind] for name, kind in columns.items()}
    made = composed("task=questions", f"task.source={write(tmp_path / 'a.jsonl', [row])}")
    with pytest.raises(ConfigError) as refused:
        made.task.samples()
    assert str(refused.value).endswith(told)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (
            "+task.instrution=x",
            "task.instrution: no such setting of scope.tasks.Questions; did you mean task.instruction?",
        ),
        ("+method.windw=1", "method.windw: no such setting of scope.prefill.SnapKV; did you mean method.window?"),
        ("+task.zzz=1", "task.zzz: no such setting of scope.tasks.Questions; it has name, columns, .*"),
    ],
)
def test_a_setting_that_was_added_names_the_nearest(word: str, told: str, scope: Scope) -> None:
    said = scope("task=questions", "task.source=x.jsonl", word, code=2)
    assert re.fullmatch(f"error: {told.replace('?', '[?]')}\n", said.err)
