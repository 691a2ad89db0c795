"""The frontier on real models: rows hold the slots that their bytes allow, and the page says what the results say."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.quick import every

from experiments import results
from experiments.frontier import __main__ as frontier
from experiments.frontier import report
from experiments.frontier.rows import FULL, POLICIES, ROWS, SEED, WORKLOADS, Row, Workload
from experiments.measure import composed
from experiments.real import rows as real
from scope.cache.sizes import most_slots
from scope.policy.plan import View
from scope.prefill import Full

PROMPT, WRITTEN = 400, 256


@pytest.mark.parametrize(
    "row", every(6, [row for row in ROWS if row.policy not in ("full", "triattention")]), ids=lambda row: row.name
)
def test_policies_hold_equally_many_slots(row: Row) -> None:
    run = composed([*row.overrides(PROMPT, WRITTEN), f"task.max_new_tokens={WRITTEN}"]).experiment
    method, share = run.policy.prefill, row.slots
    assert not isinstance(method, Full)
    left = method.slots(PROMPT)
    assert left == pytest.approx(share * PROMPT, abs=1)
    most = most_slots(run.policy.decoding, View(0, 4, PROMPT, left, left, left, (left,) * 4), PROMPT + WRITTEN)
    assert most == pytest.approx(share * (PROMPT + WRITTEN) + 1, abs=2)
    assert run.policy.precision == row.precision


def test_rounded_rows_take_the_bytes_that_their_share_says() -> None:
    for row in ROWS:
        if row.precision != "float":
            pair = {"int8": 2 * (64 + 4), "int4": 2 * (32 + 8), "k8v4": 64 + 4 + 32 + 8}[row.precision]
            assert row.slots * pair == pytest.approx(row.share * 2 * 64 * 2)


def test_no_workload_reads_what_was_read_before() -> None:
    assert real.SEED != SEED
    assert len({row.name for row in ROWS}) == len(ROWS)
    for workload in WORKLOADS:
        assert ROWS[0] == FULL == workload.rows[0]
        if workload.task == "text":
            assert "task.skip=24" in workload.overrides


def made(row: Row, kl: list[float]) -> results.Result[Row]:
    prompts = {
        name: {"cluster": name, "kl": x, "agreement": 1 - x, "cache_bytes": 5, "full_cache_bytes": 10}
        for name, x in zip("abcdefghijklmnop", kl, strict=False)
    }
    return results.Result(row, "0" * 8, 1.0, prompts, "f" * 64)


def test_a_star_is_the_lowest_row_and_those_that_do_not_differ_from_it() -> None:
    lots = np.random.default_rng(3)
    base = lots.random(14)
    here = {
        row: made(row, list(base + shift + lots.normal(0, 0.01, 14)))
        for name, shift in (("slide, protected", 0.5), ("salient", 0.0), ("raas", 0.001))
        if (row := Row(name, 0.25)) in ROWS
    }
    table = report._at(Workload("m", "t", 1, 1, answers=False), here, 0.25).splitlines()[2:]
    assert sorted(line.split(" |")[0] for line in table[:2]) == ["| raas *", "| salient *"]
    assert table[2].startswith("| slide, protected | 25% |")


@pytest.mark.slow
def test_the_committed_page_says_what_the_committed_results_say() -> None:
    page = report.HERE.parent / "results.md"
    if not page.is_file():
        pytest.skip("no results are here")
    assert page.read_text() == report.markdown(report.everything())


@pytest.mark.slow
def test_the_command_runs_rows_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(report, "HERE", tmp_path / "results")
    work = Workload("embedded", "arithmetic_tiny", 180, 180, ("task.prompts=2",))
    for module in (frontier, report):
        monkeypatch.setattr(module, "WORKLOADS", (work,))
    few = tuple(row for row in ROWS if row.policy in ("full", "salient") and row.share in (0.25, 1.0))
    monkeypatch.setattr("experiments.frontier.rows.ROWS", few)
    monkeypatch.setattr("sys.argv", ["frontier", "--output", str(tmp_path / "runs")])
    frontier.main()
    lines = [json.loads(line) for line in report.path_of(work).read_text().splitlines()]
    assert [line["row"] for line in lines] == [FULL.name, "salient/0.25/float"]
    assert all(len(line["records"]) == 64 for line in lines)
    found = results.read(report.path_of(work), ROWS)
    assert found[FULL].mean("kl").estimate == pytest.approx(0, abs=1e-6)
    assert found[Row("salient", 0.25)].mean("kl").estimate > 0.01
    assert not list((tmp_path / "runs" / f"frontier_{work.name}").iterdir())
    frontier.main()
    assert [json.loads(line) for line in report.path_of(work).read_text().splitlines()] == lines


def test_every_policy_that_is_compared_with_is_a_row() -> None:
    assert set(report.AGAINST) <= set(POLICIES)
