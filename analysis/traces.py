"""Figures from traces (`python main.py trace=attention`): positions kept, attention, and slots of each layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.colours import colour
from analysis.panels import REST, NothingToShowError, apart, chosen, dress, legend, outer, panels
from analysis.records import RecordsError, Run

TOP = 0.15  # heavy hitters: the share of positions with the most attention (the paper's figure 2b)
DRIFT_STEPS = 6
COLUMNS = 240  # the most columns of an attention map: about as many as its panel has pixels


@dataclass(frozen=True)
class Traced:
    """One traced sample of a run; the arrays are described in scope/runs/traces.py."""

    run: Run
    arrays: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.run.labels['method']} + {self.run.labels['decoding']}"


def read_traces(runs: Sequence[Run]) -> list[Traced]:
    """The first traced sample of every run that has one. Raises RecordsError for a file that is no trace."""
    return [Traced(run, _read(path)) for run in runs for path in sorted(run.folder.glob("traces/*.npz"))[:1]]


def _read(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, OSError, EOFError) as error:
        raise RecordsError(f"{path}: not a trace ({error})") from error
    missing = {"step", "layers", "prompt", "tokens", "alive", "slots"} - set(arrays)
    if missing:
        raise RecordsError(f"{path}: not a trace, lacks {', '.join(sorted(missing))}")
    return arrays


def kept(traced: Sequence[Traced]) -> Any:
    """Which positions are kept over time: a panel for each run and layer, darker where more heads keep the position."""
    _require(traced)
    cells = [(t, at) for t in traced for at in range(len(t.arrays["layers"]))]
    figure, axes = panels(len(cells), max(len(t.arrays["layers"]) for t in traced))
    for axis, (t, at) in zip(axes, cells, strict=True):
        share = t.arrays["alive"][:, at].mean(1)
        # Square root: one head that keeps a position stays visible where a pixel stands for several positions.
        _picture(axis, np.sqrt(share), t.arrays["step"], share.shape[1], "Greys", 1.0)
        axis.axvline(int(t.arrays["prompt"]) - 0.5, color=colour(t.run.labels["decoding"]), lw=1)
        dress(axis, f"{t.title}, layer {t.arrays['layers'][at]}", "position (line: end of the prompt)", "decode step")
        axis.grid(False)
    return figure


def drift(traced: Sequence[Traced]) -> Any:
    """Where the top 15% of attention lies at several decode steps (figure 2b): a panel for each run and layer."""
    watched = _attended(traced)
    cells = [(t, at) for t in watched for at in range(len(t.arrays["layers"]))]
    figure, axes = panels(len(cells), max(len(t.arrays["layers"]) for t in watched))
    for axis, (t, at) in zip(axes, cells, strict=True):
        attention = t.arrays["decode_attention"][:, at].astype(float).mean(1)
        steps = t.arrays["step"][1:]
        looks = np.unique(np.linspace(0, len(steps) - 1, min(DRIFT_STEPS, len(steps))).round().astype(int))
        for height, look in enumerate(looks):
            hitters = heavy_hitters(attention[look], int(t.arrays["prompt"]) + int(steps[look]) + 1)
            axis.plot(hitters, [height] * len(hitters), "|", ms=5, mew=0.5, color=colour(t.run.labels["decoding"]))
        axis.axvline(int(t.arrays["prompt"]) - 0.5, color="#666666", lw=0.8, ls="--")
        axis.set_yticks(range(len(looks)), [str(steps[look]) for look in looks])
        axis.set_xlim(0, int(t.arrays["tokens"]))
        axis.invert_yaxis()  # later steps are below, as in the maps
        dress(axis, f"{t.title}, layer {t.arrays['layers'][at]}", "position (line: end of the prompt)", "decode step")
    return figure


def heavy_hitters(attention: Any, seen: int) -> list[int]:
    """The share TOP of the first `seen` positions with the most attention; fewer where fewer have any.

    attention: [X], one probability per position. -> the positions, sorted.
    """
    most = np.argsort(-attention[:seen], kind="stable")[: max(1, int(TOP * seen))]
    return sorted(most[attention[most] > 0].tolist())  # an evicted position has no attention and must not win a tie


def prompt_attention(traced: Sequence[Traced]) -> Any:
    """Attention within the prompt, before any eviction and so the same in all runs: a panel for each layer and head."""
    arrays = _attended(traced)[0].arrays
    maps, asked = arrays["prompt_attention"], arrays["prompt_queries"]
    return _heads(arrays, maps, asked, int(arrays["prompt"]), "", "position of the query")


def decode_attention(traced: Sequence[Traced]) -> dict[str, Any]:
    """Attention of the decode steps: a figure for each run, with a panel for each layer and head."""
    figures = {}
    for t in _attended(traced):
        maps = np.moveaxis(t.arrays["decode_attention"], 0, 2)
        figures[t.run.name] = _heads(
            t.arrays, maps, t.arrays["step"][1:], int(t.arrays["tokens"]), t.title, "decode step"
        )
    return figures


def budgets(traced: Sequence[Traced]) -> Any:
    """Slots beyond those the prefill left, over the decode steps: a panel for each layer. Beta1 + beta2 is the most."""
    _require(traced)
    layers = sorted({int(layer) for t in traced for layer in t.arrays["layers"]})
    figure, axes = panels(len(layers), 3, ratio=0.85)
    coloured = chosen(traced)
    for axis, layer in zip(axes, layers, strict=True):
        for t in traced:
            found = np.flatnonzero(t.arrays["layers"] == layer)
            if len(found):
                slots = t.arrays["slots"][:, found[0]].astype(int)
                look = {"color": REST, "label": "other runs", "zorder": 1}
                if t in coloured:
                    place = coloured.index(t)
                    look = {"color": colour(t.run.labels["decoding"]), "label": t.title, "ls": apart(place)["ls"]}
                    # Earlier lines are wide and light, so that equal ones do not hide each other.
                    look |= {"lw": 1 + 3 * (1 - (place + 1) / len(coloured)), "alpha": 1 if place else 0.5}
                axis.plot(range(-1, len(slots) - 1), slots - slots[0], **look)
        dress(axis, f"layer {layer}", "decode step", "slots beyond the prefill's")
        axis.margins(y=0.1)
    legend(figure, axes)
    return figure


def figures(runs: Sequence[Run]) -> dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]]:
    """All figures from traces, by name: the function behind it, and a call that draws its figures by file name.

    The call raises NothingToShowError where there are no traces.
    """
    traced = read_traces(runs)
    found: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
        draw.__name__: (draw, lambda draw=draw: {draw.__name__: draw(traced)})
        for draw in (kept, drift, prompt_attention, budgets)
    }
    found["decode_attention"] = (
        decode_attention,
        lambda: {f"decode_attention-{name}": figure for name, figure in decode_attention(traced).items()},
    )
    return found


def _require(traced: Sequence[Traced]) -> None:
    if not traced:
        raise NothingToShowError("no run was traced (python main.py trace=kept, or trace=attention)")


def _attended(traced: Sequence[Traced]) -> list[Traced]:
    _require(traced)
    watched = [t for t in traced if "decode_attention" in t.arrays and len(t.arrays["step"]) > 1]
    if not watched:
        raise NothingToShowError("no attention was traced (python main.py trace=attention)")
    return watched


def _heads(arrays: dict[str, Any], maps: Any, rows: Any, width: int, title: str, y: str) -> Any:
    """A panel for each layer and head. maps: [L, Hq, rows, X] probabilities.

    Shades show the square root of the probability: most are far below the highest.
    """
    layers, heads = maps.shape[:2]
    figure, axes = panels(layers * heads, heads, ratio=1.1, shared=True)
    for place, axis in enumerate(axes):
        layer, head = divmod(place, heads)
        shades = np.sqrt(highest(maps[layer, head, :, :width].astype(float), COLUMNS))
        _picture(axis, shades, rows, width, "Blues", 1.0)
        dress(axis, f"layer {arrays['layers'][layer]}, head {head}", "", "")
        axis.grid(False)
    figure.suptitle(title)
    outer(figure, "position", y)
    return figure


def highest(values: Any, columns: int) -> Any:
    """[rows, X] -> [rows, at most `columns`]: the highest value of each group of X, so that no peak is lost."""
    edges = np.linspace(0, values.shape[1], min(columns, values.shape[1]) + 1).round().astype(int)
    return np.maximum.reduceat(values, edges[:-1], axis=1)


def _picture(axis: Any, values: Any, rows: Any, width: int, shades: str, most: float | None) -> None:
    """Draw values [rows, columns] as shades. width: positions that the columns span. rows: their names, top down."""
    extent = (-0.5, width - 0.5, len(values) - 0.5, -0.5)
    axis.imshow(values, aspect="auto", cmap=shades, vmin=0, vmax=most, extent=extent, rasterized=True)
    ticks = np.unique(np.linspace(0, len(rows) - 1, min(5, len(rows))).round().astype(int))
    axis.set_yticks(ticks, ["prefill" if rows[tick] < 0 else str(rows[tick]) for tick in ticks])
