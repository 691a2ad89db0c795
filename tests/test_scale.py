"""200 runs of 60 prompts: their table in under 10 seconds and 1 GB, and twice the runs for about twice the work."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.sweeps import sample, write_run

ROOT = Path(__file__).parents[1]
METHODS, STRATEGIES = ("full", "h2o", "snapkv", "streamingllm"), ("none", "slide", "adaptive", "h2o", "discontinuous")
MEASURE = """
import cProfile, json, sys, time
from pathlib import Path
counted = cProfile.Profile() if sys.argv[1] == "count" else None
from analysis.frame import of_runs
from analysis.records import read_runs
from analysis.tables import PRESETS, write
loaded = time.process_time()
if counted:
    counted.enable()
runs = read_runs([Path(folder) for folder in sys.argv[3:]])
frame = of_runs(runs)
seconds = time.process_time() - loaded
write(frame, sys.argv[2])
for preset in PRESETS.values():
    preset(runs, frame)
calls = sum(entry.callcount for entry in counted.getstats()) if counted else 0
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])  # rusage has the parent's too
print(json.dumps([len(frame), seconds, calls, peak]))
"""


def write_runs(folder: Path, count: int) -> None:
    """Runs that differ in method, strategy or budgets, of 60 prompts with 30 questions and some 7 KB of text each."""
    random = np.random.default_rng(count)
    for run in range(count):
        method, strategy, budget = METHODS[run % 4], STRATEGIES[run // 4 % 5], run // 20
        records = [
            sample(k, (random.random(30) < random.beta(4, 2)).tolist(), trace=f"{run}", generation="word " * 1500)
            for k in range(60)
        ]
        budgets = (None if method == "full" else 0.5 + budget / 100, None if strategy == "none" else 64 + budget)
        write_run(folder, f"run{run:03}", records, method=method, decoding=strategy, budgets=budgets, created=run % 60)


def measured(way: str, *folders: Path) -> tuple[int, float, int, int]:
    """-> rows, CPU seconds to aggregate, calls of functions for that and all tables, KiB at the most.

    `way`: `count` calls, which takes longer, or do `not`.
    """
    command = [sys.executable, "-c", MEASURE, way, str(folders[0].parent / "out"), *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    rows, seconds, calls, peak = json.loads(done.stdout)
    return rows, seconds, calls, peak


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_two_hundred_runs_aggregate_in_seconds(tmp_path: Path) -> None:
    parts = [tmp_path / "first", tmp_path / "second"]
    for part in parts:
        write_runs(part, 100)
    rows, seconds, _, peak = measured("not", *parts)
    assert rows == 200
    assert seconds < 10
    assert peak < 2**20  # KiB
    half, whole = measured("count", parts[0]), measured("count", *parts)
    assert whole[2] < 3 * half[2]  # what grows with the square of the runs would make it 4
