"""The results as pictures: what protection of the prompt does, and what prefill methods lose, at the main shares."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from analysis.colours import colour, marker
from analysis.panels import BAR, dress, panels, style
from experiments.real.questions import Results, method, strategy
from experiments.real.rows import METHODS, PROTECTED, UNPROTECTED

TWINS = {"slide": "h2o"}  # the same score without protection has another name
NAMES = [name for name in PROTECTED if TWINS.get(name, name) in UNPROTECTED]
MODELS = {"embedded": "embedded model", "smollm2": "SmolLM2-135M", "gemma3_270m": "Gemma-3-270M"}
WIDE = 100  # a range of that factor and more has labels at powers of ten only
NARROW = 5  # a smaller one has them at equal distances
X = "KL from the full cache, nats a token"
PROTECTION = (
    "25% of the generation's slots. Filled: the prompt is protected; hollow: it is not, with as many slots in all"
)
LEFT = "50% of the prompt's slots and the whole generation"


def draw(found: Mapping[tuple[str, str], Results], folder: Path) -> None:
    """Write the PNGs, a panel for each model and task."""
    labels = [f"{name} / {TWINS[name]}" if name in TWINS else name for name in NAMES]
    _each(found, folder / "protection.png", _protection, labels, PROTECTION)
    _each(found, folder / "methods.png", _methods, METHODS, LEFT)


def _each(
    found: Mapping[tuple[str, str], Results],
    path: Path,
    one: Callable[[Any, Results], None],
    labels: Any,
    title: str,
) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator

    columns = 4
    with style():
        figure, axes = panels(len(found), columns, ratio=1.5)
        for i, (axis, (pair, results)) in enumerate(zip(axes, found.items(), strict=True)):
            one(axis, results)
            dress(axis, f"{MODELS[pair[0]]}, {pair[1]}", "", "")
            axis.set_xscale("log")
            low, high = axis.get_xlim()
            narrow, subs = high < NARROW * low, (1,) if high > WIDE * low else (1, 2, 5)
            axis.xaxis.set_major_locator(MaxNLocator(4) if narrow else LogLocator(subs=subs))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("")
            axis.set_ylim(len(labels) - 0.5, -0.5)
            axis.set_yticks(range(len(labels)), labels if i % columns == 0 else [""] * len(labels))
        figure.suptitle(title)
        figure.supxlabel(X)
        figure.savefig(path, metadata={"Software": None})


def _protection(axis: Any, results: Results) -> None:
    for place, name in enumerate(NAMES):
        ends = (strategy(name, "prompt"), strategy(TWINS.get(name, name), "nothing"))
        there = [results[row].mean("kl").estimate for row in ends if row in results]
        axis.plot(there, [place] * len(there), color=colour(name), lw=1.2, alpha=0.5)
        for row, fill in zip(ends, (colour(name), "white"), strict=True):
            if row in results:
                mean = results[row].mean("kl")
                axis.plot([mean.low, mean.high], [place] * 2, color=colour(name), lw=BAR)
                axis.plot(mean.estimate, place, "o", color=colour(name), mfc=fill, mew=0.8)


def _methods(axis: Any, results: Results) -> None:
    for place, name in enumerate(METHODS):
        if (row := method(name)) in results:
            mean = results[row].mean("kl")
            axis.plot([mean.low, mean.high], [place] * 2, color=colour(name), lw=BAR)
            axis.plot(mean.estimate, place, marker(name), color=colour(name))
