"""The table of a sweep, from made-up records: its figures by naive loops, its marks, its files, its terminal view."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.latex import compile_table
from helpers.sweeps import sample, sealed, write_run, write_sweep
from rich.console import Console
from scipy import stats

from analysis.records import RecordsError, read_runs
from analysis.statistics import clustered_proportion, mean_by_prompt
from analysis.tables import build, main, show, write, write_preset

ACCURACY = ("accuracy_percent", "accuracy_low_percent", "accuracy_high_percent")
LOST = ("points_lost", "points_lost_low", "points_lost_high")


def printed(frame: pd.DataFrame, width: int) -> str:
    out = io.StringIO()
    show(frame, Console(file=out, width=width, force_terminal=False))
    return out.getvalue()


def only_row(folder: Path) -> "pd.Series[Any]":
    frame = build(folder)
    assert len(frame) == 1
    return frame.iloc[0]


# --- figures -----------------------------------------------------------------------------------------------------


def test_the_figures_of_a_run(tmp_path: Path) -> None:
    answers = [(True, True, False), (True,), (False, True), (True, True)]
    records = [sample(index, correct) for index, correct in enumerate(answers)]
    records[2]["questions"][0]["found"] = None
    write_run(tmp_path, "run", records)

    questions = right = kept = full = tokens = own_bytes = all_bytes = 0
    for record in records:
        for asked in record["questions"]:
            questions += 1
            right += asked["correct"]
        for slots in record["slots_kept"]:
            kept += slots
            full += record["prompt_tokens"] + record["generated_tokens"] - 1
        tokens += record["generated_tokens"]
        own_bytes += record["cache_bytes"]
        all_bytes += record["full_cache_bytes"]

    row = only_row(tmp_path)
    assert (row["prompts"], row["questions"]) == (4, questions)
    assert row["accuracy_percent"] == pytest.approx(100 * right / questions)
    interval = clustered_proportion([2, 1, 1, 2], [3, 1, 2, 2])
    assert row["accuracy_low_percent"] == pytest.approx(100 * interval.low)
    assert row["accuracy_high_percent"] == pytest.approx(100 * interval.high)
    assert row["missing_percent"] == pytest.approx(100 / questions)
    assert row["kept_percent"] == pytest.approx(100 * kept / full)
    assert row["cache_mib"] == pytest.approx(own_bytes / 4 / 1024 / 1024)
    assert row["cache_percent"] == pytest.approx(100 * own_bytes / all_bytes)
    assert row["tokens_per_second"] == pytest.approx(tokens / (3.0 + 5.0))  # the longer row of either batch
    assert row["notes"] == ""


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_a_row_that_made_room_for_another_is_not_counted_again(tmp_path: Path, order: tuple[int, ...]) -> None:
    """Two answers one after the other in a batch of one row, and one in a batch of its own: recorded in any order."""
    first = sample(0, batch="a", decode_seconds=2.0, batch_seconds=2.0)
    second = sample(1, batch="a", decode_seconds=3.0, batch_seconds=5.0)
    third = sample(2, batch="b", decode_seconds=1.0, batch_seconds=1.0)
    answers = [first, second, third]
    write_run(tmp_path, "run", [answers[place] for place in order])
    tokens = sum(line["generated_tokens"] for line in answers)
    assert only_row(tmp_path)["tokens_per_second"] == pytest.approx(tokens / 6.0)


def test_points_lost_are_paired_by_prompt(tmp_path: Path) -> None:
    full = [sample(i, correct) for i, correct in enumerate([(True, True), (True, True), (False, True), (True, True)])]
    less = [sample(i, correct) for i, correct in enumerate([(False, True), (True, True), (False, True)])]
    other = sample(3, (False, False))
    other["questions"][0]["expected"] = "another prompt under the old name"
    write_run(tmp_path, "full", full, method="full", decoding="none", budgets=(None, None))
    write_run(tmp_path, "less", [*less, other], created=1)

    frame = build(tmp_path)
    assert pd.isna(frame["points_lost"][0])
    differences = [0.5, 0.0, 0.0]
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    row = frame.iloc[1]
    assert row["points_lost"] == pytest.approx(100 / 6)
    assert (row["points_lost_low"], row["points_lost_high"]) == pytest.approx((100 * low, 100 * high))
    assert row["paired_prompts"] == 3
    assert "points lost over 3 of 4 prompts" in row["notes"]


def test_points_lost_only_to_the_same_task_and_seed(tmp_path: Path) -> None:
    write_run(tmp_path, "full", [sample(0)], method="full", decoding="none", budgets=(None, None), seed=1)
    write_run(tmp_path, "less", [sample(0)], created=1)
    frame = build(tmp_path)
    assert frame["points_lost"].isna().all()
    assert "points lost" not in printed(frame, 200)


@pytest.mark.parametrize("longest_first", [True, False])
def test_points_are_lost_to_the_longest_uncompressed_run(tmp_path: Path, longest_first: bool) -> None:
    uncompressed = {"method": "full", "decoding": "none", "budgets": (None, None)}
    short, long, created = [sample(0, (True, True))], [sample(i, (True, True)) for i in range(3)], int(longest_first)
    write_run(tmp_path, "short", short, created=created, **uncompressed)
    write_run(tmp_path, "long", long, created=1 - created, identity="1" * 64, **uncompressed)
    write_run(tmp_path, "less", [sample(i, (True, i > 1)) for i in range(3)], created=2)
    (row,) = (row for _, row in build(tmp_path).iterrows() if row["compressed"])
    assert row["paired_prompts"] == 3
    assert row["points_lost"] == pytest.approx(100 * (0.5 + 0.5 + 0) / 3)


def test_the_share_of_bytes_is_over_the_prompts_that_both_answered(tmp_path: Path) -> None:
    full = [sample(i, full_cache_bytes=100_000 * (i + 1)) for i in range(2)]
    less = [sample(i, cache_bytes=10_000 * (i + 1) ** 2) for i in range(4)]
    write_run(tmp_path, "full", full, method="full", decoding="none", budgets=(None, None))
    write_run(tmp_path, "less", less, created=1)
    row = build(tmp_path).iloc[1]
    assert row["cache_percent"] == pytest.approx(100 * (10_000 + 40_000) / (100_000 + 200_000))


def test_bold_is_what_cannot_be_told_from_the_best(tmp_path: Path) -> None:
    """b loses one answer of four on 3 of 16 prompts: 4.7 points, within the noise. c loses one on all but 2: no tie."""
    for position, (name, lose) in enumerate((("a", 0), ("b", 3), ("c", 14))):
        records = [sample(k, (True, True, True, k >= lose)) for k in range(16)]
        write_run(tmp_path, name, records, method=name, created=position)
    frame = build(tmp_path)
    assert list(frame["best"]) == list(frame["released_best"]) == [True, True, False]
    assert mean_by_prompt([0.25] * 3 + [0.0] * 13).low <= 0 < mean_by_prompt([0.25] * 14 + [0.0] * 2).low


def test_the_two_scorers_stand_side_by_side(tmp_path: Path) -> None:
    """Aligned: 2 of 4 and 1 duplicate; by position: 1 of 4. Each has its own column, and its own bold."""
    first, second = sample(0, (True, False)), sample(1, (True, False))
    first["questions"][0] |= {"released_correct": False, "given": 2}
    write_run(tmp_path, "run", [first, second])
    row = only_row(tmp_path)
    assert (row["accuracy_percent"], row["released_percent"], row["duplicates"]) == (50, 25, 1)
    assert row["released_high_percent"] == pytest.approx(100 * clustered_proportion([0, 1], [2, 2]).high)
    text = printed(build(tmp_path), 200)
    assert "accuracy %" in text
    assert "released %" in text
    assert " 25.0 [" in text


def test_draws_of_one_prompt_are_one_cluster(tmp_path: Path) -> None:
    draws = [sample(k, (True, False), prompt=f"p{k // 2}") for k in range(6)]
    write_run(tmp_path, "run", draws)
    assert (only_row(tmp_path)["prompts"], only_row(tmp_path)["planned_prompts"]) == (3, 3)
    interval = clustered_proportion([2, 2, 2], [4, 4, 4])
    row = only_row(tmp_path)
    assert (row["accuracy_low_percent"], row["accuracy_high_percent"]) == pytest.approx(
        (100 * interval.low, 100 * interval.high)
    )


def test_a_prompt_of_which_a_draw_is_missing_is_not_counted(tmp_path: Path) -> None:
    draws = [sample(k, prompt=f"p{k // 2}") for k in range(5)]
    write_run(tmp_path, "run", draws, samples=6)
    row = only_row(tmp_path)
    assert (row["prompts"], row["planned_prompts"]) == (2, 3)
    assert row["notes"] == "partial: 5 of 6"


def test_records_of_older_code_are_read_and_say_what_they_lack(tmp_path: Path) -> None:
    old = [sample(0), sample(1)]
    for asked in old[0]["questions"]:
        for key in ("given", "released_found", "released_correct"):
            del asked[key]
    write_run(tmp_path, "run", old)
    row = only_row(tmp_path)
    assert row["accuracy_percent"] == 50
    assert pd.isna(row["released_percent"])
    assert pd.isna(row["duplicates"])
    assert not row["released_best"]
    assert "not scored in full: python -m scope.scoring FOLDER --write gives" in row["notes"]
    assert "nan" not in printed(build(tmp_path), 200)


def test_measures_of_whole_texts_have_columns_of_their_own(tmp_path: Path) -> None:
    """Two draws of a prompt are one value, their mean; what is measured is no setting that tells rows apart."""
    for position, (name, shift) in enumerate((("a", 0.0), ("b", -0.2))):
        values = [0.3 + shift + 0.01 * (k % (5 + position)) for k in range(26)]
        records = [sample(k, (), prompt=f"p{k // 2}", measures={"rougeL": v}) for k, v in enumerate(values)]
        write_run(tmp_path, name, records, method=name, created=position)
    frame = build(tmp_path)
    values = [0.3 + 0.01 * (k % 5) for k in range(26)]
    expected = mean_by_prompt([(values[k] + values[k + 1]) / 2 for k in range(0, 26, 2)])
    got = frame[[f"measured.rougeL{bound}_percent" for bound in ("", "_low", "_high")]].iloc[0]
    assert tuple(got) == pytest.approx([100 * value for value in expected])
    assert list(frame["measured.rougeL_best"]) == [True, False]
    text = printed(frame, 200)
    assert "rougeL %" in text
    assert "accuracy %" not in text
    assert "nan" not in text


# --- what the records leave out ----------------------------------------------------------------------------------


def test_a_torn_last_line_is_left_out_and_noted(tmp_path: Path) -> None:
    torn = json.dumps(sample(2))[:80]
    write_run(tmp_path, "run", [sample(0), sample(1)], torn=torn, samples=3)
    row = only_row(tmp_path)
    assert row["prompts"] == 2
    assert row["notes"] == "partial: 2 of 3; torn last line"


def test_a_torn_line_that_the_run_went_on_from_is_noted(tmp_path: Path) -> None:
    torn = json.dumps(sample(2))[:80] + sealed(sample(2)) + sealed(sample(3))
    write_run(tmp_path, "run", [sample(0), sample(1)], torn=torn, samples=4)
    row = only_row(tmp_path)
    assert row["prompts"] == 3
    assert row["notes"] == "partial: 3 of 4; unreadable lines: 1 (line 3)"


def test_of_a_sample_written_twice_the_last_counts(tmp_path: Path) -> None:
    write_run(tmp_path, "run", [sample(0, (False,)), sample(1, (True,)), sample(0, (True,))], samples=2)
    row = only_row(tmp_path)
    assert (row["prompts"], row["accuracy_percent"], row["notes"]) == (
        2,
        100,
        "samples written again, the last counts: 1 (line 3)",
    )


def test_a_line_that_is_no_record_is_counted_and_named(tmp_path: Path) -> None:
    foreign = '{"loss": 1.5}\n[1]\n' + "nonsense\n" * 5 + sealed(sample(1))
    write_run(tmp_path, "run", [sample(0)], torn=foreign, samples=2)
    row = only_row(tmp_path)
    assert row["prompts"] == 2
    assert row["notes"] == "unreadable lines: 5 (line 4, 5, 6, ...); lines that are no record: 2 (line 2, 3)"


def test_failed_samples_are_counted_and_shown(tmp_path: Path) -> None:
    records = [sample(0), sample(1), {"sample": "arithmetic-2", "status": "out of memory"}]
    write_run(tmp_path, "run", records)
    row = only_row(tmp_path)
    assert (row["prompts"], row["failed_prompts"], row["planned_prompts"]) == (2, 1, 3)
    assert row["notes"] == "failed: 1 of 3"
    assert "2 of 3" in printed(build(tmp_path), 200)


def test_a_partial_run_is_marked_and_leads_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, "whole", [sample(index, (True, False)) for index in range(8)])
    better = [sample(index, (True, True)) for index in range(6)]
    write_run(tmp_path, "part", better, method="h2o", samples=8, created=1)
    frame = build(tmp_path)
    assert frame["notes"][1] == "partial: 6 of 8"
    write(frame, tmp_path / "out")
    bold = re.findall(r"\*\*(.+?)\*\*", (tmp_path / "out" / "table.md").read_text())
    assert len(bold) == 2  # by either scorer
    assert all(cell.startswith("50.0 ") for cell in bold)


def test_a_run_that_has_only_begun_is_a_row(tmp_path: Path) -> None:
    write_run(tmp_path, "done", [sample(0), sample(1)])
    folder = write_run(tmp_path, "begun", [], method="h2o", samples=2, created=1)
    (folder / "records.jsonl").unlink()
    frame = build(tmp_path)
    assert frame["notes"][1] == "partial: 0 of 2"
    assert pd.isna(frame["accuracy_percent"][1])
    assert "nan" not in printed(frame, 200)


@pytest.mark.parametrize(
    ("prefill", "decode", "notes"),
    [
        ([0, 0, 0], [1, 2, 3], "prefill: nothing to evict"),
        ([1, 2, 3], [0, 0, 0], "decoding: nothing to evict"),
        (
            [1, 0, 0],
            [0, 2, 3],
            "prefill: nothing to evict in 2 of 3 prompts; decoding: nothing to evict in 1 of 3 prompts",
        ),
    ],
)
def test_policies_with_nothing_to_evict_are_marked(
    tmp_path: Path, prefill: Sequence[int], decode: Sequence[int], notes: str
) -> None:
    counts = enumerate(zip(prefill, decode, strict=True))
    write_run(tmp_path, "run", [sample(i, prefill_evicted=p, decode_evicted=d) for i, (p, d) in counts])
    assert only_row(tmp_path)["notes"] == notes


def test_one_prompt_has_no_interval_anywhere(tmp_path: Path) -> None:
    write_run(tmp_path / "x", "run", [sample(0, (True, False, False, False))])
    full = {"method": "full", "decoding": "none", "budgets": (None, None)}
    write_run(tmp_path / "x", "full", [sample(0, (True, True, True, False))], **full)
    frame = build(tmp_path / "x")
    assert list(frame["accuracy_percent"]) == [75, 25]
    assert frame["points_lost"][1] == 50
    assert frame[[*ACCURACY[1:], *LOST[1:]]].isna().all(axis=None)
    markdown = write(frame, tmp_path / "out")[1].read_text()
    for text in (printed(frame, 200), markdown, (tmp_path / "out" / "table.tex").read_text()):
        assert not re.search(r"\[\S+, ", text)
        assert "25.0" in text


def test_a_run_that_changes_no_answer_says_so_instead_of_an_interval(tmp_path: Path) -> None:
    """Beside another that changes a few, whose interval stays."""
    correct = [(True, True, False)] * 3
    full = {"method": "full", "decoding": "none", "budgets": (None, None)}
    write_run(tmp_path, "full", [sample(i, c) for i, c in enumerate(correct)], **full)
    write_run(tmp_path, "same", [sample(i, c) for i, c in enumerate(correct)], created=1)
    write_run(tmp_path, "less", [sample(i, (True, i > 0, False)) for i in range(3)], created=2, method="h2o")
    frame = build(tmp_path).set_index("run")
    assert frame.loc["same", "points_lost"] == 0
    assert frame.loc["same", list(LOST[1:])].isna().all()
    assert frame.loc["same", "notes"] == "points lost: no prompt's score differs, no interval"
    assert frame.loc["less", list(LOST[1:])].notna().all()
    assert "points lost:" not in frame.loc["less", "notes"]
    tex = write(frame.reset_index(), tmp_path / "out")[2].read_text()
    assert re.search(r"11\.1 & \{\[", tex)  # siunitx has the figure, its column the interval


def test_a_part_without_budget_is_never_marked(tmp_path: Path) -> None:
    records = [sample(index, prefill_evicted=0, decode_evicted=0) for index in range(2)]
    write_run(tmp_path, "run", records, method="full", decoding="none", budgets=(None, None))
    assert only_row(tmp_path)["notes"] == ""


# --- rows --------------------------------------------------------------------------------------------------------


def test_rows_come_uncompressed_first_and_then_as_created(tmp_path: Path) -> None:
    frame = build(write_sweep(tmp_path / "demo"))
    assert list(frame["run"]) == ["z", "c", "e", "d", "b", "a"]


def test_settings_that_tell_rows_apart_get_a_column(tmp_path: Path) -> None:
    frame = build(write_sweep(tmp_path / "demo"))
    assert [column for column in frame if "." in column] == ["decoding.budget"]
    assert list(frame["decoding.budget"]) == [None, None, 64, 128, None, 128]


def test_rows_alike_in_every_setting_show_their_run(tmp_path: Path) -> None:
    for position, name in enumerate(("first", "again")):
        write_run(tmp_path, name, [sample(0), sample(1)], created=position)
    text = printed(build(tmp_path), 200)
    assert "first" in text
    assert "again" in text


def test_several_folders_make_one_table_and_a_run_one_row(tmp_path: Path) -> None:
    write_run(tmp_path / "one", "run", [sample(0)], seed=1)
    write_run(tmp_path / "two", "run", [sample(0)], seed=2)
    frame = build([tmp_path / "one", tmp_path / "two", tmp_path / "one" / "run"])
    assert list(frame["experiment"]) == ["one", "two"]
    assert list(frame["seed"]) == [1, 2]


# --- the terminal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_terminal_shows_every_figure_whole(tmp_path: Path, width: int) -> None:
    frame = build(write_sweep(tmp_path / "demo"))
    text = printed(frame, width)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    for bounds in (ACCURACY[1:], LOST[1:]):
        for low, high in frame[list(bounds)].dropna().itertuples(index=False):
            assert f"[{low:z.1f}, {high:z.1f}]" in text


def test_a_terminal_too_narrow_still_shows_figures_whole(tmp_path: Path) -> None:
    frame = build(write_sweep(tmp_path / "demo"))
    text = printed(frame, 20)
    for low, high in frame[["accuracy_low_percent", "accuracy_high_percent"]].itertuples(index=False):
        assert f"[{low:.1f}, {high:.1f}]" in text


def test_accuracy_by_method_and_strategy(tmp_path: Path) -> None:
    frame = build(write_sweep(tmp_path / "demo"))
    text = printed(frame, 200)
    row = next(line for line in reversed(text.splitlines()) if line.startswith("snapkv"))
    expected = frame.set_index("run")["accuracy_percent"][["c", "e", "d"]]
    assert row.split()[1:] == [f"{value:.1f}" for value in expected]


def test_one_method_needs_no_grid(tmp_path: Path) -> None:
    write_run(tmp_path, "one", [sample(0)])
    write_run(tmp_path, "two", [sample(0)], decoding="h2o")
    assert "(rows)" not in printed(build(tmp_path), 200)


# --- the files ---------------------------------------------------------------------------------------------------


def test_the_csv_holds_the_frame(tmp_path: Path) -> None:
    frame = build(write_sweep(tmp_path / "demo"))
    paths = write(frame, tmp_path / "out" / "new")
    assert [path.name for path in paths] == ["table.csv", "table.md", "table.tex"]
    assert sorted(paths) == sorted((tmp_path / "out" / "new").iterdir())  # and no draft is left
    again = pd.read_csv(paths[0])
    assert list(again.columns) == list(frame.columns)
    assert np.allclose(again["accuracy_percent"], frame["accuracy_percent"])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = build(write_sweep(tmp_path / "demo"))
    paths = write(frame, tmp_path / "out")
    before = [path.read_bytes() for path in paths]

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write(frame, tmp_path / "out")
    assert [path.read_bytes() for path in paths] == before
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_the_markdown_lines_up(tmp_path: Path) -> None:
    write_run(tmp_path, "run", [sample(index) for index in range(6)], method="a|b")
    text = write(build(tmp_path), tmp_path / "out")[1].read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert r"a\|b" in text
    assert "**50.0 [" in text


def test_equal_best_rows_are_all_bold(tmp_path: Path) -> None:
    for position, (method, correct) in enumerate({"a": (True, False), "b": (False, True), "c": (False, False)}.items()):
        write_run(tmp_path, method, [sample(k, correct) for k in range(6)], method=method, created=position)
    assert write(build(tmp_path), tmp_path / "out")[2].read_text().count(r"\bfseries 50.0 & {[") == 4


def test_the_uncompressed_run_is_never_bold(tmp_path: Path) -> None:
    full = [sample(index, (True, True)) for index in range(6)]
    write_run(tmp_path, "full", full, method="full", decoding="none", budgets=(None, None))
    write_run(tmp_path, "less", [sample(index) for index in range(6)], created=1)
    assert re.findall(r"\*\*(\S+) ", write(build(tmp_path), tmp_path / "out")[1].read_text()) == ["50.0"] * 2


def latex_of_odd_labels(tmp_path: Path) -> Path:
    sweep = write_sweep(tmp_path / "my_sweep #1")
    write_run(sweep, "odd", [sample(0), sample(1)], method="a_b & 50% {$x^2$} ~\\", created=9, samples=3)
    write_run(sweep, "[1]", [sample(0), sample(1)], method="[1]", created=10, seed=0)
    return write(build(sweep), tmp_path / "out")[2]


def test_latex_is_escaped(tmp_path: Path) -> None:
    text = latex_of_odd_labels(tmp_path).read_text()
    assert r"a\_b \& 50\% \{\$x\textasciicircum{}2\$\} \textasciitilde{}\textbackslash{} &" in text
    assert r"my\_sweep \#1" in text
    assert r"\label{tab:my-sweep-1-accuracy}" in text
    assert "\n{}[1] &" in text  # \\ would take a bracket for its argument
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [3, 3, 3]
    for table in text.split(r"\begin{tabular}")[1:]:
        body = table.split(r"\midrule")[1].split(r"\end{tabular}")[0]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1


def test_latex_compiles(tmp_path: Path) -> None:
    compile_table(latex_of_odd_labels(tmp_path))


# --- the command line --------------------------------------------------------------------------------------------


def test_the_command_shows_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = write_sweep(tmp_path / "demo")
    assert main([str(sweep)]) == 0
    assert (sweep / "table.csv").exists()
    assert "snapkv" in capsys.readouterr().out
    assert main([str(sweep), "--out", str(tmp_path / "elsewhere")]) == 0
    assert (tmp_path / "elsewhere" / "table.tex").exists()


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", '{"labels"'])
def test_a_folder_that_is_no_sweep_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
        (tmp_path / "records.jsonl").write_text(json.dumps(sample(0)))
    assert main([str(tmp_path)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"error: {tmp_path}")
    assert error.count("\n") == 1


def test_folders_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="no such folder"):
        build(tmp_path / "missing")
    write_run(tmp_path / "empty", "run", [])
    with pytest.raises(RecordsError, match="no run with records"):
        build(tmp_path / "empty")
    record = sample(0)
    del record["slots_kept"]
    write_run(tmp_path / "short", "run", [record])
    with pytest.raises(RecordsError, match="arithmetic-0 lacks 'slots_kept'"):
        build(tmp_path / "short")


def test_analysis_reads_files_only() -> None:
    """The tables of a sweep are made where there is no GPU and no torch, and without waiting for either."""
    code = "import sys, analysis.tables; print({'torch', 'transformers', 'hydra'} & set(sys.modules))"
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "set()"


def test_budgets_that_made_no_difference_are_reported(tmp_path: Path) -> None:
    for budget, trace in ((64, "aa"), (128, "aa"), (256, "bb")):
        records = [sample(index, trace=trace) for index in range(2)]
        write_run(tmp_path, f"run{budget}", records, budgets=(0.6, budget))
    notes = dict(zip(build(tmp_path)["decoding.budget"], build(tmp_path)["notes"], strict=True))
    assert "same evictions as with budget" in notes[64]
    assert "128" in notes[64]
    assert "64" in notes[128]
    assert "same evictions" not in notes[256]


def test_the_cache_is_held_against_the_uncompressed_run(tmp_path: Path) -> None:
    short = [sample(i, cache_bytes=50, full_cache_bytes=60, generated_tokens=10) for i in range(3)]
    write_run(tmp_path, "small", short)
    assert build(tmp_path)["cache_percent"].iloc[0] == pytest.approx(100 * 50 / 60)
    full = [sample(i, cache_bytes=100, full_cache_bytes=100) for i in range(3)]
    write_run(tmp_path, "full", full, method="full", decoding="none", budgets=(None, None))
    assert list(build(tmp_path)["cache_percent"]) == [100.0, 50.0]


def test_cut_generations_are_noted(tmp_path: Path) -> None:
    write_run(tmp_path, "run", [sample(i, finish="length" if i else "eos") for i in range(3)])
    assert "stopped at max_new_tokens: 2 of 3 prompts" in build(tmp_path)["notes"].iloc[0]


def test_the_title_says_when_the_released_code_is_meant(tmp_path: Path) -> None:
    labels = {"model": "embedded", "task": "arithmetic", "method": "snapkv", "decoding": "slide"}
    write_run(tmp_path, "run", [sample(0), sample(1)], labels=labels | {"fidelity": "released"})
    assert "fidelity released" in printed(build(tmp_path), 100)


@pytest.mark.parametrize(
    ("label", "path", "shown"),
    [
        ("hf", "/models/smollm2", "model smollm2,"),
        ("hf", "someone/smollm2-1.7b/", "model smollm2-1.7b,"),
        ("hf", "/", "model hf,"),
        ("hf", None, "model hf,"),
        ("llama3.1_8b", "meta-llama/Llama-3.1-8B-Instruct", "model llama3.1_8b,"),
    ],
)
def test_the_title_names_the_model(label: str, path: str | None, shown: str, tmp_path: Path) -> None:
    labels = {"model": label, "task": "arithmetic", "method": "snapkv", "decoding": "slide"}
    folder = write_run(tmp_path, "run", [sample(0), sample(1)], labels=labels)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings"]["model"] = {"path": path} if path else {}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    said = printed(build(tmp_path), 100).splitlines()
    assert shown in said[0]
    assert said[0] == said[0].rstrip()


def test_shares_of_different_things_are_marked(tmp_path: Path) -> None:
    """The note where one row has an uncompressed run to be held against and another has not; else the heading."""
    full = {"method": "full", "decoding": "none", "budgets": (None, None)}
    write_run(tmp_path / "a", "alone", [sample(i) for i in range(2)], seed=1)
    frame = build(tmp_path)
    assert list(frame["cache_percent_of"]) == ["own texts"]
    assert "own texts" not in frame["notes"][0]
    assert "of own texts" in printed(frame, 200)
    write_run(tmp_path / "a", "full", [sample(i) for i in range(2)], created=1, **full)
    write_run(tmp_path / "a", "beside", [sample(i) for i in range(2)], created=2)
    frame = build(tmp_path).set_index("run")
    assert list(frame.loc[["full", "beside", "alone"], "cache_percent_of"]) == [*["uncompressed run"] * 2, "own texts"]
    assert "cache % of its own texts: no uncompressed run of them" in frame.loc["alone", "notes"]
    assert "own texts" not in frame.loc["beside", "notes"] + frame.loc["full", "notes"]
    text = printed(frame.reset_index(), 200)
    assert "of full" in text
    assert "of own texts:" in text


@pytest.mark.parametrize(
    ("field", "key", "value", "told"),
    [
        ("max_bytes", "budget.bytes", 300_000, "300000 bytes leave"),
        ("max_slots", "budget.total", 640, "640 slots leave"),
        ("max_slots", "budget.total", 0.55, "0.55 of the full cache's slots leave"),
    ],
)
def test_a_bound_is_named_as_it_is_typed_and_leaves_no_d(
    field: str, key: str, value: float, told: str, tmp_path: Path
) -> None:
    bound = {"granularity": "layer", field: value}
    folder = write_run(tmp_path, "bound", [sample(i) for i in range(2)], budgets=(0.6, 36))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings"]["cache"] = bound
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write_run(tmp_path, "free", [sample(i) for i in range(2)], budgets=(0.6, 64), created=1)
    frame = build(tmp_path)
    assert f"cache.{field}" not in frame
    assert list(frame[key]) == [value, None]
    assert list(frame["decoding.budget"]) == [None, 64]
    assert not re.search(r"\b36\b", printed(frame, 200))
    for preset in ("table1_4k", "table2", "table5", "table3"):
        text = write_preset(read_runs([tmp_path]), preset, tmp_path / "out")[1][1].read_text()
        assert "D = 36" not in text
        assert (f"{key} {value}" if preset == "table3" else f"D = what {told}") in text, preset
