"""The table of columns: one new entry shows up everywhere, with its interval, its ties and what it loses."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.sweeps import sample, write_run, write_sweep
from rich.console import Console
from scipy import stats

from analysis import figures, report, tables
from analysis.columns import COLUMNS, Column, Place, Statistic, columns_for
from analysis.dashboard import spec, workspace
from analysis.frame import build, of_runs
from analysis.records import Sample, read_runs
from analysis.sheets import NOTHING, Cells
from analysis.statistics import cautious, mean_by_prompt, tied_with_best
from scope.util.errors import ScopeError

DIVERGENCE = {"full": [0.0] * 14, "near": [0.2, 1.5, 2.5] * 4 + [0.4, 1.6], "far": [3.0, 4.5, 9.0] * 4 + [3.5, 4.0]}


def divergences(samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """A made-up measure that has no upper bound, in nats: it is hidden in the bytes of the cache."""
    return {s.prompt: (s.cache_bytes / 1000, 1) for s in samples}


KL = Column(
    "kl",
    "kl",
    "nats",
    digits=3,
    scores=divergences,
    statistic=Statistic.MEAN,
    larger_is_better=False,
    most=float("inf"),
    shown_in=frozenset({Place.QUALITY, Place.PAGE, Place.FRONTIER, Place.PAPER, Place.PAPER_CSV}),
    about="divergence from the uncompressed model, in nats; smaller is better",
    tracked="kl",
)
LOST = replace(KL, name="kl_gained", title="kl gained", statistic=Statistic.LOSS, shown_in=frozenset({Place.QUALITY}))
LONGEST = Column(
    "longest",
    "longest\nanswer",
    "tokens",
    digits=0,
    value=lambda context: max(s.generated_tokens for s in context.run.samples),
    shown_in=frozenset({Place.COST, Place.PAGE}),
)
TABLE = (*COLUMNS, KL, LOST, LONGEST)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for position, (name, values) in enumerate(DIVERGENCE.items()):
        records = [sample(k, cache_bytes=round(1000 * value)) for k, value in enumerate(values)]
        full = {"method": "full", "decoding": "none", "budgets": (None, None)}
        write_run(tmp_path / "sweep", name, records, created=position, **(full if name == "full" else {"method": name}))
    return tmp_path / "sweep"


def expected_interval(values: Sequence[float]) -> tuple[float, float]:
    """Hesterberg's expanded percentile interval, with many resamples of its own."""
    n = len(values)
    level = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    means = np.random.default_rng(3).choice(values, (100_000, n)).mean(1)
    low, high = np.quantile(means, [level, 1 - level])
    return float(low), float(high)


def test_a_new_column_is_one_entry_and_shows_up_everywhere(sweep: Path, tmp_path: Path) -> None:
    runs = read_runs([sweep])
    frame = build(sweep, TABLE)
    rows = {row["run"]: row for row in frame.to_dict("records")}
    for name, values in DIVERGENCE.items():
        assert rows[name]["kl"] == pytest.approx(sum(values) / len(values))
        assert rows[name]["longest"] == 200 + 10 * 13
        if name != "full":
            bounds = rows[name]["kl_low"], rows[name]["kl_high"]
            assert bounds == pytest.approx(expected_interval(values), rel=0.1)
            assert rows[name]["kl_gained"] == pytest.approx(rows[name]["kl"])  # more is worse, and full has none
            assert rows[name]["kl_gained_low"] < rows[name]["kl_gained"] < rows[name]["kl_gained_high"]
    assert [rows[name]["kl_best"] for name in DIVERGENCE] == [False, True, False]

    near = rows["near"]
    text = f"{near['kl']:.3f} [{near['kl_low']:.3f}, {near['kl_high']:.3f}]"
    console = Console(file=io.StringIO(), width=400)
    tables.show(frame, console)
    tables.explain(frame, console)
    shown = console.file.getvalue()
    assert text in shown
    assert "kl nats: divergence from the uncompressed model" in shown
    out = tmp_path / "out"
    tables.write(frame, out)
    assert {"kl", "kl_low", "kl_high", "kl_best", "longest"} <= set(next(csv.reader((out / "table.csv").open())))
    markdown, tex = (out / "table.md").read_text(), (out / "table.tex").read_text()
    assert f"**{text}**" in markdown
    assert "kl nats [95% interval] |" in markdown
    assert "longest answer tokens |" in markdown
    assert f"\\bfseries {near['kl']:.3f} & {{[{near['kl_low']:.3f}, {near['kl_high']:.3f}]}}" in tex
    assert "\\multicolumn{2}{c}{kl nats}" in tex

    data = json.loads(report.page(runs, frame).partition('id="data">')[2].partition("</script>")[0])
    (column,) = [column for column in data["columns"] if column["key"] == "kl"]
    assert column == {
        "heading": "kl nats",
        "key": "kl",
        "digits": 3,
        "bounds": ["kl_low", "kl_high"],
        "best": "kl_best",
    }
    made, cells = tables.PRESETS["table1_4k"](runs, frame)
    assert set(cells["kl"]) == {row["kl"] for row in rows.values()}
    assert "kl nats\n[95% interval]" not in made[0].columns
    assert f"{near['kl']:.3f}" in made[0].columns["kl\nnats"].texts()


