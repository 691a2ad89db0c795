"""The frontier as a picture: accuracy over a sequence's bytes with 95% intervals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.colours import colour, marker

PANELS = {
    "full prompt, protected": lambda row: row["method"] == "full" and row["protect"] == "prompt",
    "full prompt, not protected": lambda row: row["method"] == "full" and row["protect"] == "nothing",
    "prompt compressed to 0.9 P, protected": lambda row: row["method"] != "full",
}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 6.5), layout="constrained", sharey=True)
    for axis, (title, belongs) in zip(axes, PANELS.items(), strict=True):
        lines: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in report["rows"]:
            if belongs(row):
                lines.setdefault((row["method"], row["decoding"]), []).append(row)
        for place, ((method, decoding), rows) in enumerate(sorted(lines.items(), key=lambda item: _last(item[1]))):
            shift = 1 + 0.004 * (place / max(1, len(lines) - 1) - 0.5)  # so that intervals do not hide each other
            centres = [row["accuracy"][0] for row in rows]
            errors = [[abs(row["accuracy"][i] - row["accuracy"][0]) for row in rows] for i in (1, 2)]
            name = decoding if method == "full" else f"{method} + {decoding}"
            axis.errorbar(
                [row["cache_kib"] * shift for row in rows],
                centres,
                errors,
                color=colour(decoding),
                marker=marker(method) if method != "full" else "o",
                ls="-" if method == "full" else "--",
                ms=4,
                lw=1.2,
                elinewidth=0.6,
                label=name,
            )
        axis.axhline(report["full"]["accuracy"][0], color="#000000", lw=0.8, ls=":")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("KiB of a sequence's cache (full cache: {:.0f})".format(report["full"]["cache_kib"]))
        axis.set_ylim(0, 104)
        axis.grid(alpha=0.25, lw=0.5)
        handles, names = axis.get_legend_handles_labels()
        axis.legend(handles[::-1], names[::-1], fontsize=7, ncols=2, framealpha=0.85)
    axes[0].set_ylabel("answers right, %")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _last(rows: list[Mapping[str, Any]]) -> float:
    return float(rows[-1]["accuracy"][0])
