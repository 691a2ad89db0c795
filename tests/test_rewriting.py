"""A scorer of a user's own over runs that are there: its scores in records and tables, and what its faults cost."""

import importlib
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from helpers.command import ROOT, Scope, runs
from made_up import answered_record

from analysis.frame import build
from scope.cli.build_set import main as tasks_main
from scope.cli.rescore import main as scoring_main
from scope.records.lines import parse, seal
from scope.records.read import read_run
from scope.scoring import Question, Score, Scorer, ScorerError, score, scorers
from scope.util.errors import ConfigError

ANYWHERE = """
from scope.scoring import Score, Scorer
def score(questions, text, form):
    return [Score(q.expected, q.expected in text, 1) for q in questions]
SCORER = Scorer("digits anywhere in the text", score)
"""
WORDS = ("task=arithmetic_tiny", "task.prompts=2", "task.questions=2", "task.max_new_tokens=30", "engine=eager")
FEW = (*WORDS, "method=streamingllm", "name=few")

Lab = Callable[[str, str], str]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Writes a module of the allowed package mylab. -> its name."""
    package = tmp_path / "code" / "mylab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("SCOPE_ALLOW", "mylab")
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        monkeypatch.delitem(sys.modules, name)

    def write(name: str, text: str) -> str:
        (package / f"{name}.py").write_text(text)
        sys.modules.pop(f"mylab.{name}", None)
        importlib.invalidate_caches()
        return f"mylab.{name}"

    return write


@pytest.fixture
def scope(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Scope:
    return Scope(tmp_path, capfd, monkeypatch)


def made_run(folder: Path, tail: bytes = b"", **more: Any) -> Path:
    """A run of two answered samples, one that failed, one without questions, and whatever stands behind them."""
    folder.mkdir(parents=True)
    labels = {"model": "m", "task": "t", "method": "snapkv", "decoding": "slide"}
    told = {"experiment": "e", "run": folder.name, "created": "2026-01-01T00:00:00+00:00", "settings": {}}
    about = told | {"identity": "x" * 8, "samples": 4, "labels": labels, "scoring": {"aligned": "old words"}} | more
    (folder / "manifest.json").write_text(json.dumps(about, indent=2))
    lines = [record("a", "The answer is 7."), record("b", "The answer is 8, not 7.")]
    lines += [{"sample": "c", "status": "failed", "reason": "no"}, answered_record("d")]
    (folder / "records.jsonl").write_bytes(b"".join(seal(line, "x" * 8) for line in lines) + tail)
    return folder


def record(name: str, said: str) -> dict[str, Any]:
    scores = {"aligned": {"found": "1", "correct": False, "given": 1}, "other": {"found": None, "correct": False}}
    question = {"number": 1, "expected": "7", "remark": "kept", "scores": scores}
    return answered_record(name) | {"generation": f"Answer_1: {said}", "questions": [question], "own": 0.1 + 0.2}


def without(line: Mapping[str, Any], *scorers: str) -> dict[str, Any]:
    """A record without the scores of these scorers."""
    asked = [
        {**q, "scores": {name: found for name, found in q["scores"].items() if name not in scorers}}
        for q in line["questions"]
    ]
    return {**line, "questions": asked}


def test_scores_are_written_and_nothing_else_changes(
    tmp_path: Path, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    own = lab("mine", ANYWHERE)
    torn = b'{"sample": "e", "gen'
    damaged = b'{"sample": "f"}\n'
    folder = made_run(tmp_path / "run", damaged + torn, extra=[1, {"deep": None}])
    before, manifest = (folder / "records.jsonl").read_bytes(), json.loads((folder / "manifest.json").read_text())
    assert scoring_main([str(folder), "--scoring", f"aligned,{own}", "--write"]) == 1  # for the damaged line
    said = capsys.readouterr().out
    assert (
        f"{folder}: scores written: 2 new by mine, 2 changed by aligned; what was there before: records.1.jsonl" in said
    )
    assert (folder / "records.1.jsonl").read_bytes() == before
    old, new = before.split(b"\n"), (folder / "records.jsonl").read_bytes().split(b"\n")
    assert new[2:] == old[2:]  # the failed sample, the one without questions, and what is no record, byte by byte
    for was, now, right in zip(old[:2], new[:2], (True, False), strict=True):
        first, second = parse(was, "x" * 8), parse(now, "x" * 8)  # raises for a wrong checksum
        assert without(first, "aligned", "mine") == without(second, "aligned", "mine")
        scores = second["questions"][0]["scores"]
        assert scores["mine"] == {"found": "7", "correct": True, "given": 1}
        assert scores["aligned"]["correct"] is right
        assert list(second) == list(first)
    now = json.loads((folder / "manifest.json").read_text())
    assert now.pop("scoring") == {
        "aligned": "answers by their printed number",
        own: "digits anywhere in the text",
    }
    assert now.pop("scoring_code").keys() == {"aligned", "mine"}
    assert now == {key: value for key, value in manifest.items() if key not in ("scoring", "scoring_code")}

    assert scoring_main([str(folder), "--scoring", f"aligned,{own}", "--write"]) == 1
    assert "scores written: none, all are there" in capsys.readouterr().out
    assert not (folder / "records.2.jsonl").exists()  # nothing new: no file is made


def test_a_scorer_that_was_mended_is_written_again(tmp_path: Path, lab: Lab) -> None:
    own = lab("mine", ANYWHERE)
    folder = made_run(tmp_path / "run")
    assert scoring_main([str(folder), "--scoring", f"aligned,{own}", "--write"]) == 0
    lab("mine", ANYWHERE.replace("q.expected in text", "q.expected == '8'"))
    assert scoring_main([str(folder), "--scoring", f"aligned,{own}", "--write"]) == 0
    scores = [q["scores"]["mine"]["correct"] for line in read_run(folder).answered.values() for q in line["questions"]]
    assert scores == [False, False]
    assert {path.name for path in folder.glob("records*")} == {"records.jsonl", "records.1.jsonl", "records.2.jsonl"}


def test_without_the_switch_nothing_is_written(tmp_path: Path, lab: Lab) -> None:
    own = lab("mine", ANYWHERE)
    folder = made_run(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert scoring_main([str(folder), "--scoring", f"aligned,{own}"]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_that_is_being_written_is_refused_and_the_others_are_not(
    tmp_path: Path, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    own = lab("mine", ANYWHERE)
    busy, free = made_run(tmp_path / "busy"), made_run(tmp_path / "free")
    before = (busy / "records.jsonl").read_bytes()
    with FileLock(busy / ".lock"):
        assert scoring_main([str(tmp_path), "--scoring", f"aligned,{own}", "--write"]) == 1
    out, err = capsys.readouterr()
    assert err == f"error: {busy}: another process is writing this run\n"
    assert f"{free}: scores written: 2 new by mine" in out
    assert (busy / "records.jsonl").read_bytes() == before
    assert not (busy / "records.1.jsonl").exists()


def test_a_full_disk_leaves_the_old_records(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = lab("mine", ANYWHERE)
    folder = made_run(tmp_path / "run")
    before = (folder / "records.jsonl").read_bytes()

    def full(path: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "replace", full)
    assert scoring_main([str(folder), "--scoring", f"aligned,{own}", "--write"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {folder}: cannot be written: No space left on device")
    assert (folder / "records.jsonl").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "manifest.json", "records.jsonl"]


def test_what_is_no_run_of_ours_has_no_records_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "X.json").write_text(json.dumps({"pred": "x", "answers": ["#### 5"]}) + "\n")
    assert scoring_main([str(tmp_path), "--write"]) == 1
    assert capsys.readouterr().err == "error: --write: is for the records of runs, and there are none here\n"


def test_a_scorer_reaches_the_tables_of_finished_runs(tmp_path: Path, scope: Scope, lab: Lab) -> None:
    """The way that the command itself names: no score in the finished run, the line, the command, the column."""
    own = lab("mine", ANYWHERE)
    scope(*FEW)
    (run,) = runs(tmp_path)
    said = scope(*FEW, f"scoring=[aligned,released,{own}]").out
    told = [line for line in said.splitlines() if "not scored" in line and "python -m" in line]
    command = f"python -m scope.scoring {run} --scoring aligned,released,{own} --write"
    expected = f"`mine` was not scored by the present code in 1 finished run: {command}"
    assert [line.partition(": ")[2] for line in told] == [expected]
    assert "scored.mine_percent" not in build(run.parent)
    before = read_run(run)
    assert scoring_main(command.split()[3:]) == 0
    after = read_run(run)
    assert after.problems == ()
    for name, line in after.answered.items():
        assert without(line, "mine") == before.answered[name]  # aligned and released come out as they were recorded
    (row,) = build(run.parent).to_dict("records")
    right = [q["expected"] in line["generation"] for line in after.answered.values() for q in line["questions"]]
    assert row["scored.mine_percent"] == pytest.approx(100 * sum(right) / len(right))
    again = scope(*FEW, f"scoring=[aligned,released,{own}]").out
    assert "finished already" in again
    assert "not scored" not in again
    lab("mine", ANYWHERE.replace("in text", "not in text"))
    assert expected in scope(*FEW, f"scoring=[aligned,released,{own}]").out  # the recorded score is of the old code
    assert scoring_main(command.split()[3:]) == 0
    assert "not scored" not in scope(*FEW, f"scoring=[aligned,released,{own}]").out


def test_a_sweep_says_it_once_for_all_its_finished_runs(tmp_path: Path, scope: Scope, lab: Lab) -> None:
    own = lab("mine", ANYWHERE)
    sweep = ("-m", *WORDS, "method=full,streamingllm", "name=few")
    scope(*sweep)
    said = scope(*sweep, f"scoring=[aligned,{own},strict]").out
    (line,) = [line for line in said.splitlines() if "python -m scope.scoring" in line and "`" in line]
    folder = tmp_path / "outputs" / "few"
    command = f"python -m scope.scoring {folder} --scoring aligned,{own},strict --write"
    assert line == f"`mine`, `strict` were not scored by the present code in 2 finished runs: {command}"


# --- a scorer that fails ---------------------------------------------------------------------------------------------

EMPTY = "from scope.scoring import Scorer\nSCORER = Scorer('x', lambda questions, text, form: 1 / len(text))\n"
REAL = """from scope.scoring import Score, Scorer
from mylab.parts import half
def score(questions, text, form):
    return [Score(None, bool(half(text)), 0) for _ in questions]
