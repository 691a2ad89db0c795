"""The comparison on real models: its rows hold equal slots, its results survive a kill, its page says what they say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.quick import every
from scipy.stats import spearmanr

from experiments.measure import composed
from experiments.real import __main__ as real
from experiments.real import report, results
from experiments.real.questions import agreement, told_alike
from experiments.real.results import Result
from experiments.real.rows import FULL, MAIN, PLANS, ROWS, TASKS, Row, decode, prefill
from scope.cache.sizes import most_slots
from scope.policy.plan import View

PROMPT, WRITTEN = 400, 256
ROUND = Row("decode", 0.25, "full", "slide")


@pytest.mark.parametrize("row", every(4, [row for row in MAIN if row.design == "decode"]))
def test_all_strategies_hold_equally_many_slots(row: Row) -> None:
    run = composed([*row.overrides(WRITTEN), f"task.max_new_tokens={WRITTEN}"]).experiment
    most = [
        most_slots(run.policy.decoding, View(i, 4, PROMPT, PROMPT, PROMPT, PROMPT, (PROMPT,) * 4), PROMPT + WRITTEN)
        for i in range(4)
    ]
    slots = PROMPT + 0.25 * WRITTEN + 1
    if row.decoding == "pyramidinfer":
        assert sum(most) / 4 == pytest.approx(slots, abs=1)
    else:
        waits = (WRITTEN - 32) // (64 - 32) - 1 if row.decoding == "discontinuous" else 0  # delta, with recent = D / 2
        assert most[0] <= slots + waits
        assert most[0] >= slots - 1


def test_rows_are_named_apart_and_each_task_has_its_full_cache() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    for model, tasks, rows in PLANS:
        assert set(tasks) <= set(TASKS)
        assert rows[0] == FULL or any(plan[0] == model and plan[2][0] == FULL for plan in PLANS)


def made(row: Row, **values: list[float]) -> Result:
    """A result with these values of the prompts a, b, c, ..."""
    prompts: dict[str, dict[str, Any]] = {}
    for name, numbers in values.items():
        for prompt, number in zip("abcdefghijklmnop", numbers, strict=False):
            prompts.setdefault(prompt, {"cluster": prompt, "cache_bytes": 50, "full_cache_bytes": 100})[name] = number
    return Result(row, "0" * 8, 1.0, prompts)


def test_results_are_read_as_they_were_written_and_a_cut_line_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "HERE", tmp_path)
    assert results.read("m", "t") == {}
    one, two = made(FULL, kl=[0.0, 0.0]), made(ROUND, kl=[0.25, 0.5])
    results.append("m", "t", one)
    results.append("m", "t", two)
    assert results.read("m", "t") == {FULL: one, ROUND: two}
    path = results.path_of("m", "t")
    path.write_bytes(path.read_bytes()[:-20])
    assert results.read("m", "t") == {FULL: one}
    results.append("m", "t", two)
    assert results.read("m", "t") == {FULL: one, ROUND: two}


def test_clusters_are_averaged_and_paired() -> None:
    one, other = made(ROUND, kl=[1.0, 2.0, 6.0]), made(FULL, kl=[0.5, 0.5, 1.5])
    one.prompts["b"]["cluster"] = other.prompts["b"]["cluster"] = "a"  # type: ignore[index]
    assert one.values("kl") == {"a": 1.5, "c": 6.0}
    assert one.mean("kl").estimate == 3.75
    assert one.minus(other, "kl").estimate == pytest.approx((1.0 + 4.5) / 2)
    assert one.of_full == 0.5


def test_a_prompt_without_answer_tokens_counts_in_no_mean_of_them() -> None:
    row = made(ROUND, kl=[1.0, 2.0, 3.0])
    row.prompts["a"]["answers_recalled"], row.prompts["b"]["answers_recalled"] = None, 0.5  # type: ignore[index]
    row.prompts["c"]["answers_recalled"] = 0.0  # type: ignore[index]
    assert row.values("answers_recalled") == {"b": 0.5, "c": 0.0}


def test_orders_are_compared_over_the_rows_that_both_have() -> None:
    rows, lots = list(prefill(0.5)), np.random.default_rng(5)
    left = {row: made(row, kl=list(lots.random(16) + i)) for i, row in enumerate(rows)}
    right = {row: made(row, kl=list(lots.random(16) * 3 - i)) for i, row in enumerate(rows[:-2])}
    found, count = agreement(left, right, rows)
    assert count == len(rows) - 2
    means = [[np.mean(list(side[row].values("kl").values())) for row in rows[:-2]] for side in (left, right)]
    assert found.estimate == pytest.approx(spearmanr(*means).statistic)
    assert found.low <= found.estimate <= found.high
    assert found.estimate < -0.9
    assert np.isnan(agreement(left, {}, rows)[0].estimate)


def test_free_running_and_replay_are_compared_on_the_same_prompts() -> None:
    rows, lots = list(decode(0.25))[:9], np.random.default_rng(6)
    free = {row: made(row, values=list(lots.random(3) / 9 + i / 10)) for i, row in enumerate(rows)}
    replayed = {row: made(row, answers_recalled=list(lots.random(8) / 9 + i / 10)) for i, row in enumerate(rows)}
    pearson, spearman, shared = told_alike(free, replayed)
    assert shared == rows
    pair = [
        [np.mean(list(free[row].values("values").values())) for row in rows],
        [np.mean(list(replayed[row].values("answers_recalled").values())[:3]) for row in rows],
    ]
    assert pearson.estimate == pytest.approx(np.corrcoef(pair)[0, 1])
    assert spearman.estimate == pytest.approx(spearmanr(*pair).statistic)


@pytest.mark.slow
def test_the_committed_page_says_what_the_committed_results_say() -> None:
    page = results.HERE.parent / "results.md"
    if not page.is_file():
        pytest.skip("no results are here")
    assert page.read_text() == report.markdown(report.everything())


@pytest.mark.slow
def test_the_command_runs_rows_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(results, "HERE", tmp_path / "results")
    monkeypatch.setattr(report, "HERE", tmp_path / "results")
    few = ("task=arithmetic_tiny", "task.prompts=2")
    monkeypatch.setitem(real.TASKS, "arithmetic", real.TASKS["arithmetic"].__class__("arithmetic", few, 180))
    monkeypatch.setattr(real, "PLANS", (("embedded", ("arithmetic",), (FULL, ROUND)),))
    words = ["real", "--model", "embedded", "--output", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", words)
    real.main()
    lines = results.path_of("embedded", "arithmetic").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [FULL.name, ROUND.name]
    found = results.read("embedded", "arithmetic")
    assert found[FULL].mean("kl").estimate == pytest.approx(0, abs=1e-6)
    assert found[ROUND].mean("kl").estimate > 0.01
    assert found[ROUND].of_full < 0.9
    assert not list((tmp_path / "runs" / "real").iterdir())
    real.main()
    assert results.path_of("embedded", "arithmetic").read_text().splitlines() == lines
