"""The numbers that READMEs show are those of the result files beside the code that measured them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments import overview
from experiments.frontier.report import everything
from experiments.measure import measure

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"


def text(name: str) -> str:
    return (ROOT / name).read_text()


def result(name: str) -> Any:
    return json.loads((EXPERIMENTS / name).read_bytes())


def shown(estimate: float, low: float, high: float) -> str:
    return f"{estimate:.1f} [{low:.1f}, {high:.1f}]"


def row(readme: str, start: str) -> str:
    """The one line of a table that begins so."""
    (line,) = (line for line in text(readme).splitlines() if line.startswith(f"| {start}"))
    return line


def frontier_rows(name: str = "distinct/frontier.json") -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["label"], row["size"]): row for row in result(name)["rows"]}


def test_where_to_save_is_what_the_calibration_measured() -> None:
    cells = {
        (line["method"] if line["decoding"] == "none" else "slide", line["budget"]): line
        for line in result("tiny/calibration.json")["sections"][overview.SAVED]
    }
    for slots in (64, 128, 256):
        found = [cells[name, slots] for name in ("h2o", "snapkv", "slide")]
        expected = [shown(cell["accuracy"], cell["low"], cell["high"]) for cell in found]
        assert f"| {slots} | {' | '.join(expected)} |" in text("experiments/tiny/README.md").splitlines()
    h2o, slide = (cells[name, 256] for name in ("h2o", "slide"))
    line = row("README.md", "256 fewer slots")
    for cell in (h2o, slide):
        assert shown(cell["accuracy"], cell["low"], cell["high"]).replace(" [", "% [") in line


def test_rounding_against_dropping_is_what_the_frontier_measured() -> None:
    line = row("README.md", "rounding against dropping")
    for workload, results in everything().items():
        if workload.name in ("smollm2_text", "smollm2_recall"):
            best = min(
                (
                    result.mean("kl")
                    for half, result in results.items()
                    if half.share == 0.5 and half.precision == "float"
                ),
                key=lambda kl: kl.estimate,
            )
            (rounded,) = (result.mean("kl") for whole, result in results.items() if whole.precision == "k8v4")
            both = ("{:.3f} [{:.3f}, {:.3f}]".format(*kl) for kl in (rounded, best))
            assert f"{' against '.join(both)} " in line


@pytest.mark.parametrize(
    ("start", "label", "file"),
    [
        ("full + distinct, recent 26 |", "full + distinct, recent 26", "frontier"),
        ("full + morphkv", "full + morphkv", "frontier"),
        ("full + accumulated_h2o", "full + accumulated_h2o", "frontier"),
        ("full + vase", "full + vase", "frontier"),
        ("full + tova", "full + tova", "frontier"),
        ("full + slide", "full + slide", "frontier"),
        ("prompt unprotected: distinct", "full + distinct, recent 26, prompt unprotected", "frontier"),
        ("prompt unprotected: h2o", "full + h2o, prompt unprotected", "frontier"),
        ("full + distinct, recent 26 |", "full + distinct, recent 26", "long"),
        ("full + recent |", "full + recent", "long"),
        ("distinct, C = 0.9 P + distinct, recent 26 |", "distinct + distinct, recent 26", "long"),
    ],
)
def test_a_row_of_the_frontier_is_the_result_files(start: str, label: str, file: str) -> None:
    rows = frontier_rows(f"distinct/{file}.json")
    expected = [f"{rows[label, size]['accuracy'][0]:.1f}" for size in (36, 64, 128)]
    lines = [line for line in text("experiments/distinct/README.md").splitlines() if line.startswith(f"| {start}")]
    cells = [[cell.strip(" *") for cell in line.split("|")[2:5]] for line in lines]
    assert expected in cells


def test_the_benchmarks_table_is_the_result_files() -> None:
    table = text("experiments/benchmarks/README.md").partition("| measured |")[2].partition("\n\n")[0]
    cells = [line.split("|")[2].strip() for line in table.splitlines()[2:]]
    shown_values = [float(value) for cell in cells for value in cell.split(";")]
    targets = result("benchmarks/results/cpu.json")["targets"]
    assert len(shown_values) == len(targets)
    decimals = [len(value.strip().partition(".")[2]) for cell in cells for value in cell.split(";")]
    assert shown_values == [round(target["measured"], n) for target, n in zip(targets, decimals, strict=True)]
    short = [line for line in table.splitlines() if line.rstrip(" |").endswith("short")]
    assert len(short) == sum(not target["ok"] for target in targets)
    compiled, ours = (f"{target['measured']:.2f}" for target in targets[:2])
    assert re.search(rf"\| {compiled} of the time \({ours} of ", text("README.md"))


def test_the_picture_shows_the_two_result_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    calibration, frontier = result("tiny/calibration.json"), result("distinct/frontier.json")
    saved, kept = overview.saved(calibration), overview.kept(frontier)
    assert [[point[0] for point in points] for points in saved.values()] == [[64, 128, 256]] * 3
    assert [len(points) for points in kept.values()] == [3] * 5
    rows = frontier_rows()
    assert [point[1] for point in kept["full + slide"]] == [
        rows["full + slide", size]["accuracy"][0] for size in (36, 64, 128)
    ]
    overview.draw(calibration, frontier, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_demo_prints_what_the_readme_shows(tmp_path: Path) -> None:
    """The first row of its grid; another processor may round an answer or two otherwise."""
    lines = [line.split() for line in text("README.md").splitlines() if line.startswith("    ")]
    (heads,) = (words[1:] for words in lines if words[:1] == ["method"])
    (cells,) = (words[1:] for words in lines if words[:1] == ["full"])
    for strategy, cell in zip(heads, cells, strict=True):
        found = measure(["method=full", f"decoding={strategy}"], tmp_path / "demo")
        assert 100 * found.accuracy.estimate == pytest.approx(float(cell), abs=2), strategy
