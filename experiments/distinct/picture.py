"""The frontier as a picture: accuracy over a sequence's bytes with 95% intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.colours import colour, marker
from experiments.distinct.rows import MAIN, PREFILLS, columns, matrix, size_kib

PANELS = {
    "full prompt, protected": lambda row: row["method"] == "full" and row["protect"] == "prompt",
    "full prompt, not protected": lambda row: row["method"] == "full" and row["protect"] == "nothing",
    "prompt compressed to 0.9 P, protected": lambda row: row["method"] in PREFILLS and row["label"] in SHOWN,
}
SHOWN = {row.label for row in MAIN if row.protect == "prompt"}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the PNG."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 7.5), layout="constrained", sharex=True, sharey=True)
    for axis, (title, belongs) in zip(axes, PANELS.items(), strict=True):
        lines: dict[tuple[str, str, int | None], list[Mapping[str, Any]]] = {}
        for row in report["rows"]:
            if belongs(row):
                lines.setdefault((row["method"], row["decoding"], row["recent"]), []).append(row)
        for place, ((method, decoding, recent), rows) in enumerate(
            sorted(lines.items(), key=lambda item: -item[1][-1]["accuracy"][0])
        ):
            shift = 12 * (place / max(1, len(lines) - 1) - 0.5)  # KiB, so that intervals do not hide each other
            centres = [row["accuracy"][0] for row in rows]
            name = decoding if method == "full" else f"{method} + {decoding}"
            axis.errorbar(
                [row["cache_kib"] + shift for row in rows],
                centres,
                [[_reach(row["accuracy"], i) for row in rows] for i in (1, 2)],
                color=colour(decoding),
                marker=marker(method) if method != "full" else "o" if recent is None else "*",
                ls="-" if recent is None else "--",
                ms=4 if recent is None or method != "full" else 8,
                lw=1.2,
                elinewidth=0.6,
                label=name if recent is None else f"{name}, recent {recent}",
            )
        axis.axhline(report["full"]["accuracy"][0], color="#000000", lw=0.8, ls=":")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(
            "KiB of a sequence's cache (full: {:.0f}); a size's points are spread".format(report["full"]["cache_kib"]),
            fontsize=8,
        )
        axis.set_ylim(0, 104)
        axis.grid(alpha=0.25, lw=0.5)
        if lines:
            axis.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    axes[0].set_ylabel("answers right, %")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def draw_crossed(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG with a map for each size, below each other: prefill methods by strategies, darker is better."""
    plt = _pyplot()
    sizes = report["sizes"]
    grid = {"layout": "constrained", "sharex": True, "squeeze": False}
    figure, axes = plt.subplots(len(sizes), 1, figsize=(13, 1 + 4 * len(sizes)), **grid)
    for axis, size in zip(axes[:, 0], sizes, strict=True):
        found = matrix(report["rows"], size)
        strategies = columns(found)
        values = [
            [row[name]["accuracy"][0] if name in row else float("nan") for name in strategies] for row in found.values()
        ]
        axis.imshow(values, cmap="cividis_r", vmin=0, vmax=100, aspect="auto")
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                text = "-" if value != value else f"{value:.0f}"
                axis.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if value > 55 else "black")
        axis.set_xticks(range(len(strategies)), strategies, rotation=40, ha="right", fontsize=8)
        axis.set_yticks(range(len(found)), list(found), fontsize=8)
        axis.set_title(f"{size_kib(report['rows'])[size]:.0f} KiB a sequence: answers right, %", fontsize=9)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _pyplot() -> Any:
    """matplotlib, drawing to files only; imported where something is drawn, since a table needs none."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _reach(found: Sequence[float | None], bound: int) -> float:
    """How far a bound lies from its estimate; nothing where there is no interval."""
    estimate, end = found[0], found[bound]
    return 0.0 if estimate is None or end is None else abs(end - estimate)
