"""The scorers: those of the project beside each other, and one of a user's own from its file to every table."""

import csv
import json
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from golden import composed

from analysis import figures, report, tables
from analysis.frame import build
from analysis.statistics import clustered_proportion
from scope import records
from scope.cli.rescore import main as scoring_main
from scope.records.lines import seal
from scope.records.read import read_run
from scope.runs.run import run
from scope.runs.tracking import NoTracking
from scope.scoring import PRIMARY, Question, score, scorers
from scope.scoring.scorers import known
from scope.util.errors import ConfigError, ScopeError

SUMS = [Question(9, "18"), Question(10, "1200"), Question(11, "-2.5")]
CHOICES = [Question(6, "A"), Question(7, "C")]


def by(name: str, questions: list[Question], text: str) -> list[tuple[str | None, bool, int]]:
    answers = score(questions, text, by=scorers([PRIMARY, name]))
    return [(a.scores[name].found, a.scores[name].correct, a.scores[name].given) for a in answers]


# --- strict ----------------------------------------------------------------------------------------------------------

AS_ASKED = """Answer_9:
There are 18.
The answer is 18.

Answer_10: so. The answer is 1,200.
Answer_11:
The answer is -2.5.
"""


def test_strict_takes_what_is_written_as_the_examples_are() -> None:
    assert by("strict", SUMS, AS_ASKED) == [("18", True, 1), ("1200", True, 1), ("-2.5", True, 1)]
    assert by("strict", CHOICES, "Answer_6:\nso.\nThe answer is (A).\n\nAnswer_7: x. The answer is B.\n") == [
        ("A", True, 1),
        ("B", False, 1),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "**Answer_9:** The answer is 18.",
        "Answer 9: The answer is 18.",
        "answer_9: The answer is 18.",
        "so. Answer_9: The answer is 18.",
        "Answer_9: The answer is $18.",
        "Answer_9: The answer is **18**.",
        "Answer_9: The answer is 18 apples.",
        "Answer_9: The answer is 18",
        "Answer_9: the answer is 18.",
        "Answer_9: The answer is 18. That was easy.",
        "Answer_9: The answer is 17. No, the answer is 18.",
        "Answer_9: The answer is 17. The answer is 18.",
        "Answer_9: 18",
        "Answer_9: The answer is \\boxed{18}.",
        "Answer_9: The answer is ١٨.",
        "Answer_9: xThe answer is 18.",
        "Answer_09: The answer is 18.",
        "Answer_9 (wet): The answer is 18.",
    ],
)
def test_strict_takes_no_other_form(text: str) -> None:
    assert by("strict", SUMS[:1], text) == [(None, False, 0)]


def test_strict_goes_by_the_first_answer_under_a_number() -> None:
    """A second one is a duplicate; a first one in another form is no answer, and the second does not mend it."""
    right, wrong = "Answer_9: The answer is 18.\n", "Answer_9: The answer is 17.\n"
    assert by("strict", SUMS[:1], right + wrong) == [("18", True, 2)]
    assert by("strict", SUMS[:1], wrong + right) == [("17", False, 2)]
    assert by("strict", SUMS[:1], "Answer_9: 18\n" + right) == [(None, False, 1)]
    assert by("strict", SUMS[:1], "") == by("strict", SUMS[:1], "Answer_8: The answer is 18.") == [(None, False, 0)]


def test_strict_leaves_out_what_was_thought_aloud() -> None:
    text = "<think>Answer_9: The answer is 17.</think>Answer_9: The answer is 18."
    (answer,) = score(SUMS[:1], text, by=scorers(["aligned", "released", "strict"]), thinking=("<think>", "</think>"))
    assert {name: one.found for name, one in answer.scores.items()} == {
        "aligned": "18",
        "released": "17",
        "strict": "18",
    }


# --- math_verify -----------------------------------------------------------------------------------------------------


