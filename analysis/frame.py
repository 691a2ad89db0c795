"""Records -> a data frame: one row per run, exact numbers. Every table, page and dashboard is made from it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.columns import (
    COLUMNS,
    LABELS,
    OWN_TEXTS,
    Column,
    Family,
    Place,
    Statistic,
    about_scorers,
    columns_for,
    named,
    shown,
)
from analysis.contexts import contexts, ordered
from analysis.records import Run, read_runs
from analysis.settings import settings_of, telling
from analysis.statistics import tied_with_best

TABLE = "columns"  # in the frame's attrs: the columns that it was built with
IDENTITY = tuple(column.name for column in LABELS)


def build(folders: str | Path | Sequence[str | Path], table: Sequence[Column | Family] = COLUMNS) -> pd.DataFrame:
    """One row per run in and below `folders`, uncompressed first and then in the order the runs were created.

    table: the columns (`analysis/columns.py`). The labels come first, then one column for each setting that tells runs
    of the same labels apart (`decoding.budget`, say), then the rest. What is made from the frame has the same columns.
    Raises RecordsError for a folder that cannot be read as a sweep.
    """
    several = [folders] if isinstance(folders, str | Path) else folders
    return of_runs(read_runs([Path(folder) for folder in several]), table)


def of_runs(read: Sequence[Run], table: Sequence[Column | Family] = COLUMNS) -> pd.DataFrame:
    """The same for runs that were read already."""
    runs = ordered(read)
    columns = columns_for(runs, table)
    rows = [
        {name: cell for column in columns for name, cell in column.cells(context).items()}
        for context in contexts(runs, list(about_scorers(runs)))
    ]
    frame = pd.DataFrame(rows)
    for column in columns:
        if column.across:
            frame[column.name] = list(column.across(frame))
    _insert_settings(frame, runs)
    frame.attrs[TABLE] = _own_texts_told(frame, columns)
    for column in columns:
        if column.best:
            frame[column.best] = _tied(frame, runs, column)
    return frame


def columns_of(frame: pd.DataFrame) -> tuple[Column, ...]:
    """The columns that a frame of `build` or `of_runs` has, in their order; settings are not among them."""
    return tuple(frame.attrs[TABLE])


def columns_in(frame: pd.DataFrame, place: Place) -> list[Column]:
    """The columns that a place shows of this frame."""
    return list(shown(frame, columns_of(frame), place))


def settings(frame: pd.DataFrame) -> list[str]:
    """The columns that were added to tell rows apart."""
    fixed = {name for column in columns_of(frame) for name in column.names}
    return [name for name in frame if name not in fixed]


def complete(frame: pd.DataFrame) -> "pd.Series[bool]":
    """Which runs answered all their prompts."""
    return frame["prompts"] >= frame["planned_prompts"]


def blocks(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows that may be compared: those of one model, task and seed."""
    compared = ("method.", "decoding.")
    conditions = ["model", "task"] + [column for column in settings(frame) if not column.startswith(compared)]
    return [block for _, block in frame.groupby(conditions, sort=False, dropna=False)]


def asked(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """For each row its model and its task, with the settings that tell models or tasks of one name apart.

    Rows where these differ belong in different panels: `arithmetic_tiny` of 8 questions is not that of 58. A replay's
    text counts as the task's.
    """

    def with_settings(row: Mapping[str, Any], part: str) -> str:
        nodes = (f"{part}.", "replay.") if part == "task" else (f"{part}.",)
        columns = [column for column in settings(frame) if column.startswith(nodes) and not pd.isna(row[column])]
        return ", ".join([str(row[part]), *(f"{column.removeprefix(f'{part}.')} {row[column]}" for column in columns)])

    return [(with_settings(row, "model"), with_settings(row, "task")) for row in frame.to_dict("records")]


def _insert_settings(frame: pd.DataFrame, runs: Sequence[Run]) -> None:
    """Add the settings that tell rows apart, behind the labels."""
    values = [settings_of(run) for run in runs]
    behind = sum(name in frame for name in IDENTITY)
    for position, key in enumerate(telling(values, [run.labels for run in runs]), start=behind):
        # Of type object, so that a whole number stays one where another row has none.
        frame.insert(position, key, pd.Series([value.get(key) for value in values], dtype=object))


def _own_texts_told(frame: pd.DataFrame, columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns, with what the share of bytes is of.

    Where all shares are of the runs' own texts, the column's unit says so; where some are, the notes of these rows.
    """
    share = named(columns).get("cache_percent")
    if share is None:
        return tuple(columns)
    own = frame["cache_percent_of"] == OWN_TEXTS
    if own.all():
        return tuple(replace(c, unit="of own texts") if c is share else c for c in columns)
    note = "cache % of its own texts: no uncompressed run of them"
    told = own & frame["cache_percent"].notna()
    frame.loc[told, "notes"] = ["; ".join([*[notes] * bool(notes), note]) for notes in frame.loc[told, "notes"]]
    return tuple(columns)


def _tied(frame: pd.DataFrame, runs: Sequence[Run], column: Column) -> list[bool]:
    """Which compressed runs tie with the best of their block; a partial run had other prompts, and leads nothing."""
    assert column.scores is not None
    assert column.statistic is not Statistic.LOSS
    scores = [column.scores(run.samples) for run in runs]
    best = [False] * len(frame)
    for block in blocks(frame):
        rows = list(block.index[block["compressed"] & complete(block)])
        ties = tied_with_best([scores[row] for row in rows], column.larger_is_better, column.most)
        for row, tied in zip(rows, ties, strict=True):
            best[row] = tied
    return best
