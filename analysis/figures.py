"""Figures of one or several sweeps as PNG and PDF, from their records.

python -m analysis.figures outputs/demo
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
from analysis.panels import NothingToShowError, dress, logarithmic, panels
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


def frontier(runs: Sequence[Run], frame: pd.DataFrame, score: Column | None = None) -> Any:
    """Accuracy against bytes of one sequence's cache, with 95% intervals; the line joins the runs that no other beats.

    score: the column to show in place of the accuracy.
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
    figure, axes = panels(len(blocks), (5.2, 3.8))
    for axis, (title, block) in zip(axes, blocks, strict=True):
        unit, scale = bytes_unit(block[cache.name])
        for row in block.to_dict("records"):
            estimate, low, high = (row[name] for name in (score.name, score.low, score.high))
            partial = row["prompts"] < row["planned_prompts"]
            axis.errorbar(
                row[cache.name] * scale,
                estimate,
                yerr=[[estimate - low], [high - estimate]],
                fmt=marker(row["method"]),
                color=colour(row["decoding"]),
                mfc="white" if partial else None,
                ms=6,
                elinewidth=0.9,
            )
        if score.logarithmic:
            _lines(axis, block, (cache.name, score.name), scale)
        sign = 1 if score.larger_is_better else -1
        best = pareto([(x * scale, sign * y) for x, y in zip(block[cache.name], block[score.name], strict=True)])
        axis.plot([x for x, _ in best], [sign * y for _, y in best], color="#666666", lw=0.9, ls="--", zorder=0)
        dress(axis, title, f"{cache.title} of one sequence, {unit}", score.one_line)
        axis.set_xlim(left=0)
        if score.logarithmic:
            logarithmic(axis)
        open_marks = (block["prompts"] < block["planned_prompts"]).any()
        _legend(axis, block["method"], block["decoding"], ["open mark: partial run"] * bool(open_marks))
    return figure


def _lines(axis: Any, block: pd.DataFrame, names: tuple[str, str], scale: float) -> None:
    """A line through the budgets of each policy. names: the columns of bytes and of the score."""
    for (_, decoding), rows in block.groupby(["method", "decoding"], sort=False):
        if len(rows) > 1:
            points = rows.sort_values(names[0])
            axis.plot(points[names[0]] * scale, points[names[1]], color=colour(decoding), lw=1.1)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of pairs (cost, worth) those that no other beats in worth at the same or less cost, cheapest first."""
    best: list[tuple[float, float]] = []
    for cost, worth in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or worth > best[-1][1]:
            best.append((cost, worth))
    return best


def position(runs: Sequence[Run], frame: pd.DataFrame) -> Any:
    """Accuracy by a question's place among those of its prompt (the paper's figure 4a), a panel for each method."""
    several = [run for run in runs if any(len(s.correct) > 1 for s in run.samples)]
    if not several:
        raise NothingToShowError("no run asks several questions in one prompt")
    labels = ("place of the question in its prompt", "answers right, %")
    figure, _ = _by_place(several, _asked(runs, frame), by_position, labels)
    return figure


def _by_place(
    runs: Sequence[Run],
    alike: Mapping[Path, tuple[str, str]],
    line: Callable[[Sequence[Sample]], Sequence[Sequence[float]]],
    labels: tuple[str, str],
) -> tuple[Any, Sequence[Any]]:
    """A panel for each method, with a line for each run. -> the figure and its axes.

    alike: as of `_asked`. line: from a run's samples to places, values and, if there are any, their lower and upper
    bounds. labels: of the axis of places, and of that of values.
    """
    groups = _grouped(runs, lambda run: (*alike[run.folder], run.labels["method"]))
    figure, axes = panels(len(groups))
    for axis, (names, members) in zip(axes, groups.items(), strict=True):
        for run, style in _told_apart(members):
            places, values, *bounds = line(run.samples)
            shade = colour(run.labels["decoding"])
            axis.plot(places, values, style, color=shade, label=_name(run, members), marker="o", ms=2.5, lw=1.3)
            if bounds:
                axis.fill_between(places, *bounds, color=shade, alpha=0.13, lw=0)
        dress(axis, _title(names, groups), *labels)
        axis.legend(fontsize=6, framealpha=0.8, loc="best")
    return figure, axes


def by_position(samples: Sequence[Sample]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Accuracy by a question's place in its prompt, over at most `BINS` groups of places.

    -> for each group its mean place (from 1), the accuracy and its 95% bounds in percent.
    """
    most = max(len(s.correct) for s in samples)
    rows: list[list[float]] = []
    for places in np.array_split(np.arange(most), min(BINS, most)):
        parts = [s.correct[places[0] : places[-1] + 1] for s in samples]
        interval = clustered_proportion([sum(part) for part in parts], [len(part) for part in parts])
        rows.append([float(places.mean()) + 1, *(100 * value for value in interval)])
    x, estimate, low, high = (list(column) for column in zip(*rows, strict=True))
    return x, estimate, low, high


