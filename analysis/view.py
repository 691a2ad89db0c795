"""The frame as sheets, and sheets on a terminal."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.columns import OWN_TEXTS, Column, Place
from analysis.frame import blocks, columns_in, complete, settings
from analysis.sheets import NOTES, NOTHING, STAR, Cells, Sheet, of_column, plain
from analysis.speeds import remarks_on
from analysis.statistics import TESTABLE
from analysis.story import story
from scope.util.saying import say
from scope.util.visible import visible

MOST_ROWS = 12  # of a table on a terminal; a longer one is in the files
NOTES_WIDTH = 28  # characters; notes wrap at this width where the terminal is narrow


@dataclass(frozen=True)
class View:
    """What the table of a frame shows.

    experiment: its name, or several. constant: the model, task and fidelity that all rows have. about: what has to be
    known to read the table. keys: words that say what a row is. quality, cost: the columns by their headings. remarks:
    what has to be read with the figures, a line each.
    """

    experiment: str
    constant: str
    about: str
    keys: pd.DataFrame
    quality: Mapping[str, Cells]
    cost: Mapping[str, Cells]
    remarks: tuple[str, ...]


def make_view(frame: pd.DataFrame) -> View:
    """What the table of a frame of `analysis.frame` shows."""
    keys = _keys(frame)
    constant = [f"{part} {frame[part].iloc[0]}" for part in ("model", "task") if part not in keys]
    if set(frame["fidelity"]) - {"", "paper"} and "fidelity" not in keys:
        constant.append(f"fidelity {', '.join(frame['fidelity'].unique())}")
    quality, cost = (columns_in(frame, place) for place in (Place.QUALITY, Place.COST))
    return View(
        experiment=", ".join(frame["experiment"].unique()),
        constant=", ".join(constant),
        about=_about(frame, [*quality, *cost]),
        keys=pd.DataFrame({key: [plain(value) for value in frame[key]] for key in keys}),
        quality=dict(of_column(frame, column) for column in quality),
        cost=dict(of_column(frame, column) for column in cost),
        remarks=tuple(remarks_on(frame)),
    )


def _keys(frame: pd.DataFrame) -> list[str]:
    """The columns that tell the rows apart: method, decoding, and as few others as needed."""
    keys = [part for part in ("model", "task") if frame[part].nunique() > 1] + ["method", "decoding", *settings(frame)]
    for last_resort in ("budget", "experiment", "run"):
        if frame.duplicated(keys).any() and frame[last_resort].nunique() > 1:
            keys.append(last_resort)
    return keys


def grids(frame: pd.DataFrame) -> list[tuple[str, Sheet]]:
    """For every block with at least two methods and strategies, more than half of them crossed, the accuracy by both.

    -> the block's conditions in words, and the grid: a sheet without title.
    """
    found = []
    for block in blocks(frame):
        rows, columns = _labels(block, settings(frame), "method"), _labels(block, settings(frame), "decoding")
        if block["accuracy_percent"].isna().all():  # of a task without questions, or of replays
            continue
        crossed = len(set(zip(rows, columns, strict=True)))
        if len(set(rows)) < 2 or len(set(columns)) < 2 or 2 * crossed <= len(set(rows)) * len(set(columns)):
            continue
        there: dict[tuple[str, str], list[tuple[float, str]]] = {}
        for row, column, accuracy, whole in zip(rows, columns, block["accuracy_percent"], complete(block), strict=True):
            there.setdefault((row, column), []).append((accuracy, STAR * (not whole)))
        methods = list(dict.fromkeys(rows))
        cells = {
            column: _grid_cells([there.get((row, column), []) for row in methods]) for column in dict.fromkeys(columns)
        }
        found.append((_conditions_text(frame, block), Sheet("", "", "", pd.DataFrame({"method": methods}), cells)))
    return found


def _grid_cells(runs: Sequence[Sequence[tuple[float, str]]]) -> Cells:
    """One column of a grid: the accuracies and marks of the runs of each cell; words where a cell has several runs."""
    if all(len(there) < 2 for there in runs):
        pairs = [there[0] if there else (float("nan"), "") for there in runs]
        return Cells([accuracy for accuracy, _ in pairs], marks=[mark for _, mark in pairs])
    texts = [Cells([a for a, _ in there], marks=[mark for _, mark in there]).texts() for there in runs]
    return Cells([" / ".join(text) or NOTHING for text in texts])


def _labels(block: pd.DataFrame, telling: Sequence[str], part: str) -> list[str]:
    """`part` of every row, with its settings where these tell rows apart: `slide, budget 128`."""
    labels = [str(label) for label in block[part]]
    for setting in (key for key in telling if key.startswith(f"{part}.")):
        name = setting.removeprefix(f"{part}.")
        values = [None if pd.isna(value) else value for value in block[setting]]
        labels = [
            label if value is None else f"{label}, {name} {value}" for label, value in zip(labels, values, strict=True)
        ]
    return labels


def _conditions_text(frame: pd.DataFrame, block: pd.DataFrame) -> str:
    compared = {"method", "decoding", "budget", "experiment", "run"}
    keys = [key for key in _keys(frame) if key not in compared and not key.startswith(("method.", "decoding."))]
    return ", ".join(f"{key} {plain(block[key].iloc[0])}" for key in keys)


def _about(frame: pd.DataFrame, columns: Sequence[Column]) -> str:
    """What has to be known of every table: intervals, what is bold, and what its columns count."""
    told = "; ".join(f"{column.title}: {column.about}" for column in columns if column.about and column.statistic)
    parts = [ABOUT_INTERVALS, *[f"{told[:1].upper()}{told[1:]}."] * bool(told), ABOUT_BOLD]
    return " ".join(parts + [ABOUT_OWN] * (OWN_TEXTS in set(frame["cache_percent_of"])))


ABOUT_LONG = "{} runs, {} with notes: all columns are in table.md, which `python -m analysis.tables FOLDER` writes too."
ABOUT_INTERVALS = "Intervals are 95% and clustered by prompt."
ABOUT_BOLD = (
    "Bold: a compressed run that cannot be told from the best one (paired by prompt; with fewer than "
    f"{TESTABLE} prompts none is)."
)
ABOUT_EXPLAIN = "python -m analysis.tables FOLDER --explain says what each column is."
ABOUT_OWN = "Bytes in % of own texts: of what a full cache would have needed for the texts that the run itself wrote."
ABOUT_GRID = "Accuracy in % by method (rows) and decoding strategy (columns)"
ABOUT_STAR = "* not all prompts answered"


def about_grid(conditions: str, grid: Sheet) -> str:
    """The title of a grid of `grids`."""
    starred = any(STAR in mark for cells in grid.columns.values() for mark in cells.marks)
    starred |= any(STAR in str(value) for cells in grid.columns.values() for value in cells.values)
    return "; ".join([ABOUT_GRID, *[conditions] * bool(conditions), *[ABOUT_STAR] * starred])


def sheets(frame: pd.DataFrame) -> list[Sheet]:
    """Quality, cost and accuracy grids as a sheet each: side by side they would not fit on a page of text."""
    view = make_view(frame)
    label = "tab:" + re.sub(r"[^A-Za-z0-9]+", "-", view.experiment).strip("-")
    of = f" of {view.experiment}{f' ({view.constant})' * bool(view.constant)}"
    made = [
        Sheet(
            f"{'Accuracy' if frame['questions'].any() else 'Quality'}{of}",
            view.about,
            f"{label}-accuracy",
            view.keys,
            view.quality,
        ),
        Sheet(f"Cache and speed{of}", "", f"{label}-cost", view.keys, view.cost, remarks=view.remarks),
    ]
    for position, (conditions, grid) in enumerate(grids(frame), start=1):
        title = f"{view.experiment}: {about_grid(conditions or view.constant, grid)}"
        made.append(replace(grid, title=title, label=f"{label}-grid-{position}"))
    return made


def whole(view: View) -> Sheet:
    """Quality and cost side by side."""
    return Sheet("", "", "", view.keys, {**view.quality, **view.cost})


def show(frame: pd.DataFrame, console: Console) -> None:
    """Print the table, and what compression saved and cost. A console too narrow gets several tables below each other.

    Of more than `MOST_ROWS` rows only the accuracy by method and strategy is printed, or else the first columns.
    """
    view, crossed, long = make_view(frame), grids(frame), len(frame) > MOST_ROWS
    console.print(Text(view.experiment, "bold") + Text(f"  {view.constant}" * bool(view.constant)))
    if not long or not crossed:
        print_sheet(whole(view), console, parts=1 if long else None)
    for conditions, grid in crossed:
        console.print(Text(about_grid(conditions, grid)))
        print_sheet(grid, console)
    for said in () if long else view.remarks:
        say(console, said, "yellow")
    if long:
        noted = sum(bool(notes) for notes in frame["notes"])
        console.print(Text(ABOUT_LONG.format(len(frame), noted), "yellow"))
    own = f" {ABOUT_OWN}" * (ABOUT_OWN in view.about)
    console.print(Text(f"{ABOUT_INTERVALS} {ABOUT_BOLD}{own} {ABOUT_EXPLAIN}", "dim"))
    for said in story(frame):
        console.print(Text(said))


def explain(frame: pd.DataFrame, console: Console) -> None:
    """Print what each column of the table is, one a line."""
    for column in (column for place in (Place.QUALITY, Place.COST) for column in columns_in(frame, place)):
        say(console, f"{column.one_line}: {column.about}")


def show_sheet(sheet: Sheet, console: Console) -> None:
    """Print a sheet, with what has to be read beside it."""
    console.print(Text(sheet.title, "bold"))
    print_sheet(sheet, console)
    for remark in sheet.remarks:
        say(console, remark, "yellow")
    console.print(Text(sheet.about, "dim"))


def print_sheet(sheet: Sheet, console: Console, parts: int | None = None) -> None:
    """Print the columns of a sheet. parts: as in `print_columns`."""
    print_columns(sheet.keys, sheet.text, sheet.best, console, parts)


def print_columns(
    keys: pd.DataFrame,
    columns: pd.DataFrame,
    best: Mapping[str, Sequence[bool]],
    console: Console,
    parts: int | None = None,
) -> None:
    """Print a table of text. keys: words that say what a row is. best: by heading, which cells are bold.

    parts: how many of the tables that a narrow console needs are printed, the first ones; None: all.
    """
    keys, columns = (cells.map(partial(visible, keep="\n")) for cells in (keys, columns))
    for part in islice(_fitting(columns, console.width - width(keys)), parts):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        # Never crop or wrap a number: half of one is wrong. A line too long is left to the terminal to break.
        needed = width(keys) + width(part)
        table.width = needed if needed > console.width else None
        for column in (*keys, *part):
            words = column in keys or column == NOTES
            table.add_column(Text(_heading(column)), justify="left" if words else "right", no_wrap=column != NOTES)
        for row, cells in enumerate(keys.join(part).to_dict("records")):
            table.add_row(*(Text(cells[c], "bold" if c in best and best[c][row] else "") for c in cells))
        console.print(table, "", crop=False)


def _fitting(columns: pd.DataFrame, most: int) -> Iterator[pd.DataFrame]:
    """The columns in as few parts as possible, each at most `most` characters wide."""
    part: list[str] = []
    for column in columns:
        if part and width(columns[[*part, column]]) > most:
            yield columns[part]
            part = []
        part.append(column)
    yield columns[part]


def width(text: pd.DataFrame) -> int:
    """The width of the columns in characters, with two spaces after each."""
    return sum(_column_width(column, text[column]) + 2 for column in text)


def _column_width(column: str, cells: "pd.Series[str]") -> int:
    longest = max(cell_len(line) for cell in (_heading(column), *cells) for line in cell.split("\n"))
    return min(longest, NOTES_WIDTH) if column == NOTES else longest


def _heading(column: str) -> str:
    return column.replace(", ", ",\n") if ", " in column else column.replace(".", ".\n")
