"""Figures of one or several sweeps as PNG and PDF, from their records.

python -m analysis.figures outputs/demo                   # as wide as a page of a paper
python -m analysis.figures outputs/demo --width column    # as wide as one of its two columns
"""

import io
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.colours import colour, marker
from analysis.columns import Column, Place, accuracy, named
from analysis.command import command
from analysis.contexts import ordered
from analysis.frame import asked, columns_in, columns_of, of_runs
from analysis.panels import (
    MOST,
    REST,
    WIDTHS,
    NothingToShowError,
    apart,
    bars,
    chosen,
    dress,
    legend,
    logarithmic,
    number,
    outer,
    panels,
    style,
)
from analysis.records import Run, Sample
from analysis.settings import settings_of
from analysis.sheets import bytes_unit
from analysis.speeds import batches
from analysis.statistics import clustered_proportion
from analysis.traces import figures as trace_figures
from scope.util.files import make_folder

KINDS = ("png", "pdf")
BINS = 8  # groups of question positions; with more groups each point has fewer questions and a wider band

LEAST_NATS = 1e-5  # a smaller divergence is rounding; figures begin here
POLICY = ["method", "decoding"]  # columns of the frame
Places = tuple[Sequence[float], Sequence[tuple[float, float, float]]]
"""Places in a text, and of each an estimate with its bounds."""


def frontier(runs: Sequence[Run], frame: pd.DataFrame, score: Column | None = None) -> Any:
    """Accuracy against bytes of one sequence's cache, with 95% intervals; the line joins the runs that no other beats.

    Policies on that line have a colour and a number, and the others are grey where there are many. score: the column
    to show in place of the accuracy.
    """
    score = score or accuracy()
    cache = named(columns_of(frame))["cache_mib"]
    known = frame.dropna(subset=[score.name, cache.name])
    if score.logarithmic:
        known = known[known["compressed"] & (known[score.name] > 0)]
    if known.empty:
        raise NothingToShowError("no run has answers and an account of bytes")
    asked_by_row = pd.Series([", ".join(names) for names in asked(frame)], index=frame.index)
    blocks = list(known.groupby(asked_by_row[known.index], sort=False))
    figure, axes = panels(len(blocks), ratio=0.6)
    numbers = _numbers(_on_the_front(block, score) for _, block in blocks)
    for axis, (title, block) in zip(axes, blocks, strict=True):
        unit, scale = bytes_unit(block[cache.name])
        points = block.assign(x=block[cache.name] * scale)
        for policy, rows in points.groupby(POLICY, sort=False):
            _policy(axis, rows.sort_values("x"), score, policy, numbers.get(policy))
        best = _front(points, score)
        axis.plot(
            best["x"], best[score.name], color="#333333", lw=0.8, ls=":", zorder=1, label="front: no run beats these"
        )
        dress(axis, title, f"{cache.title} of one sequence, {unit}", score.one_line)
        axis.margins(x=0.08)
        if score.logarithmic:
            logarithmic(axis)
        else:
            axis.set_xlim(left=0)
    partial = (known["prompts"] < known["planned_prompts"]).any()
    legend(figure, axes, more=[_line("hollow mark: not all prompts answered", ls="")] * bool(partial))
    return figure


def _policy(axis: Any, rows: pd.DataFrame, score: Column, policy: tuple[str, str], place: int | None) -> None:
    """The runs of one policy, by bytes: a mark each, and a line where the score is logarithmic.

    place: its number in the legend; None: it is grey.
    """
    method, decoding = policy
    look = {"color": REST, "ms": 3.5, "lw": 0.8, "zorder": 1.5, "label": "other policies"}
    if place is not None:
        look = {"color": colour(decoding), "ms": 5, "label": f"{place}: {method} + {decoding}", "zorder": 3}
    linked = rows if score.logarithmic else rows[:0]
    axis.plot(linked["x"], linked[score.name], color=look["color"], lw=1, zorder=1)
    for whole, some in rows.groupby(rows["prompts"] >= rows["planned_prompts"]):
        fill = {} if whole else {"mfc": "white"}
        bars(axis, some["x"], some[[score.name, score.low, score.high]].to_numpy(),
             marker=marker(method), ls="", **look | fill)  # fmt: skip
    if place is not None:
        number(axis, rows["x"].iloc[0], rows[score.name].iloc[0], place)


