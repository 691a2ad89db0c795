"""The calibration as a picture: a panel for each of its questions, accuracy over budget with 95% intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from analysis.colours import colour
from analysis.panels import REST, apart, bars, chosen, dress, panels, style


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the PNG."""
    with style():
        figure, axes = panels(len(report["sections"]), ratio=0.95)
        for axis, (title, rows) in zip(axes, report["sections"].items(), strict=True):
            heading, _, unit = title.partition(": ")
            _lines(axis, rows)
            full = report["full"]["accuracy"]
            axis.axhline(full, color="#000000", lw=0.8, ls=":")
            axis.annotate("full cache", (0.01, full), xycoords=("axes fraction", "data"), fontsize=6, va="bottom")
            dress(axis, heading, unit, "answers right, %")
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        figure.savefig(path, metadata={"Software": None})


def _lines(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line for each method and strategy, over the budgets."""
    alone = all(row["decoding"] == "none" for row in rows)
    series: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: float(row["budget"])):
        series.setdefault((row["method"], row["decoding"]), []).append(row)
    worth = {pair: fmean(row["accuracy"] for row in line) for pair, line in series.items()}
    coloured = chosen(list(series), worth)
    for (method, decoding), line in series.items():
        values = [(row["accuracy"], row["low"], row["high"]) for row in line]
        name = method if alone else decoding if method == "full" else f"{method} + {decoding}"
        tint = colour(method if decoding == "none" else decoding)
        look = {"color": REST, "lw": 0.7, "zorder": 1, "label": "_other"}
        if (method, decoding) in coloured:
            look = {"color": tint, "label": name, **apart(coloured.index((method, decoding)))}
        bars(axis, [row["budget"] for row in line], values, **look)
    if len(coloured) < len(series):
        axis.plot([], [], color=REST, lw=0.7, label="others")
