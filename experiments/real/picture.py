"""The results as pictures: what protection does, what prefill methods lose, at the main shares."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.colours import colour, marker
from analysis.panels import panels
from experiments.real.questions import Results, method, strategy
from experiments.real.rows import METHODS, PROTECTED, UNPROTECTED

TWINS = {"slide": "h2o"}  # the same score without protection has another name


def draw(found: Mapping[tuple[str, str], Results], folder: Path) -> None:
    """Write the PNGs, a panel for each model and task."""
    _each(found, folder / "protection.png", _protection)
    _each(found, folder / "methods.png", _methods)


def _each(found: Mapping[tuple[str, str], Results], path: Path, one: Any) -> None:
    figure, axes = panels(len(found), (3.4, 4.6))
    for axis, (pair, results) in zip(axes, found.items(), strict=True):
        one(axis, results)
        axis.set_title(" ".join(pair), fontsize=9)
        axis.set_xscale("log")
        axis.set_xlabel("KL from the full cache, nats a token", fontsize=8)
        axis.grid(alpha=0.25, lw=0.5)
        axis.tick_params(labelsize=8)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _protection(axis: Any, results: Results) -> None:
    """A line a strategy: filled where the prompt is protected, hollow where it is not."""
    names = [name for name in PROTECTED if TWINS.get(name, name) in UNPROTECTED]
    for place, name in enumerate(reversed(names)):
        ends = (strategy(name, "prompt"), strategy(TWINS.get(name, name), "nothing"))
        there = [results[row].mean("kl") for row in ends if row in results]
        if len(there) == 2:
            axis.plot([end.estimate for end in there], [place] * 2, color=colour(name), lw=1.5, alpha=0.6)
        for row, fill in zip(ends, (colour(name), "white"), strict=True):
            if row in results:
                mean = results[row].mean("kl")
                axis.plot([mean.low, mean.high], [place] * 2, color=colour(name), lw=0.6)
                axis.plot(mean.estimate, place, "o", color=colour(name), mfc=fill, ms=6)
    axis.set_yticks(range(len(names)), [f"{n} / {TWINS[n]}" if n in TWINS else n for n in reversed(names)])


def _methods(axis: Any, results: Results) -> None:
    for place, name in enumerate(reversed(METHODS)):
        if (row := method(name)) in results:
            mean = results[row].mean("kl")
            axis.plot([mean.low, mean.high], [place] * 2, color=colour(name), lw=1)
            axis.plot(mean.estimate, place, marker(name), color=colour(name), ms=6)
    axis.set_yticks(range(len(METHODS)), list(reversed(METHODS)))
