"""Where compression begins to pay, and what is to be shown on a GPU: cells, reports, exit codes, a rehearsal."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from experiments.benchmarks import crossover, equal, gpu
from experiments.benchmarks.crossover import Cell, Grid
from experiments.benchmarks.equal import Check
from experiments.benchmarks.timing import Target
from scope.cache import sizes
from scope.cache.slots import Slots
from scope.generation.models import ModelSource, RandomModel
from scope.generation.options import Options

ROOT = Path(__file__).parents[1]
SMALL = RandomModel(hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, device="cpu")
GRID = Grid("a small Llama", SMALL, "eager", (1, 2), (96, 128), (0.75, 0.5), most=200)


def test_cells_of_the_crossover_and_no_more_than_asked_for(tmp_path: Path) -> None:
    cells = [one for some in crossover.measured(GRID) for one in some]
    assert [(one.length, one.rows) for one in cells[::2]] == [(96, 1), (96, 2), (128, 1)]
    assert all(one.speed and one.memory and one.ms and one.full_ms for one in cells)
    held = sizes.cache_bytes(SMALL.config(), crossover.policy_of(128, 0.5), "float32", 128, crossover.D + 1)
    full = sizes.full_bytes(SMALL.config(), "float32", 128)
    weights = sum(parameter.nbytes for parameter in SMALL.weights("sdpa").parameters())
    assert cells[-1].bound == pytest.approx((weights + full) / (weights + held))
    assert full / 2 < held + full / 128
    around = {"processor": "p", "created": "2026-01-01", "versions": {"torch": "2"}}
    crossover.write(tmp_path / "found", "about.", cells, around)
    assert json.loads((tmp_path / "found.json").read_text())["cells"] == [asdict(one) for one in cells]
    assert "| 128 | 1 |" in (tmp_path / "found.md").read_text()


def test_from_how_many_rows_on_it_pays() -> None:
    speeds = {1: 0.9, 4: 1.04, 16: 1.2, 32: None}
    cells = [Cell(512, rows, 0.5, speed, 1.0, 1.0, 1.0, 1.0) for rows, speed in speeds.items()]
    assert crossover.begins(cells) == ["512 tokens, 0.5 of the slots: pays from 16 rows on"]
    assert crossover.begins(cells[:2])[0].endswith("does not pay at any number of rows that was measured")
    assert "does not fit" in crossover.table(cells)


def test_a_run_that_is_out_of_time_keeps_what_it_has(tmp_path: Path) -> None:
    def check(report: gpu.Report) -> Iterator[None]:
        for name in ("a", "b"):
            report.checks.append(Check(name, True))
            yield

    report = gpu.Report({"processor": "p", "created": "2026-01-01", "versions": {"torch": "2"}})
    gpu.run({"equal": check, "more": check}, report, tmp_path / "gpu", deadline=0.0)
    assert [found.name for found in report.checks] == ["a"]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["left"] == ["equal", "more"]
    assert found["checks"][0] == {"name": "a", "equal": True, "detail": ""}
    assert "Not run, or not to its end: equal, more." in (tmp_path / "gpu.md").read_text()


def test_what_is_not_equal_ends_with_1_and_what_is_slow_does_not() -> None:
    report = gpu.Report({}, targets=[Target("slow", 1.0, 2.0, at_most=False)])
    assert not report.equal  # nothing was compared
    report.checks = [Check("a", True), Check("b", None)]
    assert report.equal
    report.checks.append(Check("c", False))
    assert not report.equal


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2
    assert "--rehearse" in capsys.readouterr().err


@pytest.mark.slow
def test_a_fault_in_the_slots_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check has to fail where what it compares differs."""

    def evict(self: Slots, scores: torch.Tensor | None) -> None:
        return honest(self, None if scores is None else -scores)

    honest = Slots.evict
    source = ModelSource(path="embedded", device="cpu", dtype="float32")
    assert equal._storages(source, "snapkv + slide")[0]
    plain = equal._written(source, equal._prompts(source), "snapkv + slide", Options())
    monkeypatch.setattr(Slots, "evict", evict)
    wrong = equal._written(source, equal._prompts(source), "snapkv + slide", Options())
    assert not equal._alike(plain, wrong)[0]


@pytest.mark.slow
def test_all_of_it_is_rehearsed_with_no_more_than_torch_and_transformers(tmp_path: Path) -> None:
    absent = ["hydra", "omegaconf", "wandb", "pandas", "pydantic", "scipy", "matplotlib", "platformdirs", "triton"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}));"
        f"sys.argv = ['gpu', '--rehearse', '--out', '{tmp_path}'];"
        "from experiments.benchmarks import gpu; sys.exit(gpu.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "rehearsal.json").read_text())
    assert found["left"] == []
    assert {check["equal"] for check in found["checks"]} == {True, None}
    assert len(found["pools"]) == 2
    assert all(pool["ratio"] for pool in found["pools"])
    assert found["cells"]
    assert found["targets"][0]["name"] == "tokens/s at batch 1"
