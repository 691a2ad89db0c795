"""The figures of a benchmark as one picture; needs the extra `figures`, and says so where that is not installed."""

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from analysis.colours import colour
from analysis.panels import REST, chosen, dress, panels, style, wrapped

PAYS = 1.05  # tokens/s over the full cache's, from which on a compressed cache is said to pay


def _drawable() -> bool:
    """Whether matplotlib is installed. If not, a line on stderr says so."""
    if find_spec("matplotlib") is None:
        print("no picture: pip install -e '.[figures]'", file=sys.stderr)
        return False
    return True


def draw(found: Mapping[str, Any], path: Path) -> None:
    """`found`: what is written as JSON."""
    if not _drawable():
        return
    figures = found["figures"]
    steps, prefills = figures.get("decode_step", {}), figures.get("prefills", {})
    batches = figures.get("batches", {}) | figures.get("decode_batches", {})
    drawn = [
        (_bars, "decode step, ms", steps.get("ms_per_step")),
        (_lines, "decode step, ms, by tokens written", steps.get("by_length")),
        (_lines, "decode step, ms, by tokens of a long generation", figures.get("long_generation")),
        (_by_batch, "tokens/s of decode steps, by rows of the batch", batches.get("by_batch")),
        (_bars, "tokens/s, by rows of the batch, embedded model", batches.get("tokens_per_second")),
        (_bars, "prefill of {} tokens, s".format(prefills.get("prompt")), prefills.get("seconds_of_the_whole")),
        (_bars, "prefill of {} tokens, s".format(prefills.get("tokens")), prefills.get("seconds")),
        (_bars, "memory that the prefill takes, MiB", _mebibytes(prefills.get("peak_bytes", {}))),
        (_bars, "memory that the scores of a prefill take, MiB", _mebibytes(prefills.get("score_bytes", {}))),
    ]
    there = [panel for panel in drawn if panel[2]]
    where = found["surroundings"]
    with style():
        figure, axes = panels(len(there), 2, ratio=0.85)
        for axis, (plot, title, values) in zip(axes, there, strict=True):
            plot(axis, values)
            axis.set_title(wrapped(title, 1.9, 7), loc="left")
        figure.suptitle(f"{where['processor']}, torch {where['versions']['torch']}, {where['created'][:10]}")
        figure.savefig(path)


def crossover(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Tokens/s over the full cache's, by rows and length, a panel for each budget. Blue is faster, red slower. A
    framed cell pays. cells: the fields of `crossover.Cell`."""
    if not _drawable():
        return
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.patches import Rectangle

    shares = sorted({one["share"] for one in cells}, reverse=True)
    lengths, rows = (sorted({one[name] for one in cells}) for name in ("length", "rows"))
    with style():
        figure, axes = panels(len(shares), 3, ratio=0.9)
        for axis, share in zip(axes, shares, strict=True):
            speeds = {(one["length"], one["rows"]): one["speed"] for one in cells if one["share"] == share}
            grid = [[speeds.get((length, n)) or float("nan") for n in rows] for length in lengths]
            axis.imshow(grid, cmap="RdBu", norm=TwoSlopeNorm(1.0, 0.4, 3.0), origin="lower", aspect="auto")
            for (y, length), (x, n) in product(enumerate(lengths), enumerate(rows)):
                if (length, n) in speeds:
                    speed = speeds[length, n]
                    text = "full does\nnot fit" if speed is None else f"{speed:.2f}"
                    axis.text(x, y, text, ha="center", va="center")
                    if speed is None or speed >= PAYS:
                        axis.add_patch(Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, fill=False, lw=1.2))
            dress(axis, f"{share:.3g} of the slots", "rows", "tokens in the full cache")
            axis.set_xticks(range(len(rows)), rows)
            axis.set_yticks(range(len(lengths)), lengths)
            axis.grid(visible=False)
        figure.suptitle(f"tokens/s of steps, compressed over full. Framed: {PAYS:g} and more")
        figure.savefig(path)


def _mebibytes(sizes: Mapping[str, int | None]) -> dict[str, float | None]:
    return {name: size and size / 2**20 for name, size in sizes.items()}


def _colour(name: str) -> str:
    """Of the strategy, or of what else is compared; batches are slide's."""
    if name.isdigit():
        return colour("slide")
    return colour(name.partition(" + ")[2].partition(",")[0] or name.partition(",")[0])


def _bars(axis: Any, values: Mapping[Any, float | None]) -> None:
    """A bar less for what memory did not suffice for."""
    there = {str(name): value for name, value in values.items() if value is not None}
    bars = axis.barh(range(len(there)), list(there.values()), color=[_colour(name) for name in there])
    axis.bar_label(bars, fmt="%.4g", fontsize=6, padding=2)
    axis.set_yticks(range(len(there)), list(there), fontsize=6)
    axis.invert_yaxis()
    axis.grid(False)
    axis.margins(x=0.12)


def _lines(axis: Any, values: Mapping[str, Any]) -> None:
    every = values["steps_each"]
    steps = values["ms_per_step"]
    fastest = chosen(list(steps), {name: -median(series) for name, series in steps.items()})
    for name, series in steps.items():
        axis.plot([i * every for i in range(len(series))], series, **_look(name, fastest))
    tops = [median(series) for series in values["ms_per_step"].values()]
    axis.set_ylim(0, 2 * max(tops))  # not the steps that compile
    axis.set_xlabel("tokens written")
    axis.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _by_batch(axis: Any, values: Mapping[str, Mapping[Any, Mapping[str, float] | None]]) -> None:
    speeds = {
        name: {int(rows): found["tokens_per_second"] for rows, found in by_rows.items() if found}
        for name, by_rows in values.items()
    }
    fastest = chosen(list(speeds), {name: max(there.values(), default=0) for name, there in speeds.items()})
    for name, there in speeds.items():
        axis.plot(list(there), list(there.values()), marker=".", **_look(name, fastest))
    axis.set_ylim(bottom=0)
    axis.set_xlabel("rows")
    axis.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _look(name: str, coloured: Sequence[str]) -> dict[str, Any]:
    """Those that are not `coloured` are grey.

    Full caches share a colour, as do variants of a strategy: what is not ours as it comes is broken.
    """
    if name not in coloured:
        return {"color": REST, "linewidth": 0.7, "zorder": 1}
    variant = name.partition(", ")[2]
    dashes = {"": "-", "ours": "-", "transformers' DynamicCache": "--", "transformers' StaticCache": ":"}
    return {"color": _colour(name), "linestyle": dashes.get(variant, "-."), "linewidth": 1, "label": name}
