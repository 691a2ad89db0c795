"""Where each run stands in a table of the paper's layout: its row, its column, and what sets it apart from others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.columns import accuracy
from analysis.contexts import ordered
from analysis.frame import settings
from analysis.records import Run
from analysis.sheets import plain
from analysis.statistics import Interval

FULL = "no budget"  # the block of runs that keep all generated tokens


@dataclass(frozen=True)
class Layout:
    """A table of the paper with methods and strategies as rows.

    tasks: the paper's tasks, with the number of prompts each has there. prefill: the C of the published figures.
    published: for each scorer the file of its published figures, in analysis/published. across: what the columns are,
    `task` or `method`. split: whether blocks of rows are by C and D; else they are by D.
    """

    title: str
    tasks: Mapping[str, int]
    prefill: int
    published: Mapping[str, str]
    across: str = "task"
    split: bool = False


@dataclass(frozen=True)
class Row:
    """What a row is about. block: its budget, in words. extra: settings that tell it from otherwise equal rows."""

    block: str
    method: str
    decoding: str
    extra: str = ""

    @property
    def name(self) -> str:
        """`h2o + slide, D = 512`."""
        parts = " + ".join(part for part in (self.method, self.decoding) if part)
        return ", ".join(part for part in (parts, self.block if self.block != FULL else "", self.extra) if part)


@dataclass(frozen=True)
class Entry:
    """A run, its row of the frame, and where it stands in the table."""

    run: Run
    figures: Mapping[str, Any]
    row: Row
    column: str

    @property
    def whole(self) -> bool:
        """Whether the run answered all its prompts."""
        return bool(self.figures["prompts"] >= self.figures["planned_prompts"])

    def accuracy(self, scorer: str) -> Interval:
        """Answers right in percent, by one scorer."""
        column = accuracy(scorer)
        return Interval(*(self.figures[name] for name in (column.name, column.low, column.high)))


Entries = dict[tuple[Row, str], Entry]


def placed(layout: Layout, runs: Sequence[Run], frame: pd.DataFrame) -> list[Entry]:
    """Each run with its row and column.

    Runs that would share a cell get rows of their own: told apart by the settings that differ, else by their names.
    frame: that of the same runs, by `analysis.frame.of_runs`.
    """
    told = ("method.budget", "decoding.budget", "budget.bytes", "budget.total")
    telling = [c for c in settings(frame) if c not in told]
    by_prefill = "method.budget" in settings(frame) and not layout.split
    made = []
    for figures, run in zip(frame.to_dict("records"), ordered(runs), strict=True):
        labels = run.labels
        method = labels["method"] if layout.across == "task" else ""
        apart = [extra(figures, telling)]
        prefill = run.budgets[0]
        papers = labels["task"] in layout.tasks
        if prefill is not None and (prefill != layout.prefill if papers and not layout.split else by_prefill):
            apart.append(f"C = {_budget(prefill)}")
        row = Row(_block(layout, run), method, labels["decoding"], ", ".join(filter(None, apart)))
        made.append(Entry(run, figures, row, labels[layout.across]))
    places: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in made:
        labels = entry.run.labels
        places.setdefault((labels["model"], labels["task"], entry.row, entry.column), []).append(entry)
    return [
        entry if len(there) == 1 else replace(entry, row=_named(entry)) for there in places.values() for entry in there
    ]


def _named(entry: Entry) -> Row:
    name = f"{entry.run.experiment}/{entry.run.name[-8:]}"
    return replace(entry.row, extra=", ".join(part for part in (entry.row.extra, name) if part))


def extra(figures: Mapping[str, Any], telling: Sequence[str]) -> str:
    """The values of the settings `telling` in a row of the frame, in words: `seed 2, decoding.recent 16`."""
    return ", ".join(f"{column} {plain(figures[column])}" for column in telling if not pd.isna(figures[column]))


def _block(layout: Layout, run: Run) -> str:
    """The budget that a run's block of rows is named by."""
    prefill, decode = run.budgets
    parts = [f"D = what {run.bound} leave"] * (run.bound is not None)
    parts = [f"D = {_budget(decode)}"] * (decode is not None) + parts
    if layout.split:
        parts = [f"C = {_budget(prefill)}"] * (prefill is not None) + parts
    total = ""
    if layout.split and isinstance(prefill, int) and isinstance(decode, int):
        total = f" (total {prefill + decode})"
    return ", ".join(parts) + total if parts else FULL


def _budget(value: Any) -> str:
    return f"{value:g} P" if isinstance(value, float) else str(value)