def _front(points: pd.DataFrame, score: Column) -> pd.DataFrame:
    """The rows that no other beats, cheapest first. points: rows of the frame with bytes as `x`."""
    sign = 1 if score.larger_is_better else -1
    best = set(pareto(list(zip(points["x"], sign * points[score.name], strict=True))))
    on_it = [pair in best for pair in zip(points["x"], sign * points[score.name], strict=True)]
    return points[on_it].sort_values("x")


def _on_the_front(block: pd.DataFrame, score: Column) -> list[tuple[str, str]]:
    """The policies of a panel that have a colour: all where they are few, else those on the front."""
    if len(all_of_it := list(dict.fromkeys(block[POLICY].itertuples(index=False, name=None)))) <= MOST:
        return all_of_it
    front = _front(block.assign(x=block["cache_mib"]), score)
    return chosen(list(dict.fromkeys(front[POLICY].itertuples(index=False, name=None))))


def _numbers(groups: Iterable[Iterable[Any]]) -> dict[Any, int]:
    """Each item with its number, from 1, in the order of the groups."""
    items = dict.fromkeys(item for group in groups for item in group)
    return {item: place for place, item in enumerate(items, start=1)}


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of pairs (cost, worth) those that no other beats in worth at the same or less cost, cheapest first."""
    best: list[tuple[float, float]] = []
    for cost, worth in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or worth > best[-1][1]:
            best.append((cost, worth))
    return best


def position(runs: Sequence[Run], frame: pd.DataFrame) -> Any:
    """Accuracy by a question's place in its prompt (figure 4a): a panel a policy, its method's others in grey."""
    several = [run for run in runs if any(len(s.correct) > 1 for s in run.samples)]
    if not several:
        raise NothingToShowError("no run asks several questions in one prompt")
    figure, _ = _by_place(several, _asked(runs, frame), by_position)
    outer(figure, "place of the question in its prompt", "answers right, %")
    return figure


def _by_place(
    runs: Sequence[Run],
    alike: Mapping[Path, tuple[str, str]],
    line: Callable[[Sequence[Sample]], Places],
) -> tuple[Any, Sequence[Any]]:
    """A panel for each method and strategy, with a line for each of its runs; behind them the method's other runs.

    alike: as of `_asked`. line: from a run's samples to places, and to values with their bounds.
    -> the figure and its axes.
    """
    lines = {run.folder: line(run.samples) for run in runs}
    groups = _grouped(runs, lambda run: (*alike[run.folder], *_policy_of(run)))
    names = {run.folder: _name(run, members) for members in groups.values() for run in members}
    looks = {name: apart(place) for place, name in enumerate(chosen(list(dict.fromkeys(names.values()))))}
    strategies = len({run.labels["decoding"] for run in runs})
    figure, axes = panels(len(groups), strategies if strategies in (3, 5) else 4, shared=True)
    tasks = {group[:2] for group in groups}
    for axis, (group, members) in zip(axes, groups.items(), strict=True):
        behind = [run for run in runs if (*alike[run.folder], run.labels["method"]) == group[:3] and run not in members]
        for run in behind + [run for run in members if names[run.folder] not in looks]:
            places, values = lines[run.folder]
            axis.plot(places, [value[0] for value in values], color=REST, lw=0.7, zorder=1)
        for run in members:
            if (name := names[run.folder]) in looks:
                bars(axis, *lines[run.folder], color=colour(group[3]), ms=3, **looks[name])
        of = f"{_title(group[:2], tasks)}: " * (len(tasks) > 1)
        dress(axis, f"{of}{group[2]} + {group[3]}", "", "")
    if len(looks) > 1:
        legend(figure, [], more=[_line(name, **look) for name, look in looks.items() if name])
    return figure, axes


def _line(label: str, **look: Any) -> Any:
    """An entry of a legend, for lines of any colour."""
    from matplotlib.lines import Line2D

    known: dict[str, Any] = {"color": "#444444", "ms": 3}
    return Line2D([], [], label=label, **known | look)


def by_position(samples: Sequence[Sample]) -> Places:
    """Accuracy by a question's place in its prompt, over at most `BINS` groups of places.

    -> for each group its mean place (from 1), and the accuracy with its 95% bounds in percent.
    """
    most = max(len(s.correct) for s in samples)
    x, y = [], []
    for places in np.array_split(np.arange(most), min(BINS, most)):
        parts = [s.correct[places[0] : places[-1] + 1] for s in samples]
        estimate, low, high = clustered_proportion([sum(part) for part in parts], [len(part) for part in parts])
        x.append(float(places.mean()) + 1)
        y.append((100 * estimate, 100 * low, 100 * high))
    return x, y


def prefill_share(runs: Sequence[Run], frame: pd.DataFrame) -> Any:
    """Accuracy against the share of the prompt's slots that the prefill left (figure 2a), a panel for each strategy."""
    answered = _answered(runs)
    if not any(run.compresses_prefill for run in answered):
        raise NothingToShowError("no run compresses the prompt")
    alike = _asked(runs, frame)
    groups = _grouped(answered, lambda run: (*alike[run.folder], run.labels["decoding"]))
    coloured = _coloured(answered, "method")
    figure, axes = panels(len(groups), 4, ratio=1.0, shared=True)
    for axis, (names, members) in zip(axes, groups.items(), strict=True):
        methods = _grouped(members, lambda run: run.labels["method"])
        crowd = [method for method, same in methods.items() if any(run.compresses_prefill for run in same)]
        for method, same in methods.items():
            points = sorted((prompt_share(run.samples), _accuracy(run.samples)) for run in same)
            # Moved apart: intervals at one budget would hide each other.
            aside = 1.5 * (crowd.index(method) - (len(crowd) - 1) / 2) if method in crowd else 0
            look: dict[str, Any] = {"color": REST, "label": "other methods", "zorder": 1}
            if method in coloured:
                look = {"color": colour(method), "label": method}
            bars(axis, [x + aside for x, _ in points], [y for _, y in points], marker=marker(method), **look)
        dress(axis, f"decoding: {_title(names, groups)}", "", "")
        axis.set(xlim=(0, 107), ylim=(0, 104))
    outer(figure, "slots of the prompt that stay, % (equal budgets are moved apart)", "answers right, %")
    legend(figure, axes)
    return figure


