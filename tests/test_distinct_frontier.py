"""The frontier: each row gets all that the bytes allow and no more, and the report says what the records say."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from helpers.quick import every

from experiments.distinct import __main__ as frontier
from experiments.distinct.rows import OWN, ROWS, SLIDE, Row, fitted
from experiments.measure import Measured, composed, in_points, points
from scope.generation import models
from scope.runs.forecast import cache_bytes

COMMON = ["task=arithmetic_tiny", "task.prompts=2"]
PROMPT = 200


@cache
def taken(row: Row, budget: int) -> int:
    run = composed([*row.overrides(budget), *COMMON]).experiment
    return cache_bytes(run, models.load_shape(run.model)[0], PROMPT)


@pytest.mark.parametrize(
    "row", every(3, [row for row in ROWS if row.protect == "nothing" or row.method == "pyramidkv"][::3])
)
@pytest.mark.slow
def test_a_row_gets_the_most_that_fits(row: Row) -> None:
    given = taken(SLIDE, 40)
    budget = fitted(row, given, PROMPT, COMMON)
    assert budget is not None
    assert taken(row, budget) <= given < taken(row, budget + 1)


def test_what_does_not_fit_has_no_budget() -> None:
    assert fitted(OWN, taken(SLIDE, 20), PROMPT, COMMON) is None  # 26 slots always stay


@pytest.mark.slow
def test_the_report_says_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(frontier, "ROWS", [SLIDE, OWN, Row("full", "raas", "nothing")])
    out = tmp_path / "frontier"
    words = [
        *("frontier", "--task", "arithmetic_tiny", "--prompts", "2", "--sizes", "30", "--seed", "5"),
        *("--output", str(tmp_path / "runs"), "--out", str(out)),
    ]
    monkeypatch.setattr("sys.argv", [*words, "--recorded"])
    with pytest.raises(SystemExit, match="has not been run yet"):
        frontier.main()
    monkeypatch.setattr("sys.argv", words)
    frontier.main()
    made: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    assert [row["label"] for row in made["rows"]] == [
        "full + slide",
        "full + distinct, recent 26",
        "full + raas, prompt unprotected",
    ]
    slide, own, raas = made["rows"]
    assert (slide["D"], own["D"]) == (30, 30)
    assert raas["D"] < 30  # it pays for a channel
    assert own["cache_kib"] == slide["cache_kib"]
    assert 0 <= slide["cache_kib"] - raas["cache_kib"] < 3  # a slot in three layers is 1.5 KiB
    gained = own["accuracy"][0] - slide["accuracy"][0]
    assert own["minus"]["slide"][0] == pytest.approx(gained, abs=0.02)
    assert out.with_suffix(".png").stat().st_size > 5000
    crossed = out.with_name("frontier_crossed.md").read_text()
    assert crossed.count("| full |") == 3  # what was answered, above slide, above the full cache
    assert in_points(own["minus"]["slide"]) in crossed
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", [*words, "--recorded"])
    frontier.main()
    assert capsys.readouterr().out == out.with_suffix(".md").read_text() + "\n"


def test_a_difference_without_an_interval_is_shown_as_that() -> None:
    rows = {f"p{k}": [True, False] for k in range(4)}
    less = {name: [True, False] if name == "p0" else [False, False] for name in rows}
    here, same, other = (Measured(marks, 1.0, 1.0) for marks in (rows, dict(reversed(rows.items())), less))
    assert points(here.minus(same)) == "no prompt differs"
    assert re.fullmatch(r"\+37\.5 \[-?\+?\d+\.\d, \+\d+\.\d\]", points(here.minus(other)))
    assert in_points([12.5, None, None]) == "+12.5, no interval"
