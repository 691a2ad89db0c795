"""What every figure shares: style, size, panels and their labels, intervals, legend, and which lines have a colour."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any, TypeVar

import numpy as np

from scope.util.errors import ScopeError

WIDTHS = {"page": 6.3, "column": 3.03}  # inches: 16.0 and 7.7 cm, the text and a column of ACL's LaTeX style
NARROW = 4.5  # a figure below that has half as many panels in a row
TALLEST = 2.9  # inches of a panel
MOST = 8  # lines or policies of a panel that have a colour
REST = "#BDBDBD"  # of all others: lighter than any colour of a name
BAR = 0.6  # points: the width of an interval's bar
MARKS = "osD^vPXp"  # of lines that a panel tells apart by their place
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.2)), (0, (1, 1)), (0, (4, 1, 1, 1)))

Item = TypeVar("Item")


class NothingToShowError(ScopeError):
    """The records lack what a figure shows. The message says what."""


@contextmanager
def style(width: str = "page") -> Iterator[None]:
    """Within it, figures are drawn and saved in the style of `figures.mplstyle`. width: one of `WIDTHS`."""
    from matplotlib import rc_context, rc_params_from_file

    with resources.as_file(resources.files("analysis") / "figures.mplstyle") as path:
        rules = rc_params_from_file(path, use_default_template=False)
    with rc_context({**rules, "figure.figsize": (WIDTHS[width], TALLEST)}):
        yield


def panels(count: int, across: int = 2, ratio: float = 0.72, shared: bool = False) -> tuple[Any, list[Any]]:
    """A figure of the style's width with `count` panels.

    across: the most panels in a row of a page; a column has half as many. ratio: height over width of a panel, its
    labels included. shared: whether all panels have the same axes, with numbers at the outer ones only.
    -> the figure and its axes, those of unused places left out.
    """
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    width = float(rcParams["figure.figsize"][0])
    columns = min(count, across if width > NARROW else max(1, across // 2))
    rows = -(-count // columns)
    figure = Figure(figsize=(width, rows * min(TALLEST, ratio * width / columns)), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    for axis in axes[max(0, count - columns) : count]:  # the lowest of its column
        axis.xaxis.set_tick_params(labelbottom=True)
    return figure, axes[:count]


def dress(axis: Any, title: str, x: str, y: str) -> None:
    """Title and labels of a panel. A y axis in % runs from 0 to 104, so that marks at 100 are whole."""
    columns = axis.get_subplotspec().get_gridspec().ncols
    size = axis.title.get_fontsize()
    axis.set_title(wrapped(title, axis.figure.get_size_inches()[0] / columns - 0.15, size))
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    if y.endswith("%"):
        axis.set_ylim(0, 104)


def outer(figure: Any, x: str, y: str) -> None:
    """Labels that all panels share, in as many lines as they need."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    size = FontProperties(size=rcParams["figure.labelsize"]).get_size_in_points()
    width, height = figure.get_size_inches()
    figure.supxlabel(wrapped(x, width - 0.2, size))
    figure.supylabel(wrapped(y, height - 0.2, size))


def wrapped(text: str, inches: float, size: float) -> str:
    """The text in lines of about that many inches, with letters of `size` points."""
    return "\n".join(textwrap.wrap(text, max(8, int(inches * 72 / (0.55 * size)))))


def bars(axis: Any, places: Sequence[float], values: Sequence[Any], **look: Any) -> Any:
    """A line with marks, and thin bars below the marks for the intervals.

    values: of each place an estimate and its bounds, which are NaN where there is no interval. look: of the line, as
    `Axes.errorbar` takes it.
    """
    estimates, lows, highs = (np.array(column, dtype=float) for column in zip(*values, strict=True))
    reach = [estimates - lows, highs - estimates]
    edge = {"mec": "white", "mew": 0.4} if "mfc" not in look else {"mew": 0.8}
    drawn = axis.errorbar(places, estimates, yerr=reach, elinewidth=BAR, **edge | look)
    for bar in drawn[2]:
        bar.set_alpha(0.7)
    return drawn


def logarithmic(axis: Any, least: float = 0.0) -> None:
    """Make the y axis of a panel logarithmic, from `least` on where values reach below it. Call it after all is drawn.

    Labels are plain decimals. There are at least three, however few decades the axis has.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axis.set_yscale("log", nonpositive="clip")
    low, high = axis.get_ylim()
    low = max(low, least)
    axis.set_ylim(low, high)
    if high < 10 * low:
        ticks = MaxNLocator(6, steps=(1, 2, 5, 10))
    else:
        ticks = LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,))
    axis.yaxis.set_major_locator(ticks)
    axis.yaxis.set_major_formatter(lambda value, _: np.format_float_positional(value, 3, fractional=False, trim="-"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def chosen(items: Sequence[Item], worth: Mapping[Item, float] | None = None) -> list[Item]:
    """Those that have a colour, in their order: all where they are at most `MOST`.

    Else those that are worth most; without `worth`, some that lie evenly among them, the first and the last included.
    """
    if len(items) <= MOST:
        return list(items)
    if worth is None:
        return [items[place] for place in np.linspace(0, len(items) - 1, MOST).round().astype(int)]
    best = sorted(items, key=lambda item: -worth[item])[:MOST]
    return [item for item in items if item in best]


def apart(place: int) -> dict[str, Any]:
    """Mark and dashes of a line, by its place among those of a panel: they are told apart without colours too."""
    return {"marker": MARKS[place % len(MARKS)], "ls": DASHES[place % len(DASHES)]}


def number(axis: Any, x: float, y: float, of: int) -> None:
    """Write the number that the legend explains beside a mark."""
    axis.annotate(str(of), (x, y), xytext=(-3, 2.5), textcoords="offset points", ha="right", fontsize=6, zorder=5)


def legend(figure: Any, axes: Sequence[Any], title: str = "", more: Sequence[Any] = ()) -> None:
    """One legend above all panels, which keep their height. Numbered entries come first, in their order.

    more: further entries, after those of the axes.
    """
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    by_name = {name: mark for axis in axes for mark, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    names = sorted(by_name, key=lambda name: int(name.split(":")[0]) if name.split(":")[0].isdigit() else MOST + 1)
    marks = [by_name[name] for name in names] + list(more)
    names += [entry.get_label() for entry in more]
    if not marks:
        return
    font = FontProperties(size=rcParams["legend.fontsize"])
    size = font.get_size_in_points()
    longest = max(text_to_path.get_text_width_height_descent(name, font, False)[0] for name in names)
    width, height = figure.get_size_inches()
    columns = max(1, min(len(names), int(72 * width / (longest + 3.4 * size))))
    lines = -(-len(names) // columns) + bool(title)
    figure.set_size_inches(width, height + (1.35 * lines + 0.8) * size / 72)
    figure.legend(marks, names, loc="outside upper center", ncols=columns, title=title or None)
