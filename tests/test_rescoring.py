"""Scoring again from disk: made-up result files in the released format, and a run's records with old and torn lines."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_up import answered_record
from rich.console import Console

from analysis.statistics import clustered_proportion
from scope.cli.rescore import main, show
from scope.records.lines import seal
from scope.scoring import Question, score
from scope.scoring.sources import Scored, read
from scope.util.errors import ScopeError

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "longgenbench_sample" / "results"


def number_line(name: str, said: list[str], right: list[int], **changed: Any) -> dict[str, Any]:
    """Question_9 and on; said[k] stands after "The answer is" to the k-th, "" skips it."""
    pred = "\n\n".join(f"Answer_{n}:\nso.\nThe answer is {text}." for n, text in enumerate(said, start=9) if text)
    prompt = name + "".join(f"\nQuestion_{n}:\nhow many?" for n in range(1, 9 + len(right)))
    answers = [f"{n} - 0 = <<{n}-0={n}>>{n}\n#### {n:,}" for n in right]
    return {
        "prompt": prompt,
        "questions": ["how many?"] * len(right),
        "answers": answers,
        "length": 9,
        "pred": pred,
    } | changed


def choice_line(said: str, right: str) -> dict[str, Any]:
    pred = "\n\n".join(f"Answer_{n}:\nso. The answer is ({letter})." for n, letter in enumerate(said, start=6))
    return {"answers": list(right), "pred": pred}


def write(path: Path, lines: list[dict[str, Any]], tail: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return path


def totals(run: Scored) -> tuple[int, int, int]:
    answers = [a for given in run.answers.values() for a in given]
    return len(answers), sum(a.correct for a in answers), sum(a.scores["released"].correct for a in answers)


def test_released_results_are_read_as_they_are(tmp_path: Path) -> None:
    lines = [number_line("a", ["5", "$6", "1,200"], [5, 6, 1200]), number_line("b", ["", "6", "7"], [5, 6, 7])]
    setting = tmp_path / "X+slide_512" / "model_2048"
    write(setting / "gsm8k" / "X.json", lines)
    write(setting / "csqa" / "X.json", [choice_line("ABC", "ABD"), choice_line("E", "AE")])
    (setting / "gsm8k" / "metrics.json").write_text('{"gsm8k": 50.0}')  # the released scorer leaves it there
    choices, numbers = read(tmp_path)
    assert (numbers.task, numbers.name) == ("gsm8k", "X+slide_512/model_2048 X")
    # a: released reads 5 and 1 (of "1,200"), the latter for $6; b: 6 and 7 for questions 9 and 10
    assert totals(numbers) == (6, 5, 1)
    assert totals(choices) == (5, 2, 2)
    assert len(numbers.answers) == len(choices.answers) == 2


def test_questions_are_numbered_as_in_the_prompt(tmp_path: Path) -> None:
    line = number_line("a", ["5", "6"], [5, 6])
    moved = {
        key: value.replace("_10:", "_12:").replace("_9:", "_11:")
        for key, value in line.items()
        if isinstance(value, str)
    }
    write(tmp_path / "gsm8k" / "X.json", [line | moved])
    (run,) = read(tmp_path)
    (answers,) = run.answers.values()
    assert [(a.number, a.correct) for a in answers] == [(11, True), (12, True)]


def record(name: str, said: str, **changed: Any) -> dict[str, Any]:
    old = {"number": 1, "expected": "7", "found": "old", "correct": False}  # as older code wrote it
    made = {"sample": name, "generation": f"Answer_1: The answer is {said}.", "questions": [old]}
    return answered_record() | made | changed


def write_run(folder: Path, lines: list[dict[str, Any]], tail: str = "", **manifest: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    labels = {"model": "embedded", "task": "arithmetic", "method": "snapkv", "decoding": "slide"}
    about = {"identity": "a" * 64, "samples": len(lines), "labels": labels} | manifest
    (folder / "manifest.json").write_text(json.dumps(about))
    (folder / "records.jsonl").write_bytes(b"".join(seal(line, "a" * 64) for line in lines) + tail.encode())
    return folder


def test_records_are_scored_from_their_text(tmp_path: Path) -> None:
    """Older ones too; of a sample written twice the last counts, draws of a prompt are its own, a torn line is left."""
    lines = [record("a", "6"), record("b", "$7"), record("a", "7"), {"sample": "c", "status": "out of memory"}]
    lines += [record("b#1", "8", prompt="b")]
    write_run(tmp_path / "run", lines, tail='{"sample": "d", "status": "ok", "gen')
    (run,) = read(tmp_path)
    assert (run.task, run.name) == ("arithmetic", "embedded + snapkv + slide")
    assert {name: [a.found for a in given] for name, given in run.answers.items()} == {"a": ["7"], "b": ["7", "8"]}
    assert totals(run) == (3, 2, 1)


def test_a_run_of_any_model_is_named_after_its_folder(tmp_path: Path) -> None:
    labels = {"model": "hf", "task": "arithmetic", "method": "snapkv", "decoding": "slide"}
    settings = {"model": {"path": "/models/smollm2"}}
    write_run(tmp_path / "run", [record("a", "6")], labels=labels, settings=settings)
    (run,) = read(tmp_path)
    assert run.name == "smollm2 + snapkv + slide"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"pred": "text"}, "answers must be a list of texts"),
        ({"answers": ["#### 5"], "pred": 5}, "pred must be a text"),
        ({"answers": ["no number"], "pred": ""}, "'no number' is neither a letter nor ends in '#### ' and a number"),
        ({"answers": [], "pred": ""}, "answers must be a list of texts, one for each question"),
    ],
)
def test_a_line_that_lacks_something_is_named(tmp_path: Path, line: dict[str, Any], told: str) -> None:
    path = write(tmp_path / "gsm8k" / "X.json", [number_line("a", ["5"], [5]), line])
    with pytest.raises(ScopeError) as error:
        read(tmp_path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_what_cannot_be_scored_ends_with_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "cut" / "gsm8k" / "X.json", [number_line("a", ["5"], [5])], tail='{"pred": "cut')
    write_run(tmp_path / "no_question", [record("a", "7", questions=[])])
    (tmp_path / "empty").mkdir()
    asked = '{"identity": "a", "samples": 1, "labels": 3}'
    for name, text in (("broken", "{broken"), ("list", "[]"), ("labels", asked), ("deep", "[" * 100_000)):
        (write_run(tmp_path / name, [record("a", "7")]) / "manifest.json").write_text(text)
    for name, told in (
        ("nowhere", "no such folder"),
        ("empty", "no generation with questions here or below"),
        ("cut", "X.json:2: not JSON"),
        ("no_question", "no generation with questions here or below"),
        ("broken", f"{tmp_path / 'broken' / 'manifest.json'}: is not the manifest of a run (Expecting"),
        ("list", f"{tmp_path / 'list' / 'manifest.json'}: is not the manifest of a run (must be a valid dict"),
        ("labels", f"{tmp_path / 'labels' / 'manifest.json'}: is not the manifest of a run (labels: must be a valid"),
        ("deep", f"{tmp_path / 'deep' / 'manifest.json'}: is not the manifest of a run (maximum recursion depth"),
    ):
        assert main([str(tmp_path / name)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert told in err
        assert err.count("\n") == 1


def test_the_table_shows_both_scorers_and_what_ties_with_the_best(tmp_path: Path) -> None:
    """Good and Same differ by one answer of 60; Bad loses everywhere. Released punishes the $ that aligned reads."""
    right = [5, 6, 7]
    for name, said in (("Good", "5 6 7"), ("Same", "5 6 7"), ("Bad", "1 1 7"), ("Dollar", "$5 6 7")):
        lines = [number_line(f"p{k}", said.split(), right) for k in range(20)]
        if name == "Same":
            lines[0] = number_line("p0", ["5", "6", "8"], right)
        write(tmp_path / name / "gsm8k" / "X.json", lines)
    command = [sys.executable, "-m", "scope.scoring", str(tmp_path)]
    root = Path(__file__).parents[1]
    environment = {**os.environ, "COLUMNS": "140", "FORCE_COLOR": "1", "TERM": "xterm"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = {
        name: next(line for line in done.stdout.splitlines() if f" {name} X" in line)
        for name in ("Good", "Same", "Bad", "Dollar")
    }
    assert "100.00 [" in rows["Good"]
    assert "98.33 [" in rows["Same"]
    assert "33.33 [" in rows["Bad"]
    assert [rows[name].count("\x1b[1m") for name in rows] == [2, 2, 0, 1]  # Dollar leads by one scorer only
    assert "100.00 [" in rows["Dollar"]
    assert " 0.00 [" in rows["Dollar"]


LONG = "embedded + streamingllm + discontinuous + tiny"


@pytest.mark.parametrize("width", [80, 100, 10_000])
def test_names_and_intervals_are_readable_at_any_width(width: int) -> None:
    """Each figure stands whole beside the names of its row, however many tables that takes."""
    answers = {f"p{k}": score([Question(1, "7")], f"Answer_1: The answer is {7 + (k > 3)}.") for k in range(6)}
    runs = [Scored("sums", name, answers) for name in (LONG, f"{LONG} other")]
    out = io.StringIO()
    show(runs, Console(file=out, width=width, force_terminal=False))
    text = out.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    tables = text.count("task ")
    assert (tables == 1) == (width == 10_000)
    for word in LONG.split(" + "):
        assert text.count(word) == 2 * tables
    estimate, low, high = clustered_proportion([1] * 4 + [0] * 2, [1] * 6)
    assert text.count(f"{100 * estimate:.2f} [{100 * low:.1f}, {100 * high:.1f}]") == 4


def test_what_is_not_a_terminal_has_every_run_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", [record("a", "7"), record("b", "6")])
    assert main([str(tmp_path)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "embedded + snapkv + slide" in line]
    assert line.startswith("arithmetic ")
    assert line.count("[") == 2


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of the benchmark's released files is not here")
def test_the_benchmarks_own_results_are_read() -> None:
    """18 generations of the released files; the order of the two methods is the paper's on each data set."""
    runs = read(SAMPLE)
    assert [(run.task, len(run.answers)) for run in runs] == [(t, 3) for t in ("csqa", "gsm8k", "mmlu")] * 2
    for full, less in zip(runs[:3], runs[3:], strict=True):
        assert totals(full)[0] == totals(less)[0] == {"csqa": 120, "gsm8k": 90, "mmlu": 90}[full.task]
        assert totals(full)[1] > totals(less)[1]
        assert totals(full)[2] > totals(less)[2]
        assert totals(full)[1] >= totals(full)[2]