def test_math_verify_reads_and_compares_as_mathematics() -> None:
    pytest.importorskip("math_verify")
    text = "Answer_9: The answer is $\\sqrt{324}$.\n**Answer_10:** The answer is 1,200.\nAnswer_11: The answer is -5/2."
    assert [(right, given) for _, right, given in by("math_verify", SUMS, text)] == [(True, 1)] * 3
    assert by("math_verify", SUMS[:2], "Answer_9: The answer is 17.") == [("17", False, 1), (None, False, 0)]
    assert by("math_verify", CHOICES, "Answer_6: so. The answer is (A).\nAnswer_7: The answer is (B).") == [
        ("A", True, 1),
        ("B", False, 1),
    ]


def test_a_scorer_whose_package_is_not_installed_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "scope.scoring.math_verify", raising=False)
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(
        ConfigError, match=r"^scoring=math_verify: needs the package math_verify, which is not installed$"
    ):
        scorers(["aligned", "math_verify"])


# --- one of a user's own ---------------------------------------------------------------------------------------------

OWN = '''"""An answer is right where its digits stand anywhere in the text."""
from scope.scoring import Score, Scorer

def score(questions, text, form):
    there = [q.expected in text for q in questions]
    return [Score(q.expected if t else None, t, int(t)) for q, t in zip(questions, there)]

SCORER = Scorer("digits anywhere in the text", score)
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a scorer in a package that is allowed."""
    package = tmp_path / "code" / "house_rules"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "any_where.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("SCOPE_ALLOW", "house_rules")
    monkeypatch.delitem(sys.modules, "house_rules", raising=False)
    monkeypatch.delitem(sys.modules, "house_rules.any_where", raising=False)
    return "house_rules.any_where"


SMALL = ("task=arithmetic_tiny", "task.prompts=3", "task.questions=4", "task.max_new_tokens=110", "engine=eager")


def sweep(folder: Path, *words: str, methods: tuple[str, ...] = ("full", "streamingllm")) -> Path:
    from rich.console import Console

    for method in methods:
        labels = {"model": "embedded", "task": "arithmetic_tiny", "method": method, "decoding": "slide"}
        asked = replace(composed(*SMALL, f"method={method}", *words), labels=labels)
        run(asked, NoTracking(), folder / "sweep", Console(quiet=True))
    return folder / "sweep"


class Scripts(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.inside = tag == "script"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found.append(data)


@pytest.mark.slow
def test_a_scorer_in_one_file_shows_up_everywhere(tmp_path: Path, own: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the scorer's own rule, counted here over the texts in the records."""
    made = sweep(tmp_path, f"scoring=[aligned,released,strict,{own}]")
    runs = {folder.name: read_run(folder) for folder in sorted(made.iterdir())}
    percent, right = {}, {}
    for name, found in runs.items():
        assert list(found.manifest["scoring"]) == ["aligned", "released", "strict", own]
        lines = list(found.answered.values())
        right[name] = [[q["expected"] in line["generation"] for q in line["questions"]] for line in lines]
        scores = [[q["scores"]["any_where"] for q in line["questions"]] for line in lines]
        assert [[one["correct"] for one in row] for row in scores] == right[name]
        assert all(set(q["scores"]) == {"aligned", "released", "strict", "any_where"} for q in lines[0]["questions"])
        percent[name] = clustered_proportion([sum(row) for row in right[name]], [len(row) for row in right[name]])
    assert any(sum(map(sum, rows)) for rows in right.values())

    frame = build(made)
    assert not [column for column in frame if column == "scoring"]
    for row in frame.to_dict("records"):
        estimate, low, high = (100 * value for value in percent[row["run"]])
        assert row["scored.any_where_percent"] == pytest.approx(estimate)
        bounds = row["scored.any_where_low_percent"], row["scored.any_where_high_percent"]
        assert bounds == pytest.approx((low, high), nan_ok=True)
        gone = [not there for rows in right[row["run"]] for there in rows]
        assert row["scored.any_where_missing_percent"] == pytest.approx(100 * sum(gone) / len(gone))
    assert not frame.loc[~frame["compressed"], "scored.any_where_best"].any()

    out = tmp_path / "out"
    assert tables.main([str(made), "--out", str(out), "--explain"]) == 0
    terminal = " ".join(capsys.readouterr().out.split())
    assert "any_where" in terminal
    assert "any_where %: digits anywhere in the text" in terminal
    cells = list(csv.DictReader((out / "table.csv").open()))
    assert {"scored.any_where_percent", "scored.strict_percent"} <= set(cells[0])
    assert "any_where %" in (out / "table.md").read_text().replace("\\", "").replace("<br>", " ")
    assert "any\\_where \\%" in (out / "table.tex").read_text()
    assert tables.main([str(made), "--preset", "table1_4k", "--out", str(out)]) == 0
    tidy = list(csv.DictReader((out / "table1_4k.csv").open()))
    assert {row["scorer"] for row in tidy} == {"aligned", "released", "strict", "any_where"}
    by_run = {row["run"]: float(row["percent"]) for row in tidy if row["scorer"] == "any_where"}
    assert by_run == pytest.approx({name: 100 * found.estimate for name, found in percent.items()})
    assert "any\\_where scorer" in (out / "table1_4k.tex").read_text()

    assert report.main([str(made), "--out", str(out / "report.html")]) == 0
    data = json.loads(Scripts((out / "report.html").read_text()).found[0])
    assert {"heading": "any_where %", "key": "scored.any_where_percent"}.items() <= next(
        column.items() for column in data["columns"] if column["heading"] == "any_where %"
    )
    for row, of_run in zip(data["rows"], data["runs"], strict=True):
        others = [[q[4]["any_where"][1] for q in s["questions"]] for s in of_run["samples"].values()]
        assert others == right[row["run"]]

    assert figures.main([str(made), "--out", str(out)]) == 0
    assert (out / "frontier.png").exists()
    assert (out / "frontier_any_where.png").exists()
    assert (out / "frontier_strict.pdf").exists()
    assert not (out / "frontier_released.png").exists()

    capsys.readouterr()
    assert scoring_main([str(made)]) == 0
    again = capsys.readouterr().out
    for found in percent.values():
        assert f"{100 * found.estimate:.2f}" in again
    assert "any_where: digits anywhere in the text." in again


def test_a_scorer_changes_no_identity(own: str) -> None:
    plain, more = composed(*SMALL), composed(*SMALL, f"scoring=[aligned,{own}]")
    assert records.identity(plain.settings(limits=False)) == records.identity(more.settings(limits=False))
    assert plain.settings() == more.settings()


def test_where_the_package_is_not_allowed_the_rest_is_scored_again(
    tmp_path: Path, own: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = sweep(tmp_path, f"scoring=[aligned,{own}]", methods=("full",))
    monkeypatch.delenv("SCOPE_ALLOW")
    capsys.readouterr()
    assert scoring_main([str(made)]) == 0
    out, err = capsys.readouterr()
    assert "any_where" not in out
    assert err.startswith(f"warning: not scored again by {own}: scoring={own}: must be one of aligned,")
    assert err.count("\n") == 1
    (row,) = build(made).to_dict("records")  # what is recorded needs no code of anybody's
    assert row["scored.any_where_percent"] >= 0
    assert "not scored in full: python -m scope.scoring FOLDER --write gives the released score" in row["notes"]
    assert scoring_main([str(made), "--scoring", f"aligned,{own}"]) == 2
    assert scoring_main([str(made), "--scoring", "aligned,strict"]) == 0
    out = capsys.readouterr().out
    assert "strict %" in out
    assert "released" not in out


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["aligned", "strickt"], r"scoring=strickt: must be one of .*released, strict, or a module .*mean strict\?"),
        (["aligned", "values"], r"scoring=values: the module scope.scoring.values has no SCORER"),
        (["aligned", "os"], r"scoring=os: must be one of"),
        (["aligned", "os.path"], r"scoring=os.path: must be one of"),
        (
            ["aligned", "house_rules.nowhere"],
            r"scoring=house_rules.nowhere: there is no module house_rules.nowhere; did you mean house_rules.any_where",
        ),
        (["aligned", "../strict"], r"scoring=../strict: must be one of"),
        (["aligned", ""], r"scoring=.*: must be one of"),
        (["aligned", None], r"scoring=.*: must be one of"),
        (["strict"], r"scoring=\[strict\]: must contain aligned"),
        ([], r"scoring=\[\]: must contain aligned"),
        (["aligned", "strict", "strict"], r"scoring=strict: the list already has a scorer strict"),
        (["aligned", "house_rules.broken"], r"scoring=house_rules.broken: ValueError: no good"),
    ],
)
def test_what_is_no_scorer_is_refused_in_a_line(tmp_path: Path, own: str, names: list[str], told: str) -> None:
    (tmp_path / "code" / "house_rules" / "broken.py").write_text("raise ValueError('no\\ngood')")
    with pytest.raises(ConfigError, match=f"^{told}") as refused:
        scorers(names)
    assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match=f"^{told}"):
        composed(*SMALL, f"scoring={json.dumps(names)}")


@pytest.mark.parametrize("value", ["strict", "3", "null"])
def test_what_is_no_list_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^scoring=.*: must be a list, such as \[aligned,released\]$"):
        composed(*SMALL, f"scoring={value}")


def test_a_scorer_that_gives_too_few_scores_fails_before_anything_is_generated(tmp_path: Path, own: str) -> None:
    module = tmp_path / "code" / "house_rules" / "short.py"
    module.write_text(
        "from scope.scoring import Scorer\nSCORER = Scorer('nothing', lambda questions, text, form: [])\n"
    )
    with pytest.raises(
        ScopeError, match=r"scoring=house_rules.short: it fails on an empty text: it must give a Score for each of 4"
    ):
        sweep(tmp_path, "scoring=[aligned,house_rules.short]", methods=("full",))
    assert not (tmp_path / "sweep").exists()


def test_the_scorers_of_the_project_are_named() -> None:
    assert known() == ["aligned", "math_verify", "released", "strict"]


# --- older records ---------------------------------------------------------------------------------------------------

FLAT = {"number": 9, "expected": "18", "found": "18", "correct": True, "given": 2}
FLAT |= {"released_found": "17", "released_correct": False}


def test_an_older_record_is_read_as_it_would_be_written_now(tmp_path: Path) -> None:
    from made_up import answered_record

    oldest = {key: FLAT[key] for key in ("number", "expected", "found", "correct")}
    nothing = FLAT | {"released_found": None, "remark": "kept"}
    new = {"number": 9, "expected": "18", "scores": {"aligned": {"found": None, "correct": False, "given": 0}}}
    lines = [answered_record("a") | {"questions": [FLAT, oldest, nothing, new]}, {"sample": "b", "status": "failed"}]
    (tmp_path / "manifest.json").write_text(json.dumps({"identity": "x", "samples": 2}))
    (tmp_path / "records.jsonl").write_bytes(b"".join(seal(line, "x") for line in lines))
    found = read_run(tmp_path)
    assert found.problems == ()
    aligned = {"found": "18", "correct": True}
    assert found.records[0]["questions"] == [
        {
            "number": 9,
            "expected": "18",
            "scores": {
                "aligned": aligned | {"given": 2},
                "released": {"found": "17", "correct": False, "given": 1},
            },
        },
        {"number": 9, "expected": "18", "scores": {"aligned": aligned}},
        {
            "number": 9,
            "expected": "18",
            "remark": "kept",
            "scores": {
                "aligned": aligned | {"given": 2},
                "released": {"found": None, "correct": False, "given": 0},
            },
        },
        new,
    ]
    assert found.records[1] == lines[1]


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ({}, "questions.0.scores: must hold the score of aligned"),
        ({"strict": {"found": None, "correct": False}}, "questions.0.scores: must hold the score of aligned"),
        ({"aligned": {"found": 3, "correct": True}}, "questions.0.scores.aligned.found: must be a valid string"),
        ({"aligned": {"found": None}}, "lacks 'questions.0.scores.aligned.correct'"),
        (3, "questions.0.scores: must be a valid dict"),
    ],
)
def test_scores_that_are_none_are_left_out_and_named(tmp_path: Path, scores: Any, told: str) -> None:
    from made_up import answered_record

    line = answered_record("a") | {"questions": [{"number": 9, "expected": "18", "scores": scores}]}
    (tmp_path / "manifest.json").write_text(json.dumps({"identity": "x", "samples": 2}))
    (tmp_path / "records.jsonl").write_bytes(seal(line, "x"))
    found = read_run(tmp_path)
    assert found.records == ()
    assert told in found.notes[0]