def decode_budget(runs: Sequence[Run], frame: pd.DataFrame) -> Any:
    """Accuracy against the decode budget D (beta1 + beta2) and against beta2, its newest part, for each method."""
    figure_of, alike = [], _asked(runs, frame)
    labels = {"budget": "slots of the generation that stay (D)", "recent": "of D, the newest slots, which stay (beta2)"}
    for key, label in labels.items():
        known = [run for run in _answered(runs) if settings_of(run).get(f"decoding.{key}") is not None]
        groups = _grouped(known, lambda run: (*alike[run.folder], run.labels["method"]))
        for names, members in groups.items():
            if len({run.settings["decoding"][key] for run in members}) > 1:
                figure_of.append((key, label, f"prefill: {_title(names, groups)}", members))
    if not figure_of:
        raise NothingToShowError("no method has runs with several decode budgets")
    coloured = _coloured([run for *_, members in figure_of for run in members], "decoding")
    figure, axes = panels(len(figure_of))
    for axis, (key, label, title, members) in zip(axes, figure_of, strict=True):
        for strategy, same in _grouped(members, lambda run: run.labels["decoding"]).items():
            points = sorted((run.settings["decoding"][key], _accuracy(run.samples)) for run in same)
            look: dict[str, Any] = {"color": REST, "label": "other strategies", "zorder": 1, "marker": "."}
            if strategy in coloured:
                look = {"color": colour(strategy), "label": strategy, **apart(coloured.index(strategy))}
            bars(axis, *zip(*points, strict=True), **look)
        dress(axis, title, label, "answers right, %")
    legend(figure, axes)
    return figure


def _coloured(runs: Sequence[Run], part: str) -> list[str]:
    """The methods or strategies that have a colour: those with the highest accuracy in the mean of their runs."""
    groups = _grouped(runs, lambda run: run.labels[part])
    worth = {name: float(np.mean([_accuracy(run.samples)[0] for run in same])) for name, same in groups.items()}
    return chosen(list(groups), worth)


