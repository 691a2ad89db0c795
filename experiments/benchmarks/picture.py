"""The figures of a benchmark as one picture; needs the extra `figures`, and says so where that is not installed."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.colours import colour


def draw(found: Mapping[str, Any], path: Path) -> None:
    """`found`: what is written as JSON."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no picture: pip install 'scope-kv[figures]'", file=sys.stderr)
        return
    panels = [
        (_bars, "decode step, ms", found["figures"].get("decode_step", {}).get("ms_per_step")),
        (_lines, "decode step, ms, by tokens written", found["figures"].get("long_generation")),
        (_bars, "tokens/s, by rows of the batch", found["figures"].get("batches", {}).get("tokens_per_second")),
        (_bars, "prefill, s", found["figures"].get("prefills", {}).get("seconds")),
        (_bars, "memory that the prefill takes, MiB", _mebibytes(found["figures"].get("prefills", {}))),
    ]
    there = [panel for panel in panels if panel[2]]
    figure = Figure(figsize=(11, 3.2 * ((len(there) + 1) // 2)), layout="constrained")
    axes = list(figure.subplots((len(there) + 1) // 2, 2, squeeze=False).flat)
    for axis in axes:
        axis.set_visible(False)
    for axis, (plot, title, values) in zip(axes, there, strict=False):
        axis.set_visible(True)
        axis.set_title(title, fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        plot(axis, values)
    where = found["surroundings"]
    figure.suptitle(f"{where['processor']}, torch {where['versions']['torch']}, {where['created'][:10]}", fontsize=9)
    figure.savefig(path, dpi=130)


def _mebibytes(part: Mapping[str, Any]) -> dict[str, float]:
    return {name: size / 2**20 for name, size in part.get("peak_bytes", {}).items()}


def _colour(name: str) -> str:
    """Of the strategy, or of what else is compared; batches are slide's."""
    if name.isdigit():
        return colour("slide")
    return colour(name.partition(" + ")[2].partition(",")[0] or name.partition(",")[0])


def _bars(axis: Any, values: Mapping[Any, float]) -> None:
    names = [str(name) for name in values]
    bars = axis.barh(range(len(names)), list(values.values()), color=[_colour(name) for name in names])
    axis.bar_label(bars, fmt="%.4g", fontsize=7, padding=2)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.invert_yaxis()
    axis.margins(x=0.12)


def _lines(axis: Any, values: Mapping[str, Any]) -> None:
    for name, series in values["ms_per_step"].items():
        axis.plot([i * values["steps_each"] for i in range(len(series))], series, label=name, color=_colour(name))
    axis.set_ylim(bottom=0)
    axis.set_xlabel("tokens written", fontsize=8)
    axis.legend(fontsize=7, frameon=False)
