"""The paper's tables, filled from records: its rows and columns, with the published figures beside the measured ones.

What the paper has and the records lack is said under the table. A row that only the records have is shown too, without
a published figure. Records of other models or tasks than the paper's get the same layout, with their own rows and
columns.
"""

from collections.abc import Sequence

import pandas as pd

from analysis.columns import Place, about_scorers
from analysis.entries import Entry, Layout, placed
from analysis.frame import columns_of
from analysis.grid import Grid
from analysis.provenance import provenance
from analysis.published import published
from analysis.records import Run
from analysis.sheets import Sheet
from scope.scoring import PRIMARY

_TABLE_1 = {"released": "table1.csv", "aligned": "table1_aligned.csv"}
LAYOUTS = {
    "table1_4k": Layout("As table 1, 4K", {"gsm8k_4k": 43, "mmlu_4k": 57, "csqa_4k": 30}, 2048, _TABLE_1),
    "table1_8k": Layout("As table 1, 8K", {"gsm8k_8k": 21, "mmlu_8k": 57, "csqa_8k": 15}, 4096, _TABLE_1),
    "table2": Layout("As table 2", {"gsm8k_4k": 43}, 2048, {"released": "table2.csv"}, across="method"),
    "table5": Layout("As table 5", {"gsm8k_4k": 43}, 2048, {}, split=True),
}


def fill(layout: Layout, runs: Sequence[Run], frame: pd.DataFrame) -> tuple[list[Sheet], pd.DataFrame]:
    """The table of these runs in one layout. frame: that of the same runs, by `analysis.frame.of_runs`.

    -> the sheets: one for each model and scorer (for each model, task and scorer where the columns are methods); and
    all cells as a frame, one row each.
    """
    entries = placed(layout, runs, frame)
    known = [entry for entry in entries if entry.run.labels["task"] in layout.tasks]
    taken, left_out = known or entries, [e for e in entries if known and e not in known]
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in taken:
        labels = entry.run.labels
        key: tuple[str, ...] = (labels["model"], *([labels["task"]] if layout.across == "method" else []))
        groups.setdefault(key, []).append(entry)
    behind = provenance(runs)
    beside_rows = tuple(c for c in columns_of(frame) if c.shown_in & {Place.PAPER, Place.PAPER_CSV})
    absent = [model for model in _published_models(layout) if known and model not in {key[0] for key in groups}]
    beside = [f"MISSING: all of {', '.join(absent)}."] * bool(absent) + _left_out(left_out)
    sheets, tidy = [], []
    for key, members in groups.items():
        cells = {(entry.row, entry.column): entry for entry in members}
        for scorer, about in about_scorers([entry.run for entry in members]).items():
            grid = Grid(layout, scorer, key, cells, about, beside_rows)
            sheets.append(grid.sheet([*grid.remarks(behind), *beside]))
            tidy += grid.tidy()
        if layout.across == "method":
            sheets.append(Grid(layout, PRIMARY, key, cells, "", beside_rows).cost())
    return sheets, pd.DataFrame(tidy)


def _published_models(layout: Layout) -> list[str]:
    return list(dict.fromkeys(model for name in layout.published.values() for model in published(name)["model"]))


def _left_out(entries: Sequence[Entry]) -> list[str]:
    tasks = dict.fromkeys(entry.run.labels["task"] for entry in entries)
    return [f"Not of this table, and left out: {len(entries)} runs of {', '.join(tasks)}."] if entries else []