def prompt_share(samples: Sequence[Sample]) -> float:
    """Slots that the prefill left, in percent of the slots of transformers' own cache."""
    own = sum(s.prefill_full for s in samples)
    return 100 * (1 - sum(s.prefill_evicted for s in samples) / own)


def cost(runs: Sequence[Run], frame: pd.DataFrame) -> Any:
    """Throughput of a batch and bytes of a sequence's cache, against length and, where these differ, batch size."""
    points = [(run, *point) for run in runs for point in batches(run.samples)]
    if not points:
        raise NothingToShowError("no run has an answered prompt")
    axes_of = {"tokens of a sequence": 1} | ({"prompts in a batch": 2} if len({p[2] for p in points}) > 1 else {})
    alike = _asked(runs, frame)
    groups = _grouped(points, lambda point: alike[point[0].folder])
    places = [(names, label, at) for names in groups for label, at in axes_of.items()]
    speeds = _grouped(points, lambda point: _policy_of(point[0]))
    fastest = {policy: float(np.mean([point[3] for point in same])) for policy, same in speeds.items()}
    uncompressed = {_policy_of(run): float("inf") for run in runs if not run.compressed}
    numbers = _numbers([chosen(list(speeds), fastest | uncompressed)])
    figure, axes = panels(2 * len(places))
    unit, scale = ("KiB", 2**10) if max(point[4] for point in points) < 2**20 else ("MiB", 2**20)
    for index, (names, label, at) in enumerate(places):
        of = f"{_title(names, groups)}: " * (len(groups) > 1)
        drawn = (("speed of a batch", 3, 1, "tokens/s"), ("cache of one sequence", 4, scale, f"cache, {unit}"))
        for axis, (title, value, per, y) in zip(axes[2 * index : 2 * index + 2], drawn, strict=True):
            for policy, same in _grouped(groups[names], lambda point: _policy_of(point[0])).items():
                _scattered(axis, [(p[at], p[value] / per) for p in same], policy, numbers.get(policy))
            dress(axis, f"{of}{title}", label, y)
            axis.margins(0.1)
            axis.set_ylim(bottom=0)
    legend(figure, axes)
    return figure


def _scattered(axis: Any, points: Sequence[tuple[float, float]], policy: tuple[str, str], place: int | None) -> None:
    """A mark for each point. place: the policy's number in the legend; None: it is grey."""
    method, decoding = policy
    look: dict[str, Any] = {"color": REST, "label": "other policies", "zorder": 1}
    if place is not None:
        look = {"color": colour(decoding), "label": f"{place}: {method} + {decoding}", "zorder": 3}
        number(axis, *max(points), place)
    axis.plot(*zip(*points, strict=True), ls="", marker=marker(method), mec="white", mew=0.4, **look)


def divergence_position(runs: Sequence[Run], frame: pd.DataFrame) -> Any:
    """KL from the full cache by a forced token's place: a panel for each policy, its method's others in grey."""
    replays = [run for run in runs if run.compressed and any(s.replay for s in run.samples)]
    if not replays:
        raise NothingToShowError("no compressed run replays a text")
    figure, axes = _by_place(replays, _asked(runs, frame), divergence_by_place)
    for axis in axes:
        logarithmic(axis, LEAST_NATS)
    outer(figure, "place of the token in the forced text", "KL from the full cache, nats a token")
    return figure


def divergence_by_place(samples: Sequence[Sample]) -> Places:
    """-> the mean place, from 1, and the mean KL of all tokens of at most 2 * `BINS` groups of places.

    The first token is left out, since no policy changes it. There are no bounds.
    """
    texts = [s.replay.kl for s in samples if s.replay]
    most = max(len(kl) for kl in texts)
    x, y = [], []
    for places in np.array_split(np.arange(1, most), max(1, min(2 * BINS, most - 1))):
        values = [value for kl in texts for value in kl[places[0] : places[-1] + 1]] if len(places) else []
        if values:
            x.append(float(places.mean()) + 1)
            y.append((float(np.mean(values)), float("nan"), float("nan")))
    return x, y


FIGURES: dict[str, Callable[[Sequence[Run], pd.DataFrame], Any]] = {
    "frontier": frontier,
    "position": position,
    "prefill_share": prefill_share,
    "decode_budget": decode_budget,
    "cost": cost,
    "divergence_position": divergence_position,
}


