"""The frame as rounded text, and that text on a terminal."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.frame import (
    ABOUT_SCORERS,
    LOST,
    MEASURED,
    OWN_TEXTS,
    blocks,
    cache_heading,
    complete,
    measure_columns,
    measured,
    score_columns,
    score_heading,
    scored,
    settings,
)
from analysis.sheets import NOTHING, STAR, Sheet, bytes_unit, interval, number, numbers, plain, speed
from analysis.speeds import marks, remarks_on
from scope.util.visible import visible

NOTES_WIDTH = 28  # characters of terminal that notes are wrapped to where space is short


@dataclass(frozen=True)
class View:
    """The frame as rounded text. `keys` say what a row is; `best`: heading -> which rows tie with the best there.

    `remarks`: what has to be read with the figures, a line each.
    """

    experiment: str
    constant: str
    about: str
    keys: pd.DataFrame
    quality: pd.DataFrame
    cost: pd.DataFrame
    best: dict[str, list[bool]]
    remarks: tuple[str, ...]


def make_view(frame: pd.DataFrame) -> View:
    keys = _keys(frame)
    constant = [f"{part} {frame[part].iloc[0]}" for part in ("model", "task") if part not in keys]
    if set(frame["fidelity"]) - {"", "paper"} and "fidelity" not in keys:
        constant.append(f"fidelity {', '.join(frame['fidelity'].unique())}")
    unit, scale = bytes_unit(frame["cache_mib"])
    by_scorer = {f"{score_heading(name)}\n[95% interval]": score_columns(name) for name in scored(frame)}
    quality = {
        "prompts": [_count(*counts) for counts in zip(frame["prompts"], frame["planned_prompts"], strict=True)],
        "questions": [str(count) for count in frame["questions"]],
        **{heading: _intervals(frame, *columns[:3]) for heading, columns in by_scorer.items()},
        "points lost\n[95% interval]": _intervals(frame, *LOST),
        "missing\n%": numbers(frame["missing_percent"]),
        "dupli-\ncates": [plain(count) if pd.isna(count) else f"{count:.0f}" for count in frame["duplicates"]],
    }
    bold = {heading: list(frame[columns.best]) for heading, columns in by_scorer.items()}
    for name in measured(frame):
        heading = f"{name} %\n[95% interval]"
        quality[heading] = _intervals(frame, *measure_columns(name))
        bold[heading] = list(frame[f"{MEASURED}{name}_best"])
    if measured(frame) and not frame["questions"].any():  # a task that asks no questions
        quality = {heading: cells for heading, cells in quality.items() if heading in bold and heading not in by_scorer}
    compared = bool(frame["points_lost"].notna().any())
    if not compared:
        quality.pop("points lost\n[95% interval]", None)
    cost = {
        "slots": numbers(frame["slots"]),
        "slots\nkept %": numbers(frame["kept_percent"]),
        f"cache\n{unit}": numbers(frame["cache_mib"] * scale),
        cache_heading(frame).replace(" of ", "\nof "): numbers(frame["cache_percent"]),
        "tokens/s": [speed(*cell) for cell in zip(frame["tokens_per_second"], marks(frame), strict=True)],
    }
    if any(frame["notes"]):
        cost["notes"] = list(frame["notes"])
    return View(
        experiment=", ".join(frame["experiment"].unique()),
        constant=", ".join(constant),
        about=" ".join(
            [_about(frame), *[ABOUT_LOST] * compared, *[ABOUT_OWN] * (OWN_TEXTS in set(frame["cache_percent_of"]))]
        ),
        keys=pd.DataFrame({key: [plain(value) for value in frame[key]] for key in keys}),
        quality=pd.DataFrame(quality),
        cost=pd.DataFrame(cost),
        best=bold,
        remarks=tuple(remarks_on(frame)),
    )


def _keys(frame: pd.DataFrame) -> list[str]:
    """The columns that tell the rows apart: as few as do, and at the least method and decoding."""
    keys = [part for part in ("model", "task") if frame[part].nunique() > 1] + ["method", "decoding", *settings(frame)]
    for last_resort in ("budget", "experiment", "run"):
        if frame.duplicated(keys).any() and frame[last_resort].nunique() > 1:
            keys.append(last_resort)
    return keys


def _settings_of(frame: pd.DataFrame, part: str) -> list[str]:
    return [column for column in settings(frame) if column.startswith(f"{part}.")]


def grids(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """For every block with at least two methods and two strategies, most of them crossed, accuracy by both.

    -> the block's conditions and its grid.
    """
    grids = []
    for block in blocks(frame):
        rows, columns = _labels(block, "method"), _labels(block, "decoding")
        crossed = len(set(zip(rows, columns, strict=True)))
        if len(set(rows)) < 2 or len(set(columns)) < 2 or 2 * crossed < len(set(rows)) * len(set(columns)):
            continue
        cells: dict[tuple[str, str], list[str]] = {}
        for row, column, accuracy, whole in zip(rows, columns, block["accuracy_percent"], complete(block), strict=True):
            cells.setdefault((row, column), []).append(number(accuracy) + STAR * (not whole))
        grid = {"method": list(dict.fromkeys(rows))} | {
            column: [" / ".join(cells.get((row, column), [NOTHING])) for row in dict.fromkeys(rows)]
            for column in dict.fromkeys(columns)
        }
        grids.append((_conditions_text(frame, block), pd.DataFrame(grid)))
    return grids


def _labels(block: pd.DataFrame, part: str) -> list[str]:
    """`part` of every row, with its settings where these tell rows apart: `slide, budget 128`."""
    labels = [str(label) for label in block[part]]
    for setting in _settings_of(block, part):
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


def _count(answered: int, planned: int) -> str:
    return str(answered) if answered >= planned else f"{answered} of {planned}"


def _intervals(frame: pd.DataFrame, estimate: str, low: str, high: str) -> list[str]:
    return [interval(*bounds) for bounds in zip(frame[estimate], frame[low], frame[high], strict=True)]


def _about(frame: pd.DataFrame) -> str:
    """What has to be known of every table: intervals, what each scorer counts, what is bold."""
    told = frame.attrs.get(ABOUT_SCORERS, {})
    scorers = [f"{score_heading(name).removesuffix(' %')}: {told[name]}" for name in scored(frame) if told.get(name)]
    counted = "; ".join(scorers)
    return " ".join([ABOUT_INTERVALS, *[f"{counted[:1].upper()}{counted[1:]}."] * bool(counted), ABOUT_BOLD])


ABOUT_INTERVALS = "Intervals are 95% and clustered by prompt."
ABOUT_BOLD = "Bold: a compressed run that cannot be told from the best one (paired by prompt)."
ABOUT_LOST = (
    "Points lost: accuracy of the uncompressed run minus this one's, over the prompts both answered; positive is worse."
)
ABOUT_OWN = "Bytes in % of own texts: of what a full cache would have needed for the texts that the run itself wrote."
ABOUT_GRID = "Accuracy in % by method (rows) and decoding strategy (columns)"
ABOUT_STAR = "* not all prompts answered"


def about_grid(conditions: str, grid: pd.DataFrame) -> str:
    starred = grid.map(lambda cell: cell.endswith(STAR)).any(axis=None)
    return "; ".join([ABOUT_GRID, *[conditions] * bool(conditions), *[ABOUT_STAR] * bool(starred)])


def sheets(frame: pd.DataFrame) -> list[Sheet]:
    """Quality, cost and accuracy grids as a sheet each: side by side they would not fit on a page of text."""
    view = make_view(frame)
    label = "tab:" + re.sub(r"[^A-Za-z0-9]+", "-", view.experiment).strip("-")
    of = f" of {view.experiment}{f' ({view.constant})' * bool(view.constant)}"
    made = [
        Sheet(f"Accuracy{of}", view.about, f"{label}-accuracy", view.keys, view.quality, view.best),
        Sheet(f"Cache and speed{of}", "", f"{label}-cost", view.keys, view.cost, remarks=view.remarks),
    ]
    for position, (conditions, grid) in enumerate(grids(frame), start=1):
        title = f"{view.experiment}: {about_grid(conditions or view.constant, grid)}"
        made.append(Sheet(title, "", f"{label}-grid-{position}", grid[["method"]], grid.drop(columns="method")))
    return made


def show(frame: pd.DataFrame, console: Console) -> None:
    """Print the table; where the console is too narrow for it, as several below each other with the same rows."""
    view = make_view(frame)
    console.print(Text(view.experiment, "bold") + Text(f"  {view.constant}" * bool(view.constant)), "")
    print_columns(view.keys, view.quality.join(view.cost), view.best, console)
    for conditions, grid in grids(frame):
        console.print(Text(about_grid(conditions, grid)), "")
        print_columns(grid[["method"]], grid.drop(columns="method"), {}, console)
    for said in view.remarks:
        console.print(Text(said, "yellow"), soft_wrap=True)
    console.print(Text(view.about, "dim"))


def show_sheet(sheet: Sheet, console: Console) -> None:
    """Print a sheet, with what has to be read beside it."""
    console.print(Text(sheet.title, "bold"), "")
    print_columns(sheet.keys, sheet.columns, sheet.best, console)
    for remark in sheet.remarks:
        console.print(Text(remark, "yellow"), soft_wrap=True)
    console.print(Text(sheet.about, "dim"), "")


def print_columns(
    keys: pd.DataFrame, columns: pd.DataFrame, best: Mapping[str, Sequence[bool]], console: Console
) -> None:
    keys, columns = (cells.map(partial(visible, keep="\n")) for cells in (keys, columns))
    for part in _fitting(columns, console.width - width(keys)):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        # Cropped or wrapped, half a number is a wrong number: beyond the console's width, the terminal breaks the line.
        needed = width(keys) + width(part)
        table.width = needed if needed > console.width else None
        for column in (*keys, *part):
            words = column in keys or column == "notes"
            table.add_column(Text(_heading(column)), justify="left" if words else "right", no_wrap=column != "notes")
        for row, cells in enumerate(keys.join(part).to_dict("records")):
            table.add_row(*(Text(cells[c], "bold" if c in best and best[c][row] else "") for c in cells))
        console.print(table, "", crop=False)


def _fitting(columns: pd.DataFrame, room: int) -> Iterator[pd.DataFrame]:
    """The columns in as few parts as are at most `room` characters wide each."""
    part: list[str] = []
    for column in columns:
        if part and width(columns[[*part, column]]) > room:
            yield columns[part]
            part = []
        part.append(column)
    yield columns[part]


def width(text: pd.DataFrame) -> int:
    """Characters that the columns need, two more for each to keep it from the next."""
    return sum(_column_width(column, text[column]) + 2 for column in text)


def _column_width(column: str, cells: "pd.Series[str]") -> int:
    longest = max(cell_len(line) for cell in (_heading(column), *cells) for line in cell.split("\n"))
    return min(longest, NOTES_WIDTH) if column == "notes" else longest


def _heading(column: str) -> str:
    return column.replace(", ", ",\n") if ", " in column else column.replace(".", ".\n")
