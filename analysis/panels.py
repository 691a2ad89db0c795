"""What every figure shares: its panels, their labels, and the error where the records lack what a figure shows."""

from typing import Any

import numpy as np

from scope.util.errors import ScopeError

SIZE = (3.4, 2.7)  # inches of one panel


class NothingToShowError(ScopeError):
    """The records lack what a figure shows. The message says what."""


def panels(count: int, size: tuple[float, float] = SIZE, columns: int = 4) -> tuple[Any, list[Any]]:
    """A figure with `count` panels in rows of at most `columns`; size: width and height of a panel in inches.

    -> the figure and its axes, those of unused places left out.
    """
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def dress(axis: Any, title: str, x: str, y: str) -> None:
    """Title, labels and grid of a panel. A y axis in % runs from 0 to 104, so that marks at 100 are whole."""
    axis.set_title(title, fontsize=8)
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25, lw=0.5)
    if y.endswith("%"):
        axis.set_ylim(0, 104)


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
