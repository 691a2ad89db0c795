"""The results as pictures: KL against bytes, and what protection of the prompt does; a panel for each workload."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.colours import colour, marker
from analysis.panels import dress, logarithmic, panels
from experiments.frontier.rows import POLICIES, QUANTISED, SHARES, Row, Workload
from experiments.real.picture import MODELS
from experiments.results import Result

DRAWN = (
    "slide, protected",
    "distinct, protected",
    "salient",
    "snapkv_d",
    "distinct",
    "raas",
)  # the rest is grey
GREY = "0.75"
TWINS = {"slide, protected": "h2o", "distinct, protected": "distinct"}  # protected -> the same score, unprotected
X, Y = "bytes, % of the full cache in 16 bits", "KL from the full cache, nats a token"
Results = Mapping[Row, Result[Row]]


def draw(found: Mapping[Workload, Results], folder: Path) -> None:
    """Write `frontier.png` and `protection.png`."""
    _each(
        found,
        folder / "frontier.png",
        _frontier,
        "dashed: the prompt is protected; grey: other rows; +: the full cache, rounded",
    )
    _each(found, folder / "protection.png", _protection, "filled: the prompt is protected; hollow: it is not")


def _each(found: Mapping[Workload, Results], path: Path, one: Any, title: str) -> None:
    columns = min(3, len(found))
    figure, axes = panels(len(found), (3.6, 3.2), columns)
    for axis, (workload, results) in zip(axes, found.items(), strict=True):
        one(axis, results, axis is axes[0])
        dress(axis, f"{MODELS[workload.model]}, {workload.task}", X, Y)
        axis.margins(x=0.12)
        logarithmic(axis)
    figure.legend(loc="outside lower center", ncols=max(2, 2 * columns - 2), fontsize=8, title=title)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _frontier(axis: Any, results: Results, labelled: bool) -> None:
    for name in sorted(POLICIES, key=lambda name: name in DRAWN):  # grey lines lie below
        drawn = name in DRAWN
        look = {"ls": "--" if POLICIES[name].protect == "prompt" else "-"} if drawn else {"color": GREY, "marker": ""}
        _line(axis, results, name, name if drawn and labelled else None, look)
    for precision, mark in (("int8", "s"), ("int4", "D")):
        look = {"ls": ":", "marker": mark, "mfc": "white"}
        _line(axis, results, "salient", f"salient, {precision}" if labelled else None, look, precision)
    for row in QUANTISED:
        if row in results:
            at = (100 * row.share, results[row].mean("kl").estimate)
            axis.plot(*at, "k+", ms=8)
            axis.annotate(row.precision, at, fontsize=7, xytext=(3, 3), textcoords="offset points")


def _protection(axis: Any, results: Results, labelled: bool) -> None:
    for protected, free in TWINS.items():
        name = protected.partition(",")[0]
        _line(axis, results, protected, protected if labelled else None, {})
        label = f"{free}, unprotected" if labelled else None
        _line(axis, results, free, label, {"color": colour(name), "mfc": "white", "ls": "--", "marker": marker(name)})


def _line(
    axis: Any, results: Results, name: str, label: str | None, look: Mapping[str, Any], precision: str = "float"
) -> None:
    """One policy over the shares, with thin bars for the 95% intervals."""
    there = [row for share in sorted(SHARES) if (row := Row(name, share, precision)) in results]
    means = [results[row].mean("kl") for row in there]
    bars = [[m.estimate - m.low for m in means], [m.high - m.estimate for m in means]]
    style = {"color": colour(name.partition(",")[0]), "marker": marker(name.partition(",")[0])} | dict(look)
    x, y = [100 * row.share for row in there], [m.estimate for m in means]
    axis.errorbar(
        x, y, yerr=None if style["color"] == GREY else bars, ms=5, lw=1.3, elinewidth=0.6, label=label, **style
    )