SCORER = Scorer("x", score)
"""
PARTS = "import json\n\ndef half(text):\n    return text and json.loads('{' + text)\n"


def test_one_that_fails_at_an_empty_text_is_refused_in_one_line(tmp_path: Path, scope: Scope, lab: Lab) -> None:
    own = lab("bad", EMPTY)
    said = scope(*FEW, f"scoring=[aligned,{own}]", code=2)
    why = "ZeroDivisionError: division by zero (mylab/bad.py line 2)"
    assert said.err == f"error: scoring=mylab.bad: it fails on an empty text: {why}\n"
    assert not runs(tmp_path)


def test_one_that_fails_at_a_real_text_costs_no_generation(tmp_path: Path, scope: Scope, lab: Lab) -> None:
    lab("parts", PARTS)
    own = lab("deep", REAL)
    scope(*FEW, "name=plain")
    said = scope(*FEW, f"scoring=[aligned,{own},strict]")
    (plain,), (run,) = ((run for run in runs(tmp_path) if run.parent.name == name) for name in ("plain", "few"))
    texts = {name: line["generation"] for name, line in read_run(plain).answered.items()}
    lines = read_run(run).answered
    assert {name: line["generation"] for name, line in lines.items()} == texts
    assert all(set(q["scores"]) == {"aligned", "strict"} for line in lines.values() for q in line["questions"])
    why = "(mylab/parts.py line 4)"  # the deepest line of the user's own, not of json
    assert all(line["unscored"][own].startswith("JSONDecodeError: ") for line in lines.values())
    assert all(line["unscored"][own].endswith(why) for line in lines.values())
    told = [line for line in said.out.splitlines() if "scoring=mylab.deep: it fails on sample " in line]
    assert len(told) == 1
    assert told[0].endswith(f"{why}; the text is kept")
    assert "`deep` was not scored by the present code in 2 of 2 answers: python -m scope.scoring" in said.out

    scope.capfd.readouterr()
    before = (run / "records.jsonl").read_bytes()
    assert scoring_main([str(run), "--scoring", f"aligned,{own}", "--write"]) == 2
    err = scope.capfd.readouterr().err
    assert err.startswith(f"error: scoring={own}: it fails on sample arithmetic-")
    assert why in err
    assert err.count("\n") == 1
    assert (run / "records.jsonl").read_bytes() == before

    lab("parts", "def half(text):\n    return True\n")  # mended: the score is written, and no fault is left
    lab("deep", REAL)
    assert scoring_main([str(run), "--scoring", f"aligned,{own}", "--write"]) == 0
    lines = read_run(run).answered
    assert not any("unscored" in line for line in lines.values())
    assert all("deep" in q["scores"] for line in lines.values() for q in line["questions"])


def test_one_that_leaves_the_process_is_named_with_the_line_of_a_released_file(
    tmp_path: Path, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    own = lab("leaves", EMPTY.replace("1 / len(text)", "exit(3)"))
    (tmp_path / "gsm8k").mkdir()
    file = tmp_path / "gsm8k" / "X.json"
    file.write_text(json.dumps({"pred": "x", "answers": ["#### 5"]}) + "\n")
    assert scoring_main([str(tmp_path), "--scoring", f"aligned,{own}"]) == 2
    why = "SystemExit: 3 (mylab/leaves.py line 2)"
    assert capsys.readouterr().err == f"error: scoring={own}: it fails on {file}:1: {why}\n"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([], "it must give a Score for each of 2 questions"),
        (None, "it must give a Score for each of 2 questions"),
        ([Score(None, False, 0)] * 3, "it must give a Score for each of 2 questions"),
        ([Score(7, True, 1)] * 2, "Score.found=7: must be a text or None"),
        ([Score("\ud800", True, 1)] * 2, "holds half a character"),
        ([Score("7", 1, 1)] * 2, "Score.correct=1: must be True or False"),
        ([Score("7", True, True)] * 2, "Score.given=true: must be a count"),
        ([Score("7", True, -1)] * 2, "Score.given=-1: must be a count"),
        ([Score("7", True, 2.0)] * 2, "Score.given=2.0: must be a count"),
    ],
)
def test_what_no_record_can_hold_is_the_scorers_fault(given: Any, why: str) -> None:
    """A record with such a score would be left out by every reader, with its text."""
    by = scorers(["aligned"]) | {"odd": Scorer("odd", lambda questions, text, form: given)}
    with pytest.raises(ScorerError, match=r"^scoring=odd: it fails on a text: ") as error:
        score([Question(1, "7"), Question(2, "8")], "text", by=by)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mylab.neer", r"there is no module mylab\.neer; did you mean mylab\.near\?$"),
        ("mylab.zzzzzz", r"there is no module mylab\.zzzzzz; mylab has far, near$"),
        ("mylab.near.deep", r"there is no module mylab\.near\.deep; mylab\.near has no modules$"),
        ("mylab.neer.deep", r"there is no module mylab\.neer; did you mean mylab\.near\?$"),
        (
            "scope.scoring.strickt",
            r"there is no module scope\.scoring\.strickt; did you mean scope\.scoring\.strict\?$",
        ),
        ("gone.near", r"there is no package gone in the folders where Python looks: PYTHONPATH=FOLDER adds one$"),
        ("other.near", r"must be one of .*, or a module of yours, whose package SCOPE_ALLOW=package allows$"),
    ],
)
def test_a_module_that_is_not_there_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str, told: str) -> None:
    lab("near", ANYWHERE)
    lab("far", ANYWHERE)
    monkeypatch.setenv("SCOPE_ALLOW", "mylab,gone")
    with pytest.raises(ConfigError, match=rf"^scoring={name}: {told}"):
        scorers(["aligned", name])


# --- the README's example --------------------------------------------------------------------------------------------


def fences(readme: str, heading: str, kind: str) -> list[str]:
    part = (ROOT / readme).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [block.partition("\n```")[0] for block in part.split(f"```{kind}\n")[1:]]


def test_the_readmes_scorer_goes_from_its_file_to_a_column(
    tmp_path: Path, scope: Scope, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = fences("scope/scoring/README.md", "Adding a scorer", "python")
    own = lab("last_number", code.partition("\nasked = ")[0])
    two = [Question(3, "7"), Question(4, "1,250"), Question(5, "2")]
    text = "0\nAnswer_3: It is 3, then 7.\nAnswer_4: 1250 or so.\nAnswer_4: 9\n"
    given = [one.scores["last_number"] for one in score(two, text, by=scorers(["aligned", own]))]
    assert given == [Score("7", True, 1), Score("1250", True, 2), Score(None, False, 0)]
    first, second = fences("scope/scoring/README.md", "Adding a scorer", "bash")[0].splitlines()
    scope(*WORDS)
    said = scope(*WORDS, shlex.split(first)[-1])
    words = shlex.split(second)
    assert words[2:5] == ["python", "-m", "scope.scoring"]
    assert "`last_number` was not scored by the present code in 1 finished run" in said.out
    assert scoring_main(words[5:]) == 0
    assert build(tmp_path / "outputs" / "default")["scored.last_number_percent"].notna().all()
    (block,) = fences("scope/scoring/README.md", "Adding a scorer", "yaml")
    place = tmp_path / "myconf" / "experiment"
    place.mkdir(parents=True)
    (place / "mine.yaml").write_text(block)
    said = scope(*WORDS, f"hydra.searchpath=[file://{tmp_path / 'myconf'}]", "experiment=mine")
    assert "finished already" in said.out
    assert "last_number" in said.out


def test_the_readmes_task_prints_the_prompt_that_it_shows(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (settings,) = fences("scope/tasks/README.md", "Adding a task", "yaml")
    (prompt,) = fences("scope/tasks/README.md", "Adding a task", "text")
    monkeypatch.chdir(tmp_path)
    asked = [f"A river has {n} bends and {n + 2} bridges. How many of both?" for n in (3, 4)]
    rows = [{"question": text, "answer": 2 * n + 2} for n, text in zip((3, 4), asked, strict=True)]
    (tmp_path / "rivers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = tmp_path / "myconf" / "task"
    place.mkdir(parents=True)
    (place / "rivers.yaml").write_text(settings)
    assert tasks_main(["build", f"hydra.searchpath=[file://{tmp_path / 'myconf'}]", "task=rivers"]) == 0
    assert f"\n{prompt}\n" in capfd.readouterr().out
    assert (tmp_path / "outputs" / "sets" / "rivers.jsonl").exists()
