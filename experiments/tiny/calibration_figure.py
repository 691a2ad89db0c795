"""The calibration as a picture: a panel for each of its questions, accuracy over budget with 95% bands."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.colours import colour, marker


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 8.5), layout="constrained")
    for axis, (title, rows) in zip(axes.flat, report["sections"].items(), strict=True):
        heading, _, unit = title.partition(": ")
        alone = all(row["decoding"] == "none" for row in rows)
        series: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in rows:
            series.setdefault((row["method"], row["decoding"]), []).append(row)
        for (method, decoding), line in series.items():
            line.sort(key=lambda row: row["budget"])
            budgets = [row["budget"] for row in line]
            name = method if alone else decoding if method == "full" else f"{method} + {decoding}"
            tint = colour(method if decoding == "none" else decoding)
            style = {"full": "-"}.get(method, "--") if not alone else "-"
            axis.plot(
                budgets,
                [row["accuracy"] for row in line],
                style,
                color=tint,
                marker=marker(method),
                label=name,
                ms=4,
            )
            axis.fill_between(
                budgets, [row["low"] for row in line], [row["high"] for row in line], color=tint, alpha=0.12, lw=0
            )
        axis.axhline(report["full"]["accuracy"], color="#000000", lw=0.8, ls=":")
        axis.annotate(
            "full cache",
            (0.01, report["full"]["accuracy"]),
            xycoords=("axes fraction", "data"),
            fontsize=7,
            va="bottom",
        )
        axis.set_title(heading, fontsize=10)
        axis.set_xlabel(unit)
        axis.set_ylabel("answers right, %")
        axis.set_ylim(0, 104)
        axis.grid(alpha=0.25, lw=0.5)
        axis.legend(fontsize=7, ncols=2, framealpha=0.85)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)
