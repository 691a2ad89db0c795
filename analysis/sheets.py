"""One table as rounded text: what the terminal, Markdown and LaTeX are made from, so that all three say the same."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from scope.util.speeds import written

NOTHING = "\N{EN DASH}"  # what a cell without a value shows
STAR = "*"  # after a figure that not all prompts stand behind
DAGGER = "\N{DAGGER}"  # after a speed that does not compare with the others
_BEGINS_FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")  # the last four are as wide as a Chinese character
_IS_FIGURE = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?( \[[-+\d., ]+\])?", re.ASCII)


@dataclass(frozen=True)
class Sheet:
    """`keys` say what a row is; `columns` are headed by at most two lines, the first shared by what belongs together.

    `best`: heading -> which rows are bold there. `blocked`: the first of the keys parts the rows into blocks.
    `remarks`: what has to be read with the figures, a line each.
    """

    title: str
    about: str
    label: str
    keys: pd.DataFrame
    columns: pd.DataFrame
    best: Mapping[str, Sequence[bool]] = field(default_factory=dict)
    blocked: bool = False
    remarks: tuple[str, ...] = ()


def as_csv(frame: pd.DataFrame) -> str:
    """A frame as CSV whose text no spreadsheet takes for a formula: such a cell begins with an apostrophe."""
    cells = frame.map(lambda cell: _no_formula(cell) if isinstance(cell, str) else cell)
    return str(cells.rename(columns=_no_formula).to_csv(index=False))


def _no_formula(text: str) -> str:
    return f"'{text}" if text.lstrip()[:1] in _BEGINS_FORMULA and not _IS_FIGURE.fullmatch(text) else text


def number(value: float, digits: int = 1) -> str:
    return NOTHING if pd.isna(value) else f"{value:z.{digits}f}"


def speed(per_second: float, mark: bool = False) -> str:
    return NOTHING if pd.isna(per_second) else written(per_second) + DAGGER * mark


def signed(value: float, digits: int = 1) -> str:
    return NOTHING if pd.isna(value) else f"{value:+z.{digits}f}"


def interval(estimate: float, low: float, high: float, whole: bool = True) -> str:
    """`46.5 [38.1, 55.2]`, with a star where not all prompts were answered; `46.5` where there is no interval."""
    if pd.isna(estimate):
        return NOTHING
    bounds = "" if pd.isna(low) else f" [{number(low)}, {number(high)}]"
    return f"{number(estimate)}{'' if whole else STAR}{bounds}"


def numbers(values: Iterable[float]) -> list[str]:
    return [number(value) for value in values]


def plain(value: object) -> str:
    return NOTHING if pd.isna(value) else str(value)


def one_line(heading: str) -> str:
    return heading.replace("\n", " ")


def bytes_unit(mib: "pd.Series[float]") -> tuple[str, float]:
    """The unit for such sizes, and what a size in MiB is multiplied by for it."""
    return ("KiB", 1024) if mib.max() < 1 else ("MiB", 1)
