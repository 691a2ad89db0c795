"""One table as numbers, and their text. The terminal, Markdown and LaTeX all show the same sheet.

A sheet holds numbers. They become text in the last step, here for the terminal and Markdown and in `analysis.latex`
for LaTeX, which sets figures and intervals in columns of their own.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.columns import Column, Digits
from analysis.speeds import DAGGER
from scope.util.speeds import written

NOTHING = "\N{EN DASH}"  # what a cell without a value shows
STAR = "*"  # after a figure of a run that has not answered all its prompts
NOTES = "notes"  # the one column of words that may take several lines
_BEGINS_FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")  # the last four are as wide as a Chinese character
_IS_FIGURE = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?( \[[-+\d., ]+\])?", re.ASCII)


@dataclass(frozen=True)
class Cells:
    """The cells of one column, top to bottom: numbers, or words.

    values: NaN or None where there is nothing. bounds: of the interval behind each number; NaN where there is none.
    digits: decimals, as in `analysis.columns`. signed: whether a number above 0 gets a plus. marks: what stands after
    each number (`STAR`, `DAGGER`). best: which cells are bold.
    """

    values: Sequence[Any]
    digits: Digits = 1
    bounds: Sequence[tuple[float, float]] = ()
    signed: bool = False
    marks: Sequence[str] = ()
    best: Sequence[bool] = ()

    @property
    def are_words(self) -> bool:
        return any(isinstance(value, str) for value in self.values)

    def figures(self) -> list[str]:
        """The text of each cell without its interval: `46.5`, `46.5*`, or words as they are."""
        marks = self.marks or [""] * len(self.values)
        texts = [value if isinstance(value, str) else _number(value, self.digits, self.signed) for value in self.values]
        return [text if text == NOTHING else text + mark for text, mark in zip(texts, marks, strict=True)]

    def intervals(self) -> list[str]:
        """`[38.1, 55.2]` of each cell, empty where it has no interval."""
        bounds = self.bounds or [(float("nan"), float("nan"))] * len(self.values)
        there = [not (pd.isna(v) or pd.isna(low)) for v, (low, _) in zip(self.values, bounds, strict=True)]
        texts = [f"[{_number(low, self.digits)}, {_number(high, self.digits)}]" for low, high in bounds]
        return [text * shown for text, shown in zip(texts, there, strict=True)]

    def texts(self) -> list[str]:
        """The text of each cell: `46.5 [38.1, 55.2]`."""
        return [" ".join(filter(None, parts)) for parts in zip(self.figures(), self.intervals(), strict=True)]

    def bold(self) -> list[bool]:
        return list(self.best) or [False] * len(self.values)

    def part(self, rows: slice) -> "Cells":
        """The cells of these rows."""
        return replace(
            self, values=self.values[rows], bounds=self.bounds[rows], marks=self.marks[rows], best=self.best[rows]
        )


@dataclass(frozen=True)
class Sheet:
    """One table.

    keys: words that say what a row is. columns: by their headings, which have at most two lines, the first shared by
    columns that belong together. blocked: whether the first of the keys divides the rows into blocks. remarks: what has
    to be read with the figures, a line each.
    """

    title: str
    about: str
    label: str
    keys: pd.DataFrame
    columns: Mapping[str, Cells]
    blocked: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def text(self) -> pd.DataFrame:
        """The columns as text."""
        return pd.DataFrame(
            {heading: cells.texts() for heading, cells in self.columns.items()}, index=self.keys.index, dtype=object
        )

    @property
    def best(self) -> dict[str, list[bool]]:
        """By heading, which cells are bold."""
        return {heading: cells.bold() for heading, cells in self.columns.items()}

    def part(self, rows: slice) -> "Sheet":
        """The same table of these rows only."""
        keys = self.keys[rows].reset_index(drop=True)
        return replace(self, keys=keys, columns={h: cells.part(rows) for h, cells in self.columns.items()})


def of_column(frame: pd.DataFrame, column: Column) -> tuple[str, Cells]:
    """A column of a frame of `analysis.frame`: its heading in a table, and its cells."""
    if column.out_of:
        return column.heading, counts(frame[column.name], frame[column.out_of])
    values = frame[column.name]
    bounds = list(zip(frame[column.low], frame[column.high], strict=True)) if column.statistic else []
    marks = [DAGGER * bool(reason) for reason in frame[column.marked_by]] if column.marked_by else []
    if column.unit == "MiB":
        unit, scale = bytes_unit(values)
        column, values = replace(column, unit=unit), values * scale
    best = list(frame[column.best]) if column.best else ()
    return column.heading, Cells(list(values), column.digits, bounds, marks=marks, best=best)


def counts(answered: Iterable[int], planned: Iterable[int]) -> Cells:
    """Counts, as numbers where all are as planned; else in words, `2 of 3` where there are less."""
    pairs = list(zip(answered, planned, strict=True))
    if all(count >= there for count, there in pairs):
        return Cells([count for count, _ in pairs], digits=0)
    return Cells([f"{count:.0f}" if count >= there else f"{count:.0f} of {there:.0f}" for count, there in pairs])


def bytes_unit(mib: "pd.Series[float]") -> tuple[str, float]:
    """The unit for such sizes, and what a size in MiB is multiplied by for it."""
    return ("KiB", 1024) if mib.max() < 1 else ("MiB", 1)


def _number(value: Any, digits: Digits, signed: bool = False) -> str:
    if pd.isna(value):
        return NOTHING
    if digits == "significant":
        return written(value)
    return f"{value:{'+' * signed}z.{digits}f}"  # z: no minus before 0.0


def plain(value: object) -> str:
    """A setting or label as text."""
    return NOTHING if pd.isna(value) else str(value)


def one_line(heading: str) -> str:
    """A heading without its line break."""
    return heading.replace("\n", " ")


def as_csv(frame: pd.DataFrame) -> str:
    """A frame as CSV whose text no spreadsheet takes for a formula: such a cell begins with an apostrophe."""
    cells = frame.map(lambda cell: _no_formula(cell) if isinstance(cell, str) else cell)
    return str(cells.rename(columns=_no_formula).to_csv(index=False))


def _no_formula(text: str) -> str:
    return f"'{text}" if text.lstrip()[:1] in _BEGINS_FORMULA and not _IS_FIGURE.fullmatch(text) else text
