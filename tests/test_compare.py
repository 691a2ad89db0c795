"""A run alone is compared with the full cache: its row, the words, and when it is left out. Oracle: the records."""

import io
import json
import re
from pathlib import Path

import pytest
from helpers.command import SMALL, Scope, runs
from rich.console import Console

from scope.cli.crowded import crowded
from scope.runs.tracking import kept_offline
from scope.util.progress import Among, Progress
from scope.util.saying import say


@pytest.fixture
def scope(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Scope:
    return Scope(tmp_path, capfd, monkeypatch)


def records_of(folder: Path, method: str) -> list[dict[str, object]]:
    (run,) = [run for run in runs(folder) if f"-{method}-" in run.name]
    return [json.loads(line) for line in (run / "records.jsonl").open()]


def test_a_run_alone_is_told_beside_the_full_cache(scope: Scope, tmp_path: Path) -> None:
    said = " ".join(scope(*SMALL, "compare=true").out.split())
    own, full = records_of(tmp_path, "snapkv"), records_of(tmp_path, "full")
    share = sum(line["cache_bytes"] for line in own) / sum(line["cache_bytes"] for line in full)
    right = [
        sum(question["scores"]["aligned"]["correct"] for line in lines for question in line["questions"])
        / sum(len(line["questions"]) for line in lines)
        for lines in (own, full)
    ]
    assert f"snapkv + slide keeps {share:.0%} of the full cache's bytes" in said
    assert f"It answers {right[0]:.1%} right, the full cache {right[1]:.1%}: " in said
    assert f"{abs(right[1] - right[0]) * 100:.1f} points " in said
    assert said.count("written: ") == 2


def test_the_full_cache_of_a_finished_sweep_is_taken(scope: Scope, tmp_path: Path) -> None:
    scope("-m", "method=full", "decoding=none", "name=one", *SMALL)
    before = records_of(tmp_path, "full")
    said = scope("name=one", *SMALL, "compare=true").out
    assert "full + none: " in said
    assert said.count("(was finished already)") == 1
    assert records_of(tmp_path, "full") == before


@pytest.mark.parametrize(
    "words", [["method=full", "decoding=none"], ["measure=replay"], ["shard=1/2"], ["compare=false"]]
)
def test_what_is_not_compared(words: list[str], scope: Scope, tmp_path: Path) -> None:
    assert "full cache's bytes (" not in scope(*SMALL, "compare=true", *words).out
    assert len(list((tmp_path / "outputs").rglob("records.jsonl"))) == 1


def test_a_plan_counts_the_full_cache_too(scope: Scope) -> None:
    assert "2 runs" in scope(*SMALL, "compare=true", "plan=true").out
    assert re.search(r"^1 run,", scope(*SMALL, "plan=true").out, re.M)


def test_a_full_cache_that_fails_costs_no_result(scope: Scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scope.cli import job
    from scope.runs.run import SamplesFailedError

    run = job.run

    def fails(experiment, *rest):
        if experiment.labels["method"] == "full":
            raise SamplesFailedError("out of memory", tmp_path)
        return run(experiment, *rest)

    monkeypatch.setattr(job, "run", fails)
    said = scope(*SMALL, "compare=true").out
    assert "note: not compared with the full cache: out of memory; compare=false leaves it out" in said
    assert "accuracy" in said


def test_the_time_left_of_all_runs() -> None:
    """By hand: two of four took 30 s, the third has run 4 s and needs 11 s more: 15 s each, so 11 + 15 are left."""
    assert Among(3, 4, began=100.0).seconds_left(now=134.0, own=11.0) == 26.0
    assert Among(1, 3, began=0.0).seconds_left(now=10.0, own=20.0) == 20 + 2 * 30
    assert Among(1, 3).seconds_left(now=10.0, own=20.0) is None


def test_the_bar_keeps_to_a_line_of_80_columns_and_tells_its_place() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    title = "pyramidinfer + accumulated_h2o (budget.decode=128 model.path=somewhere)"
    with Progress(title, 1000, 4, console, Among(2, 14, began=0.0)) as bar:
        bar.step(3)
        bar.finish([{}])
        bar._bar.refresh()
    frames = re.split(r"\r|\n", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()))
    shown = [line for line in frames if line.strip()]
    assert shown
    assert all(len(line) <= 80 and line.startswith("[2/14] pyramidinfer") for line in shown)
    assert "1/1000 samples" in shown[-1]


def test_a_terminal_breaks_lines_between_words_and_a_file_does_not() -> None:
    line = "a line of some words that is longer than a terminal of so few columns"
    terminal, file = (Console(file=io.StringIO(), force_terminal=there, width=20) for there in (True, False))
    for console in (terminal, file):
        say(console, line)
    told = terminal.file.getvalue().splitlines()
    assert len(told) > 3
    assert [word for part in told for word in part.split()] == line.split()
    assert file.file.getvalue() == f"{line}\n"


@pytest.mark.parametrize(
    ("jobs", "threads", "cores", "at_once"),
    [(2, None, 2, None), (4, None, 2, 4), (2, 2, 2, 2), (-1, None, 8, None), (-2, 2, 4, 3), (1, 8, 8, None)],
)
def test_jobs_that_share_cores_are_told(jobs: int, threads: int | None, cores: int, at_once: int | None) -> None:
    said = crowded(jobs, threads, cores)
    assert (said is None) == (at_once is None)
    assert said is None or said.startswith(f"note: {at_once} jobs at once with {threads or 1} thread")


def test_what_wandb_keeps_offline_is_found_in_the_folders(tmp_path: Path) -> None:
    one, two, other = tmp_path / "a" / "one", tmp_path / "a" / "two", tmp_path / "b" / "none"
    for folder in (one, two):
        (folder / "wandb" / "offline-run-1-x").mkdir(parents=True)
    assert kept_offline([other]) is None
    assert kept_offline([one, other]) == f"W&B, offline: 1 run; to upload: wandb sync {one}/wandb/offline-run-*"
    assert kept_offline([one, two]).endswith(f"2 runs; to upload: wandb sync {one.parent}/*/wandb/offline-run-*")


@pytest.mark.slow
def test_a_sweep_loads_its_model_once_and_a_second_one_not_at_all(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scope.generation import models

    models.load.cache_clear()
    sweep = ["-m", "method=snapkv,h2o", *SMALL]
    scope(*sweep)
    assert models.load.cache_info().misses == 1
    scope(*sweep, "seed=1")
    assert models.load.cache_info().misses == 1
    assert models.load.cache_info().hits >= 3
