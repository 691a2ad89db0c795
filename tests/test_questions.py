"""A task from rows of questions and answers: a YAML and a data file of one's own, and no code.

Oracles: prompts are read back with patterns of the test's own, and answers are held against the rows.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from golden import composed
from helpers.quick import every
from made_up import Row, write

from scope.cli.build_set import main as command
from scope.cli.rescore import main as rescore
from scope.cli.run import cli
from scope.scoring import score
from scope.tasks import Hub, Questions, Sample
from scope.tasks.questions import filled
from scope.util.errors import ConfigError, SettingError

ROOT = Path(__file__).parents[1]
EXAMPLE = {"question": "A raft has 2 rows of 3 logs. How many logs?", "steps": "2 * 3 = 6.", "answer": 6}
MINE = {  # what a user writes: a file of one's own, beside the one that it begins from
    "defaults": ["questions"],
    "name": "rivers",
    "questions": 4,
    "max_new_tokens": 24,
    "examples": [EXAMPLE],
}
SMALL = ("limit=2", "budget.prefill=60", "budget.window=8", "budget.decode=12", "budget.recent=8")


def rivers(count: int) -> list[Row]:
    return [
        {"question": f"A river has {n} bends and {n + 2} bridges. How many of both?", "answer": 2 * n + 2, "note": "x"}
        for n in range(1, count + 1)
    ]


def letters(count: int) -> list[Row]:
    return [
        {"question": f"Which is {n}?", "choices": [f"{n - 1}", f"{n}", f"{n + 1}"], "answer": "B"} for n in range(count)
    ]


def task(source: Path | None, **settings: Any) -> Questions:
    """Built without a configuration, as a library's user would."""
    columns = {"question": "question", "answer": "answer"} | settings.pop("columns", {})
    given = {"name": "rivers", "form": "number", "max_new_tokens": 24, "questions": 4} | settings
    return Questions(columns=columns, source=None if source is None else str(source), **given)


def asked(sample: Sample) -> list[tuple[int, str]]:
    """Number and text of each question that the prompt asks."""
    following = sample.prompt.partition("Following Question:")[2]
    found = re.findall(r"^Question_(\d+):\n(.*?)\n(?=\n|\Z)", following, re.M | re.S)
    return [(int(number), text) for number, text in found]


