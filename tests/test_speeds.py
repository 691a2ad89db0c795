"""Speeds: how they are written, when they may be held against each other, and what a busy machine does."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from analysis import report, tables
from analysis.frame import build
from analysis.records import read_runs
from analysis.speeds import SPEED_COLUMNS
from scope.records.lines import seal
from scope.runs.summary import headline
from scope.util.speeds import CpuWait, written

DAGGER = "†"
HARDWARE = {"machine": "x86_64", "cores": 2, "threads": 2, "gpu": None}


def write_run(sweep: Path, method: str, decoding: str = "slide", seconds: float = 2.0, **changed: Any) -> None:
    """A run of two batches of two rows; `changed` in every record, or in the one of that batch where it is a list."""
    folder = sweep / f"{method}-{decoding}"
    folder.mkdir(parents=True)
    full = method == "full"
    manifest = {
        "identity": "0" * 64,
        "experiment": sweep.name,
        "run": folder.name,
        "created": "2026-01-01T00:00:00+00:00",
        "commit": None,
        "seed": 0,
        "labels": {"model": "embedded", "task": "arithmetic", "method": method, "decoding": decoding},
        "settings": {
            "model": {},
            "task": {},
            "method": {"type": method} | ({} if full else {"budget": 40}),
            "decoding": {"type": decoding} | ({} if decoding == "none" else {"budget": 32}),
        },
        "samples": 4,
        "hardware": HARDWARE,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = []
    for n in range(4):
        mine = {key: value[n // 2] if isinstance(value, list) else value for key, value in changed.items()}
        line = {
            "sample": f"s{n}",
            "status": "ok",
            "prompt_tokens": 30,
            "generated_tokens": 10,
            "finish": "eos",
            "generation": "text",
            "questions": [],
            "batch": f"b{n // 2}",
            "batch_rows": 2,
            "batch_seconds": seconds * (1 + n % 2) * (1 + n // 2),
            "prefill_seconds": 0.1,
            "decode_seconds": 1.0,
            "tokens_per_second": 9.0,
            "cache_bytes": 1000,
            "full_cache_bytes": 2000,
            "slots_kept": [20],
            "prefill_kept": [20],
            "prefill_evicted": 10,
            "decode_evicted": 9,
            "engine": "eager",
            "device": "cpu",
            "threads": 2,
            "cpu_wait": 0.01,
        } | mine
        told = {key: value for key, value in line.items() if value is not ...}
        lines.append(seal(told, manifest["identity"]).decode())
    (folder / "records.jsonl").write_text("".join(lines))


def sweep_with(folder: Path, **changed: Any) -> Path:
    """Four rows alike, and one of full + none that was measured otherwise."""
    for method, decoding in (("snapkv", "slide"), ("snapkv", "none"), ("h2o", "slide"), ("h2o", "none")):
        write_run(folder, method, decoding)
    write_run(folder, "full", "none", **changed)
    return folder


def shown(frame: pd.DataFrame, width: int = 400) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    tables.show(frame, console)
    return console.export_text()


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "engine": ({"engine": "compile"}, "engine compile, not eager"),
    "engine of one batch": ({"engine": ["eager", "graph"]}, "engine eager and graph, not eager"),
    "device": ({"device": "cuda"}, "on cuda, not cpu (x86_64, 2 cores)"),
    "threads": ({"threads": 1}, "threads 1, not 2"),
    "rows": ({"batch_rows": 8}, "rows in a batch 8, not 2"),
    "rows of one batch": ({"batch_rows": [2, 1]}, "rows in a batch 1 and 2, not 2"),
    "load": ({"cpu_wait": 0.45}, "on a busy machine"),
    "load of the longer batch": ({"cpu_wait": [0.0, 0.2]}, "on a busy machine"),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_a_speed_that_was_measured_otherwise_is_marked_everywhere(tmp_path: Path, kind: str) -> None:
    changed, reason = DIFFERENT[kind]
    folder = sweep_with(tmp_path / "sweep", **changed)
    frame = build(folder)
    assert dict(zip(frame["method"] + "-" + frame["decoding"], frame["speed_differs"], strict=True)) == {
        "full-none": reason,
        **dict.fromkeys(("snapkv-none", "snapkv-slide", "h2o-none", "h2o-slide"), ""),
    }
    said = f"{DAGGER} tokens/s do not compare: {reason} (full + none)."
    assert said in shown(frame)
    assert shown(frame).count(f"3.3{DAGGER}") == 1
    tables.write(frame, tmp_path / "out")
    markdown, tex = ((tmp_path / "out" / f"table.{kind}").read_text() for kind in ("md", "tex"))
    assert said in markdown
    assert markdown.count(f"3.3{DAGGER}") == 1
    assert "textdagger" in tex.partition("tokens/s do not compare")[0].rpartition("bottomrule")[0]
    assert "tokens/s do not compare" in tex
    assert DAGGER not in tex
    csv = pd.read_csv(tmp_path / "out" / "table.csv", keep_default_na=False)
    assert [column for column in SPEED_COLUMNS if column not in csv] == []
    assert csv["speed_differs"].iloc[0] == reason
    page = report.page(read_runs([folder]), frame)
    assert reason in page
    made, _ = tables.write_preset(read_runs([folder]), "table3", tmp_path / "paper")
    assert said in made[0].remarks
    assert [DAGGER in cell for cell in made[0].columns["tokens/s\nours"].texts()] == [True, False, False, False, False]


def test_speeds_that_compare_have_no_mark(tmp_path: Path) -> None:
    frame = build(sweep_with(tmp_path / "sweep", cpu_wait=0.05))
    assert set(frame["speed_differs"]) == {""}
    tables.write(frame, tmp_path)
    for text in (shown(frame), *((tmp_path / f"table.{kind}").read_text() for kind in ("md", "tex"))):
        assert not re.search(f"{DAGGER}|dagger|do not compare", text)


def test_older_records_say_nothing_and_are_not_marked(tmp_path: Path) -> None:
    frame = build(sweep_with(tmp_path / "sweep", engine=..., device=..., threads=..., cpu_wait=...))
    assert set(frame["speed_differs"]) == {""}
    row = frame.iloc[0]
    assert (row["engine"], row["device"], row["threads"]) == ("eager", "cpu (x86_64, 2 cores)", "2")
    assert pd.isna(row["cpu_wait_percent"])


def test_a_machine_that_was_busy_all_along_is_said_of_all_rows(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep", "snapkv", cpu_wait=0.3)
    write_run(tmp_path / "sweep", "h2o", cpu_wait=[0.2, 0.8])
    frame = build(tmp_path / "sweep")
    assert "on a busy machine (all rows)" in shown(frame)
    by_method = frame.set_index("method")["cpu_wait_percent"]
    assert by_method["h2o"] == pytest.approx(100 * (4 * 0.2 + 8 * 0.8) / 12)  # a batch counts by its seconds
    assert by_method["snapkv"] == pytest.approx(30)


def test_rows_of_another_task_are_not_held_against_these(tmp_path: Path) -> None:
    sweep_with(tmp_path / "sweep")
    manifest = next((tmp_path / "sweep").glob("full-none/manifest.json"))
    manifest.write_text(manifest.read_text().replace('"arithmetic"', '"other"'))
    records = manifest.with_name("records.jsonl")
    records.write_text(records.read_text().replace('"batch_rows": 2', '"batch_rows": 1'))
    assert set(build(tmp_path / "sweep")["speed_differs"]) == {""}


def test_a_very_slow_speed_is_not_nought_anywhere(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep", "snapkv", seconds=100.0)  # 40 tokens in 600 s
    frame = build(tmp_path / "sweep")
    assert "0.067" in shown(frame)
    tables.write(frame, tmp_path)
    assert all("0.067" in (tmp_path / f"table.{kind}").read_text() for kind in ("md", "tex"))
    lines = [json.loads(text) for text in next(tmp_path.glob("sweep/*/records.jsonl")).read_text().splitlines()]
    assert headline([line | {"prompt": line["sample"]} for line in lines]).endswith(" 0.067 tokens/s")


@pytest.mark.parametrize(
    ("speed", "text"),
    [
        (0.4, "0.40"),
        (0.44, "0.44"),
        (0.0512, "0.051"),
        (0.00099, "0.00099"),
        (1.0, "1.0"),
        (9.96, "10.0"),
        (12.34, "12.3"),
        (1234.56, "1234.6"),
        (0.0, "0.0"),
    ],
)
def test_a_speed_has_one_decimal_and_two_significant_digits_at_least(speed: float, text: str) -> None:
    assert written(speed) == text
    assert float(text) == pytest.approx(speed, rel=0.05, abs=1e-9)


def work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not count waiting")
def test_waiting_for_a_processor_is_seen() -> None:
    """Beside four other processes on the one processor that all may use; and of a part of the time only."""
    here = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(here)})
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        time.sleep(0.3)
        wait = CpuWait()
        work(0.3)
        share = wait.share()
    finally:
        for process in busy:
            process.kill()
            process.wait()
        os.sched_setaffinity(0, here)
    assert share is not None
    assert 0.5 < share < 1


def test_a_system_that_does_not_count_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("scope.util.speeds.TASKS", tmp_path / "nothing")
    assert CpuWait().share() is None