def prefill_share(runs: Sequence[Run], frame: pd.DataFrame) -> Any:
    """Accuracy against the share of the prompt's slots that the prefill left (figure 2a), a panel for each strategy."""
    answered = _answered(runs)
    if not any(run.compresses_prefill for run in answered):
        raise NothingToShowError("no run compresses the prompt")
    alike = _asked(runs, frame)
    groups = _grouped(answered, lambda run: (*alike[run.folder], run.labels["decoding"]))
    figure, axes = panels(len(groups))
    for axis, (names, members) in zip(axes, groups.items(), strict=True):
        methods = _grouped(members, lambda run: run.labels["method"])
        crowd = [method for method, same in methods.items() if any(run.compresses_prefill for run in same)]
        for method, same in methods.items():
            points = sorted((prompt_share(run.samples), *_accuracy(run.samples)) for run in same)
            x, y, low, high = (np.array(column) for column in zip(*points, strict=True))
            if method in crowd:  # moved apart: intervals at one budget would hide each other
                x = x + 1.5 * (crowd.index(method) - (len(crowd) - 1) / 2)
            style = {"color": colour(method), "marker": marker(method), "label": method, "ms": 5, "lw": 1.1}
            axis.errorbar(x, y, yerr=[y - low, high - y], elinewidth=0.9, **style)
        dress(axis, _title(names, groups), "prompt slots kept, % (equal budgets moved apart)", "answers right, %")
        axis.set_xlim(0, 107)
        axis.legend(fontsize=6, framealpha=0.8, loc="lower left")
    return figure


def decode_budget(runs: Sequence[Run], frame: pd.DataFrame) -> Any:
    """Accuracy against the decode budget D (beta1 + beta2) and against beta2, its newest part, for each method."""
    figure_of, alike = [], _asked(runs, frame)
    for key, label in (("budget", "decode budget D, slots"), ("recent", "of D, the newest always kept (beta2)")):
        known = [run for run in _answered(runs) if settings_of(run).get(f"decoding.{key}") is not None]
        groups = _grouped(known, lambda run: (*alike[run.folder], run.labels["method"]))
        for names, members in groups.items():
            if len({run.settings["decoding"][key] for run in members}) > 1:
                figure_of.append((key, label, names, members, groups))
    if not figure_of:
        raise NothingToShowError("no method has runs with several decode budgets")
    figure, axes = panels(len(figure_of))
    for axis, (key, label, names, members, groups) in zip(axes, figure_of, strict=True):
        for strategy, same in _grouped(members, lambda run: run.labels["decoding"]).items():
            points = sorted((run.settings["decoding"][key], *_accuracy(run.samples)) for run in same)
            x, y, low, high = (np.array(column) for column in zip(*points, strict=True))
            style = {"color": colour(strategy), "label": strategy, "marker": "o", "ms": 4, "lw": 1.1}
            axis.errorbar(x, y, yerr=[y - low, high - y], elinewidth=0.9, **style)
        dress(axis, _title(names, groups), label, "answers right, %")
        axis.legend(fontsize=6, framealpha=0.8, loc="best")
    return figure


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
    figure, axes = panels(2 * len(places), (4.4, 3.4), columns=2)
    unit, scale = ("KiB", 2**10) if max(point[4] for point in points) < 2**20 else ("MiB", 2**20)
    for index, (names, label, at) in enumerate(places):
        of = f"{_title(names, groups)}: " * (len(groups) > 1)
        for axis, value, title in ((axes[2 * index], 3, "tokens/s"), (axes[2 * index + 1], 4, f"cache, {unit}")):
            for point in groups[names]:
                run = point[0]
                height = point[value] / (scale if value == 4 else 1)
                style = {"color": colour(run.labels["decoding"]), "marker": marker(run.labels["method"])}
                axis.plot(point[at], height, ls="", ms=4, alpha=0.75, **style)
            shown = "of a batch" if value == 3 else "of one sequence, mean of a batch"
            dress(axis, f"{of}{shown}", label, title)
            axis.set_ylim(bottom=0)
    _legend(axes[1], [run.labels["method"] for run in runs], [run.labels["decoding"] for run in runs])
    return figure


