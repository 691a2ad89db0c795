"""The results as pictures: KL against bytes, and what protection of the prompt does; a panel for each workload."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from analysis.colours import colour, marker
from analysis.figures import pareto
from analysis.panels import REST, apart, bars, dress, legend, logarithmic, number, outer, panels, style
from experiments.frontier.rows import FULL, POLICIES, ROUNDED, SHARES, Row, Workload
from experiments.real.picture import MODELS
from experiments.results import Result

MARKS = {"int8": "s", "int4": "D", "k8v4": "P"}  # of a precision; without one the mark is the policy's
TWINS = {"slide, protected": "h2o", "distinct, protected": "distinct"}  # protected -> the same score, unprotected
X, Y = "bytes, % of the full cache in 16 bits", "KL from the full cache, nats a token"
Results = Mapping[Row, Result[Row]]


def draw(found: Mapping[Workload, Results], folder: Path) -> None:
    """Write `frontier.png` and `protection.png`."""
    fronts = {workload: front(results) for workload, results in found.items()}
    labels = dict.fromkeys(row.label for rows in fronts.values() for row in rows)
    numbers = {label: place for place, label in enumerate(labels, start=1)}
    _each(found, folder / "frontier.png", lambda axis, of: _frontier(axis, found[of], fronts[of], numbers))
    _each(found, folder / "protection.png", lambda axis, of: _protection(axis, found[of]))


def front(results: Results) -> list[Row]:
    """The rows that no other beats in KL with the same bytes or fewer, cheapest first. The full cache is left out."""
    points = {(row.share, -result.mean("kl").estimate): row for row, result in results.items() if row != FULL}
    return [points[point] for point in pareto(list(points))]


def _each(found: Mapping[Workload, Results], path: Path, one: Callable[[Any, Workload], None]) -> None:
    with style():
        figure, axes = panels(len(found), 3, ratio=0.95)
        for axis, workload in zip(axes, found, strict=True):
            one(axis, workload)
            dress(axis, f"{MODELS[workload.model]}, {workload.task}", "", "")
            axis.margins(x=0.12)
            logarithmic(axis)
        outer(figure, X, Y)
        legend(figure, axes)
        figure.savefig(path, metadata={"Software": None})


def _frontier(axis: Any, results: Results, best: list[Row], numbers: Mapping[str, int]) -> None:
    """The front in colour, with the numbers that the legend explains; all other rows in grey."""
    for precision in ("float", *ROUNDED):
        for name in POLICIES:
            rows = _there(results, name, precision)
            means = [results[row].mean("kl").estimate for row in rows]
            axis.plot([100 * row.share for row in rows], means, color=REST, lw=0.7, marker=".", ms=3, zorder=1)
    axis.plot(
        [100 * row.share for row in best], [results[row].mean("kl").estimate for row in best],
        color="#333333", lw=0.8, ls=":", zorder=1, label="front: no row beats these",
    )  # fmt: skip
    for row in best:
        name, mean = row.policy.partition(",")[0], results[row].mean("kl")
        place = numbers[row.label]
        bars(
            axis, [100 * row.share], [(mean.estimate, mean.low, mean.high)],
            marker=MARKS.get(row.precision, marker(name)), color=colour(name), ls="", label=f"{place}: {row.label}",
        )  # fmt: skip
        number(axis, 100 * row.share, mean.estimate, place)
    axis.plot([], [], color=REST, lw=0.7, marker=".", ms=3, label="all other rows")


def _protection(axis: Any, results: Results) -> None:
    """Filled marks: the prompt is protected. Hollow marks and dashes: it is not."""
    for place, (protected, free) in enumerate(TWINS.items()):
        look = {"color": colour(protected.partition(",")[0]), "marker": apart(place)["marker"]}
        hollow = look | {"mfc": "white", "ls": "--"}
        for policy, label, style_of in ((protected, protected, look), (free, f"{free}, unprotected", hollow)):
            rows = _there(results, policy)
            means = [results[row].mean("kl") for row in rows]
            values = [(mean.estimate, mean.low, mean.high) for mean in means]
            if rows:
                bars(axis, [100 * row.share for row in rows], values, label=label, **style_of)


def _there(results: Results, name: str, precision: str = "float") -> list[Row]:
    """The rows of a policy that have run, by bytes."""
    return [row for share in sorted(SHARES) if (row := Row(name, share, precision)) in results]