def test_a_new_score_has_its_figure_and_its_panels(sweep: Path) -> None:
    pytest.importorskip("matplotlib")
    frame = build(sweep, TABLE)
    axis = figures.frontier(read_runs([sweep]), frame, KL).axes[0]
    assert axis.get_ylabel() == "kl nats"
    front = list(zip(axis.lines[-1].get_xdata(), axis.lines[-1].get_ydata(), strict=True))
    assert [y for _, y in front] == [0.0]  # less is better: the smallest cache is also the best here
    pytest.importorskip("wandb_workspaces")
    asked = spec(workspace("me", "scope", [], "x", columns_for([], TABLE)))
    assert "summary:kl" in asked or "summary_metrics.kl" in asked


def test_the_frame_says_which_columns_it_has(sweep: Path) -> None:
    """Without the new entry nothing of it is there, in a frame of the same records."""
    plain, more = of_runs(read_runs([sweep])), build(sweep, TABLE)
    assert not {"kl", "longest"} & set(plain)
    added = {*KL.names, *LOST.names, *LONGEST.names}
    assert set(more) - set(plain) == added
    assert plain.equals(more[list(plain)])


def test_the_column_of_the_readme_is_a_column(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "analysis" / "README.md").read_text()
    given: dict[str, Any] = {}
    exec(readme.partition("```python\n")[2].partition("```")[0], given)
    write_run(tmp_path, "run", [sample(k) for k in range(3)])
    frame = build(tmp_path, given["table"])
    assert frame["mean_tokens"][0] == pytest.approx((200 + 210 + 220) / 3)
    tables.write(frame, tmp_path / "out")
    assert "length tokens [95% interval]" in (tmp_path / "out" / "table.md").read_text()


def test_a_smaller_score_may_be_the_better_one() -> None:
    few, many = ({n: (value + n / 10, 1.0) for n in range(14)} for value in (0.1, 3.0))
    assert tied_with_best([many, few]) == [True, False]
    assert tied_with_best([many, few], larger_is_better=False) == [False, True]


def test_a_score_without_a_bound_is_not_cut() -> None:
    differences = [5.0, 90.0, 40.0]
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    found = mean_by_prompt(differences, most=float("inf"))
    assert (found.low, found.high) == pytest.approx((low, high))
    alike = mean_by_prompt([2.0, 2.0], most=float("inf"))
    assert cautious(alike, 2, most=float("inf"))[1:] == (-float("inf"), float("inf"))
    assert cautious(mean_by_prompt([2.0, 2.0], most=4.0), 2, most=4.0).low == pytest.approx(2 - (1 - 0.05**0.5) * 6)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"value": len, "scores": divergences, "statistic": Statistic.MEAN},
        {"scores": divergences},
        {"value": len, "statistic": Statistic.SHARE},
    ],
)
def test_a_column_has_one_source(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="column x: give one of value, scores and across"):
        Column("x", **given)


@pytest.mark.parametrize("name", ["slots", "accuracy_low_percent", "best", "released_missing_percent"])
def test_two_columns_of_one_name_are_refused(name: str, tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep")
    with pytest.raises(ScopeError, match=f"^columns: {name} is there twice$"):
        build(tmp_path / "sweep", (*COLUMNS, replace(LONGEST, name=name)))


def test_cells_become_text_in_the_last_step() -> None:
    nan = float("nan")
    cells = Cells([0.25, -0.04, None, nan], digits=1, bounds=[(-1, 1), (nan, nan), (1, 2), (nan, nan)], marks=["*"] * 4)
    assert cells.texts() == ["0.2* [-1.0, 1.0]", "0.0*", NOTHING, NOTHING]
    assert Cells([0.05, -2.0], "significant", signed=False).texts() == ["0.050", "-2.0"]
    assert Cells([0.04, 3.0, -3.0], signed=True).texts() == ["+0.0", "+3.0", "-3.0"]
    assert Cells(["46.5 [38.1, 55.2]"]).are_words  # a word that looks like a figure stays a word
