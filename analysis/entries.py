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

FULL = "no budget"  # the block of what keeps all that is generated


@dataclass(frozen=True)
class Layout:
    """A table of the paper with methods and strategies as rows.

    `tasks`: the paper's, with the prompts that each has there. `published`: for each scorer the file of its figures, in
    analysis/published. `prefill`: the C that they are for.
    `across`: what the columns are, `task` or `method`. `split`: blocks by C and D instead of by D.
    """

    title: str
    tasks: Mapping[str, int]
    prefill: int
    published: Mapping[str, str]
    across: str = "task"
    split: bool = False


@dataclass(frozen=True)
class Row:
    """What a row is about; `extra`: settings that set it apart from rows that are alike in all else."""

    block: str
    method: str
    decoding: str
    extra: str = ""

    @property
    def name(self) -> str:
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
        return bool(self.figures["prompts"] >= self.figures["planned_prompts"])

    def accuracy(self, scorer: str) -> Interval:
        column = accuracy(scorer)
        return Interval(*(self.figures[name] for name in (column.name, column.low, column.high)))


Entries = dict[tuple[Row, str], Entry]


def placed(layout: Layout, runs: Sequence[Run], frame: pd.DataFrame) -> list[Entry]:
    """Each run with its place; runs that would share one are set apart by what differs, by their names in the end."""
    telling = [c for c in settings(frame) if c not in ("method.budget", "decoding.budget", "budget.bytes")]
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
    """The settings of a row of the frame that set it apart, in words."""
    return ", ".join(f"{column} {plain(figures[column])}" for column in telling if not pd.isna(figures[column]))


def _block(layout: Layout, run: Run) -> str:
    prefill, decode = run.budgets
    both = isinstance(prefill, int) and isinstance(decode, int)
    room = [f"D = what {run.max_bytes} bytes leave"] * (run.max_bytes is not None)
    if layout.split:
        parts = [f"C = {_budget(prefill)}"] * (prefill is not None) + [f"D = {_budget(decode)}"] * (decode is not None)
        return ", ".join(parts + room) + (f" (total {prefill + decode})" if both else "") if parts + room else FULL
    return room[0] if room else FULL if decode is None else f"D = {_budget(decode)}"


def _budget(value: Any) -> str:
    return f"{value:g} P" if isinstance(value, float) else str(value)