def divergence_position(runs: Sequence[Run], frame: pd.DataFrame) -> Any:
    """KL from the full cache by a forced token's place in its text, a panel for each method."""
    replays = [run for run in runs if run.compressed and any(s.replay for s in run.samples)]
    if not replays:
        raise NothingToShowError("no compressed run replays a text")
    labels = ("place in the forced text", "KL, nats/token")
    figure, axes = _by_place(replays, _asked(runs, frame), divergence_by_place, labels)
    for axis in axes:
        logarithmic(axis, LEAST_NATS)
    return figure


def divergence_by_place(samples: Sequence[Sample]) -> tuple[list[float], list[float]]:
    """-> the mean place, from 1, and the mean KL of all tokens of at most 2 * `BINS` groups of places.

    The first token is left out, since no policy changes it.
    """
    texts = [s.replay.kl for s in samples if s.replay]
    most = max(len(kl) for kl in texts)
    x, y = [], []
    for places in np.array_split(np.arange(1, most), max(1, min(2 * BINS, most - 1))):
        values = [value for kl in texts for value in kl[places[0] : places[-1] + 1]] if len(places) else []
        if values:
            x.append(float(places.mean()) + 1)
            y.append(float(np.mean(values)))
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
        figure.savefig(drawn, format=path.suffix[1:], dpi=150, metadata=metadata)
        path.write_bytes(drawn.getvalue())
    return paths


def _legend(axis: Any, methods: Iterable[str], decodings: Iterable[str], notes: Sequence[str] = ()) -> None:
    """A legend beside the panel: colours for strategies, shapes for methods."""
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], color=colour(d), lw=4, label=f"decoding {d}") for d in dict.fromkeys(decodings)]
    for method in dict.fromkeys(methods):
        entries.append(Line2D([], [], color="#555555", marker=marker(method), ls="", label=f"method {method}"))
    entries += [Line2D([], [], ls="", label=note) for note in notes]
    axis.legend(handles=entries, fontsize=6.5, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _asked(runs: Sequence[Run], frame: pd.DataFrame) -> dict[Path, tuple[str, str]]:
    """For each run, by its folder, its model and task in words. Only runs where these agree share a panel."""
    return {run.folder: names for run, names in zip(ordered(runs), asked(frame), strict=True)}


def _grouped(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _told_apart(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """Runs with a kind of line each: those of one strategy share a colour, so their lines differ."""
    kinds = ("-", "--", ":", "-.")
    same = _grouped(runs, lambda run: run.labels["decoding"])
    return [(run, kinds[same[run.labels["decoding"]].index(run) % len(kinds)]) for run in runs]


def _name(run: Run, beside: Sequence[Run]) -> str:
    name = run.labels["decoding"]
    if sum(other.labels["decoding"] == name for other in beside) > 1:
        name += f", {' and '.join(run.budget_words)}, seed {run.seed}"
    return name


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


def draw_all(runs: Sequence[Run], folder: Path) -> dict[str, str]:
    """Write every figure that the records allow into `folder`, and print why the others are not drawn.

    -> what each figure shows, in a sentence, by the name of its file.
    """
    from matplotlib import rc_context

    frame, drawn = of_runs(runs), {}
    drawers = {name: (draw, partial(_named, name, draw, runs, frame)) for name, draw in FIGURES.items()}
    for score in columns_in(frame, Place.FRONTIER):
        if score.name != accuracy().name:  # which has the figure called frontier
            name = f"frontier_{score.title.replace(' ', '_')}"
            drawers[name] = frontier, partial(_named, name, partial(frontier, score=score), runs, frame)
    for name, (shows, draw) in {**drawers, **trace_figures(runs)}.items():
        try:
            with rc_context({"text.parse_math": False}):  # a dollar sign in a label starts no formula
                for file, figure in draw().items():
                    save(figure, folder, file)
                    drawn[file] = str(shows.__doc__).partition("\n")[0]
        except NothingToShowError as reason:
            print(f"{name}: not drawn, {reason}")
    return drawn


def _work(runs: list[Run], out: Path, _: Namespace) -> None:
    for name in draw_all(runs, out):
        print(*(out / f"{name}.{kind}" for kind in KINDS), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the figures of the folders given; -> the exit code, as `command` has it."""
    return command("figures", __doc__, "figures", _work, arguments, extra="figures")


if __name__ == "__main__":
    sys.exit(main())