def save(figure: Any, folder: Path, name: str) -> list[Path]:
    """Write name.png and name.pdf into `folder`; the same figure gives the same bytes."""
    make_folder(folder)
    paths = [folder / f"{name}.{kind}" for kind in KINDS]
    for path, metadata in zip(paths, ({"Software": None}, {"CreationDate": None}), strict=True):
        drawn = io.BytesIO()
        figure.savefig(drawn, format=path.suffix[1:], metadata=metadata)
        path.write_bytes(drawn.getvalue())
    return paths


def _asked(runs: Sequence[Run], frame: pd.DataFrame) -> dict[Path, tuple[str, str]]:
    """For each run, by its folder, its model and task in words. Only runs where these agree share a panel."""
    return {run.folder: names for run, names in zip(ordered(runs), asked(frame), strict=True)}


def _grouped(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _policy_of(run: Run) -> tuple[str, str]:
    return run.labels["method"], run.labels["decoding"]


def _name(run: Run, same: Sequence[Run]) -> str:
    """What tells a run from the others of its policy, `same`: the budgets that differ, or else the seed, or nothing."""
    words = [other.budget_words for other in same]
    differing = [word for word, *others in zip(run.budget_words, *words, strict=True) if len(set(others)) > 1]
    if sum(other.budget_words == run.budget_words for other in same) > 1:
        differing.append(f"seed {run.seed}")
    return f"budget {' and '.join(differing)}" if differing else ""


def _title(names: tuple[str, ...], groups: Iterable[tuple[str, ...]]) -> str:
    """The title of a panel: the names that tell it from the others, or else its last name."""
    columns = list(zip(*groups, strict=True))
    return ", ".join(n for n, column in zip(names, columns, strict=True) if len(set(column)) > 1) or names[-1]


def _answered(runs: Sequence[Run]) -> list[Run]:
    """The runs that answer questions, which a replay does not. Raises NothingToShowError where there is none."""
    if answered := [run for run in runs if any(s.correct for s in run.samples)]:
        return answered
    raise NothingToShowError("no run answers a question")


def _accuracy(samples: Sequence[Sample]) -> tuple[float, float, float]:
    estimate, low, high = clustered_proportion([sum(s.correct) for s in samples], [len(s.correct) for s in samples])
    return 100 * estimate, 100 * low, 100 * high


def _named(name: str, draw: Callable[..., Any], runs: Sequence[Run], frame: pd.DataFrame) -> dict[str, Any]:
    return {name: draw(runs, frame)}


def draw_all(runs: Sequence[Run], folder: Path, width: str = "page") -> dict[str, str]:
    """Write every figure that the records allow into `folder`, and print why the others are not drawn.

    width: for a `column` of a paper, or for the whole `page`. -> what each figure shows, in a sentence, by the name of
    its file.
    """
    frame, drawn = of_runs(runs), {}
    drawers = {name: (draw, partial(_named, name, draw, runs, frame)) for name, draw in FIGURES.items()}
    for score in columns_in(frame, Place.FRONTIER):
        if score.name != accuracy().name:  # which has the figure called frontier
            name = f"frontier_{score.title.replace(' ', '_')}"
            drawers[name] = frontier, partial(_named, name, partial(frontier, score=score), runs, frame)
    for name, (shows, draw) in {**drawers, **trace_figures(runs)}.items():
        try:
            with style(width):
                for file, figure in draw().items():
                    save(figure, folder, file)
                    drawn[file] = str(shows.__doc__).partition("\n")[0]
        except NothingToShowError as reason:
            print(f"{name}: not drawn, {reason}")
    return drawn


def _work(runs: list[Run], out: Path, given: Namespace) -> None:
    for name in draw_all(runs, out, given.width):
        print(*(out / f"{name}.{kind}" for kind in KINDS), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the figures of the folders given; -> the exit code, as `command` has it."""
    about = "of the figures: that of a column or of a page of a paper (default: page)"
    widths = {"choices": list(WIDTHS), "default": "page", "help": about}
    return command("figures", __doc__, "figures", _work, arguments, {"--width": widths}, extra="figures")


if __name__ == "__main__":
    sys.exit(main())