@pytest.fixture
def scope(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """main.py in this process, with a folder of configurations of one's own; -> exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(settings: Mapping[str, Any], *words: str) -> tuple[int, str, str]:
        place = tmp_path / "myconf" / "task"
        place.mkdir(parents=True, exist_ok=True)
        (place / "rivers.yaml").write_text(yaml.safe_dump(dict(settings)))
        search = f"hydra.searchpath=[file://{tmp_path / 'myconf'}]"
        monkeypatch.setattr(sys, "argv", [str(ROOT / "main.py"), search, "task=rivers", "compare=false", *words])
        capfd.readouterr()
        try:
            code = cli()
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


# from a file to a table


def test_a_file_and_a_yaml_of_ones_own_run_into_records_and_a_table(scope: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "rivers.jsonl", rivers(20))
    mine = MINE | {"source": "rivers.jsonl"}  # as seen from where the command is typed
    code, out, err = scope(mine, *SMALL)
    assert code == 0, err
    assert "rivers" in out
    (records,) = tmp_path.glob("outputs/default/*/records.jsonl")
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert [line["sample"] for line in lines] == ["rivers-0", "rivers-1"]
    for line, rows in zip(lines, (rivers(20)[:4], rivers(20)[4:8]), strict=True):
        # number 1 is the worked example's
        assert [(q["number"], q["expected"]) for q in line["questions"]] == [
            (number, str(row["answer"])) for number, row in enumerate(rows, start=2)
        ]
        assert line["generated_tokens"] <= 24
    assert (tmp_path / "outputs" / "default" / "table.csv").exists() or "rivers" in out
    assert rescore([str(tmp_path / "outputs")]) == 0

    code, out, _ = scope(mine, *SMALL)
    assert code == 0
    assert "finished already" in out
    write(file, [*rivers(19), {"question": "Another one?", "answer": 3}])  # a row that neither prompt asks
    assert scope(mine, *SMALL)[0] == 0
    assert len(list(tmp_path.glob("outputs/default/*/records.jsonl"))) == 2


def test_a_sweep_over_it_ends_in_one_table(scope: Any, tmp_path: Path) -> None:
    write(tmp_path / "quiz.json", letters(3))
    (tmp_path / "quiz.json").write_text(json.dumps(letters(3)))
    mine = {
        "defaults": ["questions"],
        "name": "quiz",
        "source": str(tmp_path / "quiz.json"),
        "columns": {"choices": "choices"},
        "form": "choice",
        "max_new_tokens": 8,
        "instruction": "Pick one.",
    }
    code, out, err = scope(mine, "-m", "method=snapkv,streamingllm", *SMALL)
    assert code == 0, err
    for file in ("table.csv", "table.md", "table.tex"):
        assert (tmp_path / "outputs" / "default" / file).stat().st_size > 100
    assert "streamingllm" in out


def test_a_file_alone_will_do() -> None:
    """`task=questions task.source=...`, where the columns are named question and answer."""
    folder = ROOT / "tests"
    with pytest.raises(ConfigError, match=r"task\.source=null: must be a file or folder of questions, unless"):
        composed("task=questions")
    assert composed("task=questions", f"task.source={folder}").task.max_new_tokens == 256


def test_build_writes_it_and_what_was_written_is_the_same_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "rivers.csv", rivers(10))
    words = ["task=questions", "task.questions=4", "task.name=rivers", "budget.prefill=60", "budget.window=8"]
    words.append(f"output={tmp_path}")
    assert command(["build", *words, f"task.source={file}"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("3 prompts, 10 questions\n")
    built = tmp_path / "sets" / "questions.jsonl"
    raw, again = (composed(*words, f"task.source={place}") for place in (file, built))
    assert raw.task.samples() == again.task.samples()
    assert raw.identity() == again.identity()
    assert raw.task.samples()[0].prompt in said
    with pytest.raises(ConfigError, match=r"its prompts ask up to 4 questions, and task\.questions=5"):
        task(built, questions=5).samples()


# what a prompt asks


def test_every_row_is_asked_once_in_order_and_the_last_prompt_asks_the_rest(tmp_path: Path) -> None:
    rows = rivers(10)
    made = task(write(tmp_path / "raw.jsonl", rows), examples=[EXAMPLE, EXAMPLE | {"question": "Twice?"}]).samples()
    assert [len(sample.questions) for sample in made] == [4, 4, 2]
    texts = [text for sample in made for _, text in asked(sample)]
    assert texts == [row["question"] for row in rows]
    for sample in made:
        assert [number for number, _ in asked(sample)] == [3, 4, 5, 6][: len(sample.questions)]
        assert [question.number for question in sample.questions] == [number for number, _ in asked(sample)]
        assert sample.prompt.startswith(
            "Examples: \nQuestion_1:\nA raft has 2 rows of 3 logs. How many logs?\n\nQuestion_2:\nTwice?\n\n"
            "Answer_1:\n2 * 3 = 6.\nThe answer is 6.\n"
        )
    assert [q.expected for sample in made for q in sample.questions] == [str(row["answer"]) for row in rows]


def test_one_question_a_prompt_and_no_examples(tmp_path: Path) -> None:
    made = task(write(tmp_path / "raw.jsonl", rivers(3)), questions=1, instruction=" Be brief.\n").samples()
    assert [asked(sample) for sample in made] == [[(1, row["question"])] for row in rivers(3)]
    assert all("Examples" not in sample.prompt for sample in made)
    assert {sample.instruction for sample in made} == {"Be brief."}


@pytest.mark.parametrize("form", ["number", "choice"])
def test_what_follows_the_worked_example_is_right_by_the_scorers(form: str, tmp_path: Path) -> None:
    rows = rivers(4) if form == "number" else letters(4)
    example = EXAMPLE if form == "number" else {"question": "Odd?", "choices": ["4", "5"], "steps": "5.", "answer": 1}
    columns = {} if form == "number" else {"choices": "choices"}
    made = task(write(tmp_path / "raw.jsonl", rows), form=form, columns=columns, examples=[example])
    (sample,) = made.samples()
    pattern = re.search(r"Answer_1:\n(.*?)\n\n", sample.prompt, re.S)
    assert pattern
    right = example["answer"] if form == "number" else "B"
    answers = [re.sub(rf"\b{right}\b(?=\)?\.$)", str(q.expected), pattern[1]) for q in sample.questions]
    said = "\n".join(f"Answer_{q.number}:\n{text}" for q, text in zip(sample.questions, answers, strict=True))
    assert [answer.correct for answer in score(sample.questions, said, made.form)] == [True] * 4
    wrong = re.sub(r"is \(?\w+\)?\.", "is (A)." if form == "choice" else "is 1.", said)
    assert [answer.correct for answer in score(sample.questions, wrong, made.form)] == [False] * 4
    assert made.measures(sample, said) == {}


def test_templates_print_any_columns_of_the_row(tmp_path: Path) -> None:
    rows = [{"q": f"How long is it, {n}?", "where": f"Loire {{n}} {n}", "a": f"It is so.\n#### {n}"} for n in range(3)]
    example = {"q": "How wide?", "where": "Po", "a": "5", "why": "One sees it."}
    made = task(
        write(tmp_path / "raw.jsonl", rows),
        columns={"question": "q", "answer": "a"},
        questions=3,
        examples=[example],
        question_format="River: {where} {{of Europe}}\n{q}",
        answer_format="{why} So the answer is {answer}.",
    )
    (sample,) = made.samples()
    texts = [f"River: Loire {{n}} {n} {{of Europe}}\nHow long is it, {n}?" for n in range(3)]
    assert [text for _, text in asked(sample)] == texts  # braces in a row are no template
    assert "Question_1:\nRiver: Po {of Europe}\nHow wide?\n" in sample.prompt
    assert "Answer_1:\nOne sees it. So the answer is 5.\n" in sample.prompt
    assert [q.expected for q in sample.questions] == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["answer.__class__", "answer[0]", "0"])
def test_a_template_reaches_nothing_but_columns(name: str) -> None:
    row = {"answer": "7", "answer.__class__": "a column", "answer[0]": "another", "0": "a third"}
    assert filled(f"{{{name}}}", row, "here") == row[name]
    with pytest.raises(ConfigError, match=f"here has no column {re.escape(name)}"):
        filled(f"{{{name}}}", {"answer": "7"}, "here")


def test_a_prompt_asks_about_one_subject(tmp_path: Path) -> None:
    rows = [row | {"topic": ("lakes", "big_seas")[n % 2]} for n, row in enumerate(rivers(7))]
    file = write(tmp_path / "raw.jsonl", rows)
    made = task(file, columns={"subject": "topic"}, questions=3, examples=[EXAMPLE]).samples()
    assert [(sample.subject, len(sample.questions)) for sample in made] == [("lakes", 3), ("lakes", 1), ("big_seas", 3)]
    assert "\nSubject: big seas\n" in made[2].prompt
    assert [text for sample in made[:2] for _, text in asked(sample)] == [row["question"] for row in rows[::2]]
    assert len({sample.name for sample in made}) == 3


def test_letters_without_a_column_of_choices(tmp_path: Path) -> None:
    """Where the question prints them itself."""
    rows = [{"question": "Which?\n(A) this (B) that", "answer": "B"}]
    (sample,) = task(write(tmp_path / "raw.jsonl", rows), form="choice", questions=1).samples()
    assert sample.questions[0].expected == "B"


def test_another_order_is_the_seeds_and_asks_the_same(tmp_path: Path) -> None:
    file = write(tmp_path / "raw.jsonl", rivers(12))
    orders = [[t for s in task(file, shuffle=seed).samples() for _, t in asked(s)] for seed in (None, 0, 0, 1)]
    assert orders[1] == orders[2]
    assert orders[0] != orders[1] != orders[3]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[3])
    for sample in task(file, shuffle=1).samples():
        for (_, text), question in zip(asked(sample), sample.questions, strict=True):
            bends = re.search(r"\d+", text)
            assert bends
            assert int(question.expected) == 2 * int(bends[0]) + 2  # an answer goes with its question


CHOICES: dict[str, tuple[Row, dict[str, Any]]] = {
    "a list and a letter": ({"choices": ["ash", "oak"], "answer": "B"}, {}),
    "a list and an index": ({"choices": ["ash", "oak"], "answer": 1}, {}),
    "letters": ({"choices": {"label": ["A", "B"], "text": ["ash", "oak"]}, "answer": "B"}, {}),
    "numbers": ({"choices": {"label": ["1", "2"], "text": ["ash", "oak"]}, "answer": "2"}, {}),
    "small letters": ({"choices": {"label": ["a", "b"], "text": ["ash", "oak"]}, "answer": "b"}, {}),
    "columns": ({"first": "ash", "second": "oak", "answer": "B"}, {"choices": ["first", "second"]}),
}


@pytest.mark.parametrize("case", CHOICES)
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_choices_in_any_of_their_forms_are_printed_alike(suffix: str, case: str, tmp_path: Path) -> None:
    row, columns = CHOICES[case]
    file = write(tmp_path / f"raw.{suffix}", [{"question": "Which is harder?"} | row])
    (sample,) = task(file, form="choice", questions=1, columns={"choices": "choices"} | columns).samples()
    assert asked(sample) == [(1, "Which is harder?\n(A) ash (B) oak")]
    assert [q.expected for q in sample.questions] == ["B"]


def test_rows_of_the_hub_are_built_once_and_are_the_run_that_a_file_of_them_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(Hub, "rows", lambda hub, advice: calls.append(hub.dataset) or rivers(9))
    place = Hub("rivers/of-europe", None, "test")
    cached = [task(None, hub=place, cache=str(tmp_path / "sets")).samples() for _ in range(2)]
    assert calls == ["rivers/of-europe"]
    assert cached[0] == cached[1] == task(write(tmp_path / "raw.jsonl", rivers(9))).samples()
    for other in ({"questions": 3}, {"shuffle": 1}, {"examples": [EXAMPLE]}, {"question_format": "So: {question}"}):
        assert task(None, hub=place, cache=str(tmp_path / "sets"), **other).samples() != cached[0]
    assert len(calls) == 5
    assert task(None, hub=place).samples() == cached[0]  # kept nowhere


def test_the_samples_are_byte_for_byte_those_of_recorded_runs(tmp_path: Path) -> None:
    """A hash that was written down when it was first recorded: where this fails, recorded runs become others."""
    made = task(write(tmp_path / "raw.jsonl", rivers(6)), examples=[EXAMPLE], stop=["\n\n"], instruction="Answer.")
    assert {sample.origin for sample in made.samples()} == {
        "08ff3ed3c959c5f4b2fa01d56779dfe9821be5db25327366fc7a4d1a794ea58b"
    }


# what makes it another run


def identity(source: Path, *words: str) -> str:
    composed.cache_clear()
    return composed("task=questions", f"task.source={source}", "task.questions=2", *words).identity()


def test_the_rows_tell_a_run_and_their_place_and_kind_of_file_do_not(tmp_path: Path) -> None:
    rows = rivers(4)
    one = identity(write(tmp_path / "one.jsonl", rows))
    for name in ("two.csv", "three.parquet", "deeper/four.jsonl"):
        assert identity(write(tmp_path / name, rows)) == one
    (tmp_path / "five.json").write_text(json.dumps(rows))
    assert identity(tmp_path / "five.json") == one
    changed = [
        identity(write(tmp_path / "six.jsonl", [*rows[:3], rows[3] | {"answer": 11}])),
        identity(write(tmp_path / "seven.jsonl", [*rows[:3], rows[3] | {"question": "Else?"}])),
        identity(write(tmp_path / "eight.jsonl", rows[::-1])),
        identity(tmp_path / "one.jsonl", "task.stop=[Question_]"),
        identity(tmp_path / "one.jsonl", "task.instruction=Now."),
        identity(tmp_path / "one.jsonl", "task.examples=[{question: q, answer: 1}]"),
        identity(tmp_path / "one.jsonl", "task.shuffle=0"),
        identity(tmp_path / "one.jsonl", "task.max_new_tokens=9"),
    ]
    assert len({one, *changed}) == 9
    renamed = [{"q": row["question"], "answer": row["answer"]} for row in rows]
    assert identity(write(tmp_path / "ten.jsonl", renamed), "task.columns.question=q") == one
    assert identity(write(tmp_path / "nine.jsonl", [row | {"note": "y"} for row in rows])) == one  # printed nowhere


def test_stop_strings_are_the_samples(tmp_path: Path) -> None:
    made = task(write(tmp_path / "raw.jsonl", rivers(4)), stop=["\n\n", "Question_"]).samples()
    assert {sample.stop for sample in made} == {("\n\n", "Question_")}


# what is refused

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no such column": (
        {"columns": {"answer": "anser"}},
        "task.source={file}: row 1 has no column anser; it has answer, note, question; did you mean "
        "task.columns.answer=answer?",
    ),
    "no file": ({"source": "nowhere.jsonl"}, "task.source=nowhere.jsonl: there is no such file or folder"),
    "unknown form": ({"form": "prose"}, "task.form=prose: must be one of number, choice"),
    "unknown part": (
        {"columns": {"qustion": "question"}},
        "task.columns={'question': 'question', 'answer': 'answer', 'qustion': 'question'}: must be names for question, "
        "answer, and maybe choices, subject",
    ),
    "unknown key": ({"instructions": "x"}, "task.instructions: no such "),
    "two columns for a question": (
        {"columns": {"question": ["question", "note"]}},
        "task.columns.question=['question', 'note']: must be the name of one column",
    ),
    "numbers from choices": (
        {"columns": {"choices": "note"}},
        "task.form=number: must be choice where columns.choices is given",
    ),
    "a question format that names no column": (
        {"question_format": "{topic}: {question}"},
        "task.question_format: task.source={file}: row 1 has no column topic; it has answer, note, question",
    ),
    "an answer format that names no column": (
        {"answer_format": "{step} The answer is {answer}."},
        "task.answer_format: task.examples: example 1 has no column step; it has answer, question, steps; did you mean "
        "steps?",
    ),
    "code in a template": (
        {"question_format": "{question!r:>1000000000}"},
        "task.question_format={question!r:>1000000000}: must be a text with {column} in it; {{ and }} print a brace",
    ),
    "an open brace": (
        {"question_format": "{question"},
        "task.question_format={question: must be a text with {column} in it; {{ and }} print a brace",
    ),
    "no name in braces": (
        {"answer_format": "The answer is {}."},
        "task.answer_format=The answer is {}.: must be a text with {column} in it; {{ and }} print a brace",
    ),
    "an answer that no scorer reads": (
        {"answer_format": "{steps} = {answer}, I think."},
        "task.answer_format: task.examples: example 1: the scorers do not read 6 in this answer; end it with "
        "'The answer is {answer}.'",
    ),
    "an example without an answer": (
        {"examples": [{"question": "q"}]},
        "task.examples: example 1 has no column answer; it has question",
    ),
    "examples that are no rows": ({"examples": ["q"]}, "task.examples=['q']: must be a list, each a mapping or a text"),
    "examples from nowhere": (
        {"examples": "mine.txt"},
        "task.examples=mine.txt: must be a list of rows, or a .yaml or",
    ),
    "an example that is asked": (
        {"examples": [rivers(3)[2]]},
        "task.source={file}: row 3 asks the same as worked example 1: leave one of them out",
    ),
    "an empty stop string": ({"stop": ["x", ""]}, "task.stop=['x', '']: must be a list of texts, none of them empty"),
    "too few": ({"questions": 21}, "task.source={file}: has 20 questions, fewer than task.questions=21"),
    "no question": ({"questions": 0}, "task.questions=0: must be a whole number of at least 1"),
    "a seed that is none": ({"shuffle": "yes"}, "task.shuffle=yes: must be a whole number of at least 0"),
    "no source": (
        {"source": None},
        "task.source=null: must be a file or folder of questions, unless there is a task.hub",
    ),
}


@pytest.mark.parametrize("case", every(6, REFUSED))
def test_settings_that_cannot_be_are_one_line_and_nothing_is_written(case: str, scope: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "rivers.jsonl", rivers(20))
    settings, line = REFUSED[case]
    code, out, err = scope(MINE | {"source": str(file)} | settings, *SMALL)
    assert (code, out) == (2, "")
    assert err.startswith("error: " + line.replace("{file}", str(file)))
    assert err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


ROWS: dict[str, tuple[list[Row], dict[str, Any], str]] = {
    "empty": ([], {}, "holds no rows"),
    "the same twice": ([*rivers(4), rivers(2)[1]], {}, "row 5 asks the same as row 2: leave one of them out"),
    "two answers": (
        [*rivers(4), rivers(1)[0] | {"answer": 5}],
        {},
        "row 5 asks the same as row 1: leave one of them out",
    ),
    "an empty cell": ([*rivers(4), {"question": "q", "answer": ""}], {}, "row 5 has nothing in column answer"),
    "null": ([*rivers(4), {"question": None, "answer": 1}], {}, "row 5 has nothing in column question"),
    "blanks": ([*rivers(4), {"question": " \n", "answer": 1}], {}, "row 5: question must be a text"),
    "a list": ([*rivers(4), {"question": ["q"], "answer": 1}], {}, "row 5: question must be a text"),
    "words": (
        [*rivers(4), {"question": "q", "answer": "six"}],
        {},
        "row 5: answer=six: must be a number, or end in '#### ' and a number",
    ),
    "true": (
        [*rivers(4), {"question": "q", "answer": True}],
        {},
        "row 5: answer=True: must be a number, or end in '#### ' and a number",
    ),
    "a letter beyond": (
        letters(4),
        {"form": "choice", "columns": {"choices": "choices"}, "change": {"answer": "D"}},
        "row 4: answer=D: must be one of A, B, C",
    ),
    "a letter that no scorer reads": (
        letters(4),
        {"form": "choice", "change": {"answer": "K"}},
        "row 4: answer=K: the scorers do not read such a choice",
    ),
    "no choices": (
        letters(4),
        {"form": "choice", "columns": {"choices": "choices"}, "change": {"choices": "a, b"}},
        "row 4: choices=a, b: must be a list of two or more",
    ),
    "an empty choice": (
        letters(4),
        {"form": "choice", "columns": {"choices": "choices"}, "change": {"choices": ["a", None, "c"]}},
        "row 4: choices=['a', None, 'c']: must have no empty one",
    ),
    "a label that is none": (
        letters(4),
        {
            "form": "choice",
            "columns": {"choices": "choices"},
            "change": {"choices": {"label": ["1", "2"], "text": ["a", "b"]}, "answer": "0"},
        },
        "row 4: answer=0: must be one of 1, 2",
    ),
    "the same but for blanks": (
        [*rivers(4), rivers(1)[0] | {"question": f" {rivers(1)[0]['question']}\n"}],
        {},
        "row 5 asks the same as row 1: leave one of them out",
    ),
    "half a character": ([*rivers(4), {"question": "q \ud800", "answer": 1}], {}, "row 5: question must be a text"),
    "a number that no scorer reads": (
        [*rivers(4), {"question": "q", "answer": "9" * 300}],
        {},
        f"row 5: answer={'9' * 80}...(300 characters): the scorers do not read such a number",
    ),
    "a list as a subject": (
        [row | {"topic": ["a"]} for row in rivers(4)],
        {"columns": {"subject": "topic"}},
        "row 1: topic must be a text",
    ),
    "a header in a question": (
        [*rivers(3), {"question": "Look:\nQuestion_9: what?", "answer": 1}],
        {},
        "prompt 1 asks 5 questions after 'Following Question:', and has 4",
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_cannot_be_are_one_line(case: str, tmp_path: Path) -> None:
    rows, settings, line = ROWS[case]
    change = settings.get("change", {})
    rows = [*rows[:-1], rows[-1] | change] if change else rows
    file = write(tmp_path / "raw.jsonl", rows)
    given = {key: value for key, value in settings.items() if key != "change"}
    with pytest.raises(ConfigError) as refused:
        task(file, **given).samples()
    assert str(refused.value) == f"task.source={file}: {line}"


@pytest.mark.parametrize("answer", ["1,200", "$5", "-3", ".5", "7.", 0, 3.5, "so\n#### 1,200", 1e-7, 1e22])
def test_a_number_in_any_of_its_forms_can_be_answered(answer: Any, tmp_path: Path) -> None:
    made = task(write(tmp_path / "raw.jsonl", [{"question": "q", "answer": answer}]), questions=1)
    (sample,) = made.samples()
    plain = {1e-7: "0.0000001", 1e22: "1" + "0" * 22}.get(
        answer, str(answer).partition("####")[2].strip() or str(answer)
    )
    said = f"Answer_1: The answer is {plain.replace(',', '').strip('$').rstrip('.')}."
    assert score(sample.questions, said, made.form)[0].correct
    assert not score(sample.questions, "Answer_1: The answer is 77.", made.form)[0].correct


def test_a_file_that_a_spreadsheet_saved_has_its_first_column(tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_bytes(b"\xef\xbb\xbfquestion,answer\r\n[Easy] One and one?,2\r\n")
    (tmp_path / "raw.jsonl").write_bytes(b'\xef\xbb\xbf{"question": "[Easy] One and one?", "answer": 2}\r\n')
    for name in ("raw.csv", "raw.jsonl"):
        (sample,) = task(tmp_path / name, questions=1).samples()
        assert asked(sample) == [(1, "[Easy] One and one?")]


def test_a_comma_without_quotes_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "raw.csv"
    file.write_text("question,answer\nOne and one?,2\nHow much is it,,1,000 or 2?\n")
    with pytest.raises(ConfigError) as refused:
        task(file, questions=1).samples()
    assert str(refused.value) == f"task.source={file}: row 2 has more cells than there are columns"


def test_examples_from_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "raw.jsonl", rivers(4))
    inline = task(file, examples=[EXAMPLE]).samples()
    for name, text in (("mine.yaml", yaml.safe_dump([EXAMPLE])), ("mine.json", json.dumps([EXAMPLE]))):
        (tmp_path / name).write_text(text)
        assert task(file, examples=str(tmp_path / name)).samples() == inline
    with pytest.raises(SettingError, match=r"examples=mine: must be a list of rows, or a \.yaml or \.json file"):
        task(file, examples="mine")


def test_the_example_of_the_readme_runs(scope: Any, tmp_path: Path) -> None:
    text = (ROOT / "scope" / "tasks" / "README.md").read_text()
    found = re.search(r"```yaml\n# (myconf/task/rivers\.yaml)\n(.*?)```", text, re.S)
    assert found
    assert len(found[0].splitlines()) <= 21  # two worked examples
    write(tmp_path / "rivers.jsonl", rivers(20))
    code, _, err = scope(yaml.safe_load(found[2]), "limit=1", "task.max_new_tokens=8", "budget.prefill=60")
    assert code == 0, err
    shutil.rmtree(tmp_path / "outputs")
