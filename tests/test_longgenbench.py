"""LongGenBench and En.Sum from raw rows: the benchmark's structure, read back from the prompt text as a reader would,
and one line for every source that is malformed. All data are made up; released files are used where they are there."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import made_up
import pytest
import yaml
from golden import composed
from made_up import Row, write

from scope.cli.build_set import main as command
from scope.runs.experiment import Experiment
from scope.tasks import InfiniteBench, LongGenBench, Sample
from scope.util.errors import ConfigError, ScopeError

RELEASED = Path(__file__).resolve().parents[2] / "shared" / "longgenbench_sample"
ROWS: dict[str, Callable[[int], list[Row]]] = {"gsm8k": made_up.gsm8k, "mmlu": made_up.mmlu, "csqa": made_up.csqa}
WORKED = {"gsm8k": 8, "mmlu": 5, "csqa": 5}
BLOCK = re.compile(
    r"^(Question|Answer)_(\d+):[ ]?\n(.*?)(?=\n*^(?:Question|Answer)_\d+:|\n*^Following Question:|\n*\Z)", re.M | re.S
)


def experiment(task: str, source: Path | str | None = None, **settings: Any) -> Experiment:
    given = settings | ({"source": source} if source else {})
    return composed(f"task={task}", *(f"task.{key}={value}" for key, value in given.items()))


def samples(task: str, source: Path | str | None = None, **settings: Any) -> list[Sample]:
    return experiment(task, source, **settings).task.samples()


def refusal(task: str, source: Path | str | None = None, **settings: Any) -> str:
    with pytest.raises(ScopeError) as refused:
        samples(task, source, **settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def blocks(prompt: str) -> tuple[list[tuple[str, int, str]], list[tuple[str, int, str]]]:
    """What a prompt shows and what it asks: (Question or Answer, number, text)."""
    shown, following, asked = prompt.partition("Following Question:")
    assert following
    return [[(kind, int(n), text.strip()) for kind, n, text in BLOCK.findall(part)] for part in (shown, asked)]  # type: ignore[return-value]


# the benchmark's structure


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("name", ROWS)
def test_the_same_questions_numbers_and_order_as_the_benchmark(name: str, suffix: str, tmp_path: Path) -> None:
    rows = ROWS[name](13)
    made = samples(f"{name}_4k", write(tmp_path / f"raw.{suffix}", rows), questions=5)
    if name == "mmlu":  # the first K of each subject
        groups = [[r for r in rows if r["subject"] == subject][:5] for subject in made_up.SUBJECTS]
    else:  # K after K, and what is left over fills no prompt
        groups = [rows[0:5], rows[5:10]]
    assert len(made) == len(groups)
    first = WORKED[name] + 1
    for sample, group in zip(made, groups, strict=True):
        shown, asked = blocks(sample.prompt)
        assert sample.prompt.startswith("Examples: \nQuestion_1:")
        examples = range(1, first)
        assert [block[:2] for block in shown] == [(kind, n) for kind in ("Question", "Answer") for n in examples]
        assert [block[:2] for block in asked] == [("Question", n) for n in range(first, first + 5)]
        assert [text.split("\n")[0] for _, _, text in asked] == [row["question"] for row in group]
        assert [question.number for question in sample.questions] == list(range(first, first + 5))
        assert [question.expected for question in sample.questions] == [expected(name, row) for row in group]


def expected(name: str, row: Row) -> str:
    if name == "gsm8k":
        return row["answer"].split("####")[1].strip()
    return "ABCD"[row["answer"]] if name == "mmlu" else row["answerKey"]


def test_choices_stand_under_their_question_with_their_labels(tmp_path: Path) -> None:
    (five,) = samples("csqa_4k", write(tmp_path / "raw.jsonl", made_up.csqa(3)), questions=3)
    assert "kept?\n(A) shelf 1 (B) hall (C) cellar (D) boat (E) loft\n" in five.prompt
    four = samples("mmlu_4k", write(tmp_path / "four.jsonl", made_up.mmlu(2)), questions=2)
    assert "after 1?\n(A) botany 1 (B) botany 2 (C) botany 3 (D) botany 4\n" in four[0].prompt


def test_a_subjects_prompt_names_it_and_no_other(tmp_path: Path) -> None:
    made = samples("mmlu_4k", write(tmp_path / "raw.jsonl", made_up.mmlu(4)), questions=2)
    assert [sample.name for sample in made] == ["mmlu_4k-botany", "mmlu_4k-road_law", "mmlu_4k-old_maps"]
    assert "\nSubject: road law\n" in made[1].prompt
    assert "botany" not in made[1].prompt
    chosen = samples("mmlu_4k", tmp_path / "raw.jsonl", questions=2, subjects="[old_maps,botany]")
    assert [sample.subject for sample in chosen] == ["old_maps", "botany"]


def test_questions_ascend_by_length_within_their_prompt(tmp_path: Path) -> None:
    file = write(tmp_path / "raw.jsonl", made_up.gsm8k(10))
    given, ascending = samples("gsm8k_4k", file, questions=5), samples("gsm8k_4k", file, questions=5, order="length")
    for before, after in zip(given, ascending, strict=True):
        assert list(after.asked) == sorted(before.asked, key=len) != list(before.asked)
        assert dict(zip(after.asked, (q.expected for q in after.questions), strict=True)) == dict(
            zip(before.asked, (q.expected for q in before.questions), strict=True)
        )
        assert [q.number for q in after.questions] == [q.number for q in before.questions]


def test_the_papers_sizes(tmp_path: Path) -> None:
    file = write(tmp_path / "raw.jsonl", made_up.gsm8k(1319))  # as many as GSM8K's test set has
    csqa = write(tmp_path / "csqa.jsonl", made_up.csqa(1221))  # and CommonsenseQA's validation set
    sizes = {
        "gsm8k_4k": (43, 30, 4096),
        "gsm8k_8k": (21, 60, 7950),
        "csqa_4k": (30, 40, 4096),
        "csqa_8k": (15, 80, 7950),
    }
    for name, (prompts, questions, tokens) in sizes.items():
        task = experiment(name, csqa if name.startswith("csqa") else file).task
        made = task.samples()
        assert (len(made), len(made[0].questions), task.max_new_tokens) == (prompts, questions, tokens)
    for name, questions in (("mmlu_4k", 30), ("mmlu_8k", 60)):
        assert experiment(name).task.questions == questions  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", WORKED)
def test_the_worked_examples_are_right_in_their_own_sums(name: str, tmp_path: Path) -> None:
    sums = 0
    (sample, *_) = samples(f"{name}_4k", write(tmp_path / "raw.jsonl", ROWS[name](2)), questions=2)
    shown, _ = blocks(sample.prompt)
    asked, answers = ([text for kind, _, text in shown if kind == part] for part in ("Question", "Answer"))
    for question, answer in zip(asked, answers, strict=True):
        for left, right in re.findall(r"((?:[\d.]+ [-+*/] )+[\d.]+) = ([\d.]*\d)", answer):
            assert eval(left) == pytest.approx(float(right))
            sums += 1
        conclusion = re.search(r"The answer is (.+)\.$", answer)
        assert conclusion
        if name == "gsm8k":
            assert conclusion[1] in re.findall(r"\d+", answer)
        else:
            assert f"{conclusion[1]} " in question
    assert sums >= (8 if name == "gsm8k" else 0)


ORIGINS = {  # hashes of all samples, written down when they were first recorded
    ("gsm8k", "given"): "23b3c2bc10b210980f07bbb1f60e3e224b2df2c3d8cf3c710683367e5839eb65",
    ("gsm8k", "length"): "3580471809487124ddf85603bea6fb93adbca5edc7d3f016d97be3d8d24e58a1",
    ("mmlu", "given"): "f85fab38d0b30134ea1b39451d677c78ea7b0c672f74fad1ef4e69ea1161cb2b",
    ("csqa", "given"): "ac61559408d3af6973cfb45e5bed76e7ad50a9eb0d38d1af92e5607b88a6619b",
}


@pytest.mark.parametrize(("name", "order"), ORIGINS)
def test_the_samples_are_byte_for_byte_those_of_recorded_runs(name: str, order: str, tmp_path: Path) -> None:
    """Prompts, questions, answers and instruction: where this fails, all recorded runs become others."""
    rows = made_up.mmlu(6) if name == "mmlu" else ROWS[name](13)
    made = samples(f"{name}_4k", write(tmp_path / "raw.jsonl", rows), questions=5, order=order)
    assert {sample.origin for sample in made} == {ORIGINS[name, order]}


# released files


@pytest.mark.skipif(not RELEASED.is_dir(), reason="the benchmark's released files are not here")
@pytest.mark.parametrize(
    ("task", "file"),
    [
        (f"{n}_{s}k", f"{n}_{k}")
        for n, s, k in [
            ("gsm8k", 4, 30),
            ("gsm8k", 8, 60),
            ("mmlu", 4, 30),
            ("mmlu", 8, 60),
            ("csqa", 4, 40),
            ("csqa", 8, 80),
        ]
    ],
)
def test_released_prompts_are_used_as_they_are(task: str, file: str) -> None:
    rows = [json.loads(line) for line in (RELEASED / f"{file}.jsonl").open()]
    made = samples(task, RELEASED)
    name = file.split("_")[0]
    assert len(made) == len(rows)
    for sample, row in zip(made, rows, strict=True):
        assert sample.prompt == row["prompt"]
        assert list(sample.asked) == row["questions"]
        first = WORKED[name] + 1
        assert [q.number for q in sample.questions] == list(range(first, first + len(row["questions"])))
        letters = [a.split("####")[-1].strip() for a in row["answers"]]
        assert [q.expected for q in sample.questions] == letters


@pytest.mark.skipif(not RELEASED.is_dir(), reason="the benchmark's released files are not here")
@pytest.mark.parametrize("name", ["gsm8k_30", "csqa_40"])
def test_built_from_the_same_questions_a_prompt_asks_as_the_released_one(name: str, tmp_path: Path) -> None:
    """But for the blank lines between questions, which the released prompts have at random."""
    row = json.loads((RELEASED / f"{name}.jsonl").open().readline())
    raw = [{"question": q, "answer": a} for q, a in zip(row["questions"], row["answers"], strict=True)]
    if name == "csqa_40":
        raw = []
        for question, answer in zip(row["questions"], row["answers"], strict=True):
            stem, choices = question.split("\n")
            labels, texts = re.findall(r"\(([A-E])\)", choices), re.split(r" ?\([A-E]\) ", choices)[1:]
            raw.append({"question": stem, "choices": {"label": labels, "text": texts}, "answerKey": answer})
    (made,) = samples(f"{name.split('_')[0]}_4k", write(tmp_path / "raw.jsonl", raw))
    assert blocks(made.prompt)[1] == blocks(row["prompt"])[1]


# a set that is kept


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Row] | Exception], list[Any]]:
    """Have the hub give these rows, or fail; -> what it was asked."""

    def answer(rows: Sequence[Row] | Exception) -> list[Any]:
        asked: list[Any] = []

        def load(*place: Any, **options: Any) -> Sequence[Row]:
            asked.append((*place, options["split"]))
            assert not isinstance(rows, Exception)
            return rows

        def auth_check(_self: object, *_: object, **__: object) -> None:
            if isinstance(rows, Exception):
                raise rows

        monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", auth_check)
        monkeypatch.setattr(datasets, "load_dataset", load)
        return asked

    return answer


HUB = {
    "gsm8k_4k": ("openai/gsm8k", "main", "test"),
    "mmlu_4k": ("cais/mmlu", "all", "test"),
    "csqa_4k": ("tau/commonsense_qa", None, "validation"),
}


def at(folder: Path, task: str, *settings: str) -> Experiment:
    """Composed afresh, with sets kept below the folder."""
    composed.cache_clear()
    return composed(f"task={task}", f"output={folder}", *settings)


@pytest.mark.parametrize("task", HUB)
def test_a_set_built_once_needs_no_hub_and_is_the_same_run(task: str, hub: Any, tmp_path: Path) -> None:
    asked = hub(ROWS[task.split("_")[0]](9))
    first = at(tmp_path, task, "task.questions=4")
    built, identity = first.task.samples(), first.identity()
    assert asked == [HUB[task]]
    hub(OSError("[Errno 101] unreachable"))
    again = at(tmp_path, task, "task.questions=4")
    assert again.task.samples() == built
    assert again.identity() == identity
    with pytest.raises(ScopeError, match="not built here and cannot be downloaded"):
        at(tmp_path, task, "task.questions=3").task.samples()  # another set


def test_out_of_reach_is_one_line_with_the_command(hub: Any, tmp_path: Path) -> None:
    hub(OSError("[Errno 101] unreachable\nmore"))
    with pytest.raises(ScopeError) as refused:
        at(tmp_path, "csqa_8k").task.samples()
    assert re.fullmatch(
        r"tau/commonsense_qa: not built here and cannot be downloaded \(.*unreachable\); where there is a network: "
        r"python -m scope.tasks build task=csqa_8k; then here task.source=.*",
        str(refused.value),
    )
    assert list(tmp_path.iterdir()) == []


def test_the_content_is_part_of_the_identity_and_the_place_is_not(tmp_path: Path) -> None:
    rows = made_up.gsm8k(4)
    one = experiment("gsm8k_4k", write(tmp_path / "one.jsonl", rows), questions=4).identity()
    assert experiment("gsm8k_4k", write(tmp_path / "two.csv", rows), questions=4).identity() == one
    rows[2] = rows[2] | {"question": "Another one?"}
    assert experiment("gsm8k_4k", write(tmp_path / "three.jsonl", rows), questions=4).identity() != one
    mine = tmp_path / "instruction.txt"
    mine.write_text("Answer all.")
    assert experiment("gsm8k_4k", tmp_path / "one.jsonl", questions=4, instruction=mine).identity() != one


@pytest.mark.parametrize("task", ["gsm8k_4k", "mmlu_4k", "csqa_4k", "en_sum", "arithmetic"])
def test_build_writes_a_file_that_is_a_source_and_describes_it(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = made_up.novels(3) if task == "en_sum" else ROWS.get(task.split("_")[0], made_up.gsm8k)(6)
    settings = [f"task.source={write(tmp_path / 'raw.jsonl', rows)}"] if task != "arithmetic" else []
    settings += [] if task == "en_sum" else ["task.questions=3"]
    arguments = [f"task={task}", f"output={tmp_path}", "budget.prefill=60", "budget.window=8", *settings]
    assert command(["build", *arguments]) == 0
    said = capsys.readouterr().out
    made = at(tmp_path, task, *arguments[2:]).task.samples()
    assert said.startswith(f"{len(made)} prompts, {sum(len(s.questions) for s in made)} questions\n")
    assert re.search(r"tokens of embedded: \d+ to \d+, median \d+", said)
    assert "longer than the prefill budget of snapkv (60): 100%" in said
    assert made[0].prompt in said
    assert made[0].instruction in said
    file = tmp_path / "sets" / f"{task}.jsonl"
    assert [json.loads(line)["prompt"] for line in file.open()] == [sample.prompt for sample in made]
    if task != "arithmetic":
        assert at(tmp_path, task, *arguments[2:], f"task.source={file}").task.samples() == made


def test_build_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = {
        "task=gsm8k": r"task=gsm8k: must be one of .*; did you mean task=gsm8k_[48]k\?",
        f"task.source={tmp_path / 'no'} task=gsm8k_4k": r"task.source=.*no: there is no such file or folder",
        "task=gsm8k_4k task.order=size": "task.order=size: must be one of given, length",
    }
    for arguments, line in refused.items():
        assert command(["build", f"output={tmp_path}", *arguments.split()]) == 2
        assert re.fullmatch(rf"error: {line}\n", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []
    assert command([]) == 2


# sources of one's own


def test_a_folder_as_the_hubs_client_leaves_it(tmp_path: Path) -> None:
    rows = made_up.gsm8k(6)
    for place in ("main/train", "socratic/test", "socratic/train"):
        write(tmp_path / f"{place}-00000-of-00001.parquet", made_up.gsm8k(9)[6:])
    write(tmp_path / "main" / "test-00000-of-00002.parquet", rows[:3])
    write(tmp_path / "main" / "test-00001-of-00002.parquet", rows[3:])
    (made,) = samples("gsm8k_4k", tmp_path, questions=6)
    assert list(made.asked) == [row["question"] for row in rows]


def test_one_folder_serves_all_three_data_sets(tmp_path: Path) -> None:
    for name, rows in ROWS.items():
        write(tmp_path / name / ("validation.jsonl" if name == "csqa" else "test.jsonl"), rows(4))
        write(tmp_path / name / "train.jsonl", rows(1))
    for name in ROWS:
        assert samples(f"{name}_4k", tmp_path, questions=4)[0].questions


def test_examples_and_instruction_of_ones_own(tmp_path: Path) -> None:
    examples = [{"question": "Is it?", "choices": ["no", "yes"], "steps": "It is.", "answer": "B"}]
    for file in (tmp_path / "mine.yaml", tmp_path / "mine.json"):
        file.write_text(yaml.safe_dump(examples) if file.suffix == ".yaml" else json.dumps(examples))
        source = write(tmp_path / "raw.jsonl", made_up.csqa(2))
        (made,) = samples("csqa_4k", source, questions=2, examples=file)
        shown, asked = blocks(made.prompt)
        assert shown == [("Question", 1, "Is it?\n(A) no (B) yes"), ("Answer", 1, "It is.\nThe answer is (B).")]
        assert [number for _, number, _ in asked] == [2, 3]
    mine = tmp_path / "instruction.txt"
    mine.write_text("Answer all of it.\n")
    assert samples("csqa_4k", source, questions=2, instruction=mine)[0].instruction == "Answer all of it."


def test_other_names_for_the_columns(tmp_path: Path) -> None:
    rows = [{"problem": row["question"], "solution": row["answer"]} for row in made_up.gsm8k(2)]
    names = {"columns.question": "problem", "columns.answer": "solution"}
    assert samples("gsm8k_4k", write(tmp_path / "raw.jsonl", rows), questions=2, **names)[0].questions


def without(column: str, rows: list[Row]) -> list[Row]:
    return [{k: v for k, v in row.items() if k != column} for row in rows]


def changed(rows: list[Row], at: int, **values: Any) -> list[Row]:
    return [row | values if n == at else row for n, row in enumerate(rows)]


MALFORMED: dict[str, tuple[str, list[Row], str]] = {
    "missing column": (
        "gsm8k_4k",
        without("answer", made_up.gsm8k(9)),
        r"row 1 has no column answer; it has question; task.columns.answer=... names another",
    ),
    "renamed column": (
        "mmlu_4k",
        [{**without("choices", [row])[0], "choice": 1} for row in made_up.mmlu(3)],
        r"row 1 has no column choices; it has .*; did you mean task\.columns\.choices=choice\?",
    ),
    "empty cell": ("gsm8k_4k", changed(made_up.gsm8k(9), 4, question=""), "row 5 has nothing in column question"),
    "no number": ("gsm8k_4k", changed(made_up.gsm8k(9), 2, answer="many"), "row 3: answer=many: must be a number.*"),
    "label beyond": ("mmlu_4k", changed(made_up.mmlu(3), 1, answer=4), "row 2: answer=4: must be one of A, B, C, D"),
    "unknown label": ("csqa_4k", changed(made_up.csqa(9), 0, answerKey="F"), "row 1: answer=F: must be one of A, .*"),
    "no label": ("csqa_4k", changed(made_up.csqa(9), 0, answerKey=""), "row 1 has nothing in column answerKey"),
    "one choice": ("mmlu_4k", changed(made_up.mmlu(3), 1, choices=["a"]), "row 2: choices=.*: must be a list of .*"),
    "no rows": ("gsm8k_4k", [], "holds no rows"),
    "too few": ("gsm8k_4k", made_up.gsm8k(2), "has 2 questions, fewer than task.questions=3"),
    "too few of one": ("mmlu_4k", made_up.mmlu(3)[:-1], "has 2 questions of old_maps, fewer than task.questions=3"),
    "released, another K": (
        "gsm8k_4k",
        [{"prompt": "p", "questions": ["q"], "answers": ["1"]}],
        "row 1 asks 1 questions, and task.questions=3",
    ),
    "released, lists apart": (
        "gsm8k_4k",
        [{"prompt": "p", "questions": ["q"], "answers": ["1", "2"]}],
        "row 1: questions and answers must be lists of the same length",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_source_is_one_line(case: str, tmp_path: Path) -> None:
    task, rows, line = MALFORMED[case]
    file = write(tmp_path / "raw.jsonl", rows)
    assert re.fullmatch(rf"task\.source={re.escape(str(file))}: {line}", refusal(task, file, questions=3))


def test_a_released_prompt_that_does_not_ask_its_questions_is_one_line(tmp_path: Path) -> None:
    row = {"prompt": "Following Question: \nQuestion_9:\nOne?\n", "questions": ["One?", "Two?"], "answers": ["1", "2"]}
    line = refusal("gsm8k_4k", write(tmp_path / "raw.jsonl", [row]), questions=2)
    assert line.endswith("prompt 1 asks 1 questions after 'Following Question:', and has 2")


UNREADABLE: Mapping[str, tuple[str, str]] = {
    "raw.jsonl": ("{nope", "cannot be read: .*"),
    "list.jsonl": ("[1]\n", "line 1 is no JSON object"),
    "raw.parquet": ("nope", "cannot be read: .*"),
    "raw.txt": ("a", "must be .jsonl, .parquet, .csv, .json, or a folder of such files"),
    "object.json": ('{"question": "q"}', "must be a list of JSON objects"),
    "empty.csv": ("question,answer\n", "holds no rows"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_one_line(name: str, tmp_path: Path) -> None:
    text, line = UNREADABLE[name]
    (tmp_path / name).write_text(text)
    assert re.fullmatch(rf"task\.source={tmp_path / name}: {line}", refusal("gsm8k_4k", tmp_path / name))


def test_a_folder_that_is_not_clear_is_one_line(tmp_path: Path) -> None:
    assert refusal("gsm8k_4k", tmp_path).endswith("holds no .jsonl, .parquet, .csv file")
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", made_up.gsm8k(3))
    assert "several files could be meant" in refusal("gsm8k_4k", tmp_path)


def test_an_unknown_subject_is_one_line_with_the_nearest(tmp_path: Path) -> None:
    file = write(tmp_path / "raw.jsonl", made_up.mmlu(3))
    line = refusal("mmlu_4k", file, questions=3, subjects="[road_laws]")
    assert line == "task.subjects: road_laws is not in the data set; did you mean road_law?"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- {question: q}", "example 1 has no column steps.*"),
        ("no: list", "must be a list of examples.*"),
        ("[", "cannot be read: .*"),
        ("", "is empty"),
    ],
)
def test_examples_that_cannot_be_are_one_line(text: str, line: str, tmp_path: Path) -> None:
    file, source = tmp_path / "mine.yaml", write(tmp_path / "raw.jsonl", made_up.gsm8k(3))
    file.write_text(text)
    assert re.fullmatch(rf"task\.examples={file}: {line}", refusal("gsm8k_4k", source, questions=3, examples=file))


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "raw.jsonl", made_up.gsm8k(30))
    refused = {
        "questions=0": "task.questions=0: must be a whole number of at least 1",
        "form=prose": "task.form=prose: must be one of number, choice",
        "examples=gsm": "task.examples=gsm: must be one of csqa, gsm8k, mmlu, or a .yaml or .json file",
        "instruction=/nowhere.txt": "task.instruction=/nowhere.txt: cannot be read: No such file or directory",
    }
    for setting, line in refused.items():
        with pytest.raises(ConfigError) as error:
            composed("task=gsm8k_4k", f"task.source={source}", f"task.{setting}").task.samples()
        assert str(error.value) == line


# En.Sum


def test_a_summary_is_held_against_its_references(tmp_path: Path) -> None:
    task = experiment("en_sum", write(tmp_path / "raw.jsonl", made_up.novels(2))).task
    first, second = task.samples()
    assert isinstance(task, InfiniteBench)
    assert "Ann has 1 apples. The sky looks grey." in first.prompt
    assert not first.prompt.startswith("Ann")
    assert (first.references, first.questions) == (("Ann has 1 apples.", "Bob was calm."), ())
    assert first.questions == ()
    assert task.measures(first, "Bob was calm.") == dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), 1.0)
    # by hand: 2 of 4 words of the summary and 2 of 3 of the reference are the same, no two in a row
    half = task.measures(second, "calm were Bob indeed")
    assert half["rouge1"] == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))
    assert half["rouge2"] == 0
    assert half["rougeL"] == pytest.approx(2 * (1 / 4) * (1 / 3) / (1 / 4 + 1 / 3))


def test_a_malformed_book_is_one_line(tmp_path: Path) -> None:
    file = write(tmp_path / "raw.jsonl", without("answer", made_up.novels(2)))
    assert "row 1 has no column answer" in refusal("en_sum", file)
    file = write(tmp_path / "raw.jsonl", changed(made_up.novels(2), 1, answer=[3]))
    assert refusal("en_sum", file).endswith("row 2: answer must be a summary or a list of them")
    (tmp_path / "mine.txt").write_text("No place for it.")
    good = write(tmp_path / "good.jsonl", made_up.novels(2))
    assert refusal("en_sum", good, template=tmp_path / "mine.txt").endswith("must be a file that says {text}")


def test_the_settings_of_the_paper() -> None:
    task = experiment("en_sum").task
    assert isinstance(task, InfiniteBench)
    assert (task.hub.dataset, task.hub.split) == ("xinrongzhang2022/InfiniteBench", "longbook_sum_eng")
    for size, prefill in (("4k", 2048), ("8k", 4096)):
        for decode in (512, 1024):
            made = composed(f"budget={size}_{decode}", "method=h2o", "decoding=slide")
            assert (made.method.slots(10_000), made.decoding.budget, made.decoding.recent, made.method.window) == (  # type: ignore[attr-defined]
                prefill,
                decode,
                256,
                8,
            )
    for name in ROWS:
        assert isinstance(experiment(f"{name}_4k").task, LongGenBench)
