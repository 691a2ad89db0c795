"""The frontier as a picture: accuracy over a sequence's bytes with 95% intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.colours import colour
from analysis.panels import REST, apart, bars, chosen, dress, panels, style
from experiments.distinct.rows import MAIN, PREFILLS, columns, matrix, size_kib

PANELS = {
    "full prompt, protected": lambda row: row["method"] == "full" and row["protect"] == "prompt",
    "full prompt, not protected": lambda row: row["method"] == "full" and row["protect"] == "nothing",
    "prompt compressed to 0.9 P, protected": lambda row: row["method"] in PREFILLS and row["label"] in SHOWN,
}
Line = tuple[str, str, int | None]  # method, strategy, and the newest slots where these are not the usual ones
SHOWN = {row.label for row in MAIN if row.protect == "prompt"}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the PNG: a panel's best lines in colour, the others in grey. The points of a size are moved apart."""
    with style():
        figure, axes = panels(len(PANELS), len(PANELS), ratio=1.35, shared=True)
        for axis, (title, belongs) in zip(axes, PANELS.items(), strict=True):
            lines: dict[Line, list[Mapping[str, Any]]] = {}
            for row in report["rows"]:
                if belongs(row):
                    lines.setdefault((row["method"], row["decoding"], row["recent"]), []).append(row)
            _panel(axis, lines)
            axis.axhline(report["full"]["accuracy"][0], color="#000000", lw=0.8, ls=":")
            dress(axis, title, "KiB of a cache (full: {:.0f})".format(report["full"]["cache_kib"]), "")
            axis.set_ylim(0, 104)
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=6)
        axes[0].set_ylabel("answers right, %")
        figure.savefig(path, metadata={"Software": None})


def _panel(axis: Any, lines: Mapping[Line, Sequence[Mapping[str, Any]]]) -> None:
    worth = {line: sum(row["accuracy"][0] for row in rows) / len(rows) for line, rows in lines.items()}
    coloured = chosen(sorted(lines, key=lambda line: -worth[line]), worth)
    for line, rows in lines.items():
        if line not in coloured:
            axis.plot([row["cache_kib"] for row in rows], [row["accuracy"][0] for row in rows], color=REST, lw=0.7)
    for place, line in enumerate(coloured):
        method, decoding, recent = line
        shift = 12 * (place / max(1, len(coloured) - 1) - 0.5)  # KiB, so that intervals do not hide each other
        values = [[float("nan") if value is None else value for value in row["accuracy"]] for row in lines[line]]
        name = decoding if method == "full" else f"{method} + {decoding}"
        label = name if recent is None else f"{name}, recent {recent}"
        places = [row["cache_kib"] + shift for row in lines[line]]
        bars(axis, places, values, color=colour(decoding), label=label, **apart(place))
    if len(coloured) < len(lines):
        axis.plot([], [], color=REST, lw=0.7, label=f"{len(lines) - len(coloured)} others")


def draw_crossed(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG with a map for each size, below each other: prefill methods by strategies, darker is better."""
    sizes = report["sizes"]
    with style():
        figure, axes = panels(len(sizes), 1, ratio=0.36, shared=True)
        for axis, size in zip(axes, sizes, strict=True):
            found = matrix(report["rows"], size)
            strategies = columns(found)
            values = [
                [row[name]["accuracy"][0] if name in row else float("nan") for name in strategies]
                for row in found.values()
            ]
            axis.imshow(values, cmap="cividis_r", vmin=0, vmax=100, aspect="auto")
            for y, row in enumerate(values):
                for x, value in enumerate(row):
                    text = "-" if value != value else f"{value:.0f}"
                    shade = "white" if value > 55 else "black"
                    axis.text(x, y, text, ha="center", va="center", fontsize=6, color=shade)
            axis.set_xticks(range(len(strategies)), strategies, rotation=40, ha="right")
            axis.set_yticks(range(len(found)), list(found))
            dress(axis, f"{size_kib(report['rows'])[size]:.0f} KiB a sequence: answers right, %", "", "")
            axis.grid(False)
        figure.savefig(path, metadata={"Software": None})
