"""One table of the paper's layout: the runs of one model (and task), as one scorer sees them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from analysis.columns import Column, Place, missing, ratio
from analysis.entries import FULL, Entries, Entry, Layout, Row
from analysis.published import published
from analysis.scores import right_answers
from analysis.sheets import NOTHING, STAR, Cells, Sheet, bytes_unit, counts
from analysis.statistics import UNKNOWN, Interval, cautious, lost_to, mean_of_independent, tied_with_best

ABOUT = {
    "released": "Answers right in %, by the paper's scorer (n-th answer to n-th question).",
    "aligned": "Answers right in %, answers matched to questions by their number.",
}
ABOUT_CELLS = (
    "In brackets: 95% intervals, clustered by prompt. Bold: compressed runs that cannot be told from the best of their "
    "block and column (paired by prompt)."
)
ABOUT_PUBLISHED = "publ.: the published figure; diff.: ours minus the published one, in percentage points."
ABOUT_ROW = (
    "Missing: questions without an answer; slots of a layer and head at the end, cache bytes of a sequence: means."
)
ABOUT_AVERAGE = "Average: of the columns, each with the same weight."


@dataclass(frozen=True)
class Grid:
    """The table of one model (and task), by one scorer. key: the model, or the model and the task."""

    layout: Layout
    scorer: str
    key: tuple[str, ...]
    cells: Entries
    about: str  # what the scorer counts, in a few words
    columns_beside: tuple[Column, ...]  # of the frame: what else is shown of a run, and what its CSV has

    @cached_property
    def papers(self) -> dict[tuple[Row, str], float]:
        """The published figures of these cells, by this scorer."""
        return self._published(self.scorer)

    def _published(self, scorer: str) -> dict[tuple[Row, str], float]:
        name = self.layout.published.get(scorer)
        papers = any(entry.run.labels["task"] in self.layout.tasks for entry in self.cells.values())
        return _published(self.layout, name, self.key[0]) if name and papers else {}

    @cached_property
    def expected(self) -> dict[tuple[Row, str], None]:
        """The cells of a whole table: those of the paper, or else each row in each column."""
        papers = dict.fromkeys(cell for scorer in self.layout.published for cell in self._published(scorer))
        rows = dict.fromkeys(row for row, _ in self.cells)
        columns = dict.fromkeys(column for _, column in self.cells)
        return papers or {(row, column): None for row in rows for column in columns}

    def rows(self) -> list[Row]:
        """The paper's rows, then the others. Blocks come by budget: no budget first, then the largest."""
        rows = dict.fromkeys(row for row, _ in [*self.expected, *self.cells])
        order = list(dict.fromkeys(row.block for row in rows))
        return sorted(rows, key=lambda row: (row.block != FULL, *_largest_first(row.block), order.index(row.block)))

    def columns(self) -> list[str]:
        """The paper's columns, then the others."""
        return list(dict.fromkeys(column for _, column in [*self.expected, *self.cells]))

    @cached_property
    def best(self) -> set[tuple[Row, str]]:
        """Compressed cells that tie with the best of their block and column, where there are several."""
        found = set()
        for block, column in dict.fromkeys((row.block, column) for row, column in self.cells):
            rivals = [
                e
                for (row, at), e in self.cells.items()
                if (row.block, at) == (block, column) and e.whole and e.run.compressed
            ]
            ties = tied_with_best([right_answers(e.run.samples, self.scorer) for e in rivals])
            found |= {(e.row, column) for e, tied in zip(rivals, ties, strict=True) if tied and len(rivals) > 1}
        return found

    def average(self, row: Row) -> Interval:
        """The mean over all columns, of a row that has a whole run in each; else unknown."""
        entries = [self.cells.get((row, column)) for column in self.columns()]
        whole = [entry.accuracy(self.scorer) for entry in entries if entry and entry.whole]
        return mean_of_independent(whole) if len(whole) == len(entries) else UNKNOWN

    def best_average(self) -> set[Row]:
        """Rows whose average ties with the best of their block, where there are several."""
        found = set()
        for block in dict.fromkeys(row.block for row in self.rows()):
            rivals = [row for row in self.rows() if row.block == block and self._competes(row)]
            if len(rivals) < 2:
                continue
            top = max(rivals, key=lambda row: self.average(row).estimate)
            for row in rivals:
                lost = [lost_to(self._scores(top, column), self._scores(row, column)) for column in self.columns()]
                behind = mean_of_independent([cautious(*found) for found in lost])
                found |= {row} if row == top or behind.low <= 0 <= behind.high else set()
        return found

    def _competes(self, row: Row) -> bool:
        return self.average(row).estimate >= 0 and all(self.cells[row, c].run.compressed for c in self.columns())

    def _scores(self, row: Row, column: str) -> Mapping[Any, tuple[float, float]]:
        return right_answers(self.cells[row, column].run.samples, self.scorer)

    def sheet(self, remarks: Sequence[str]) -> Sheet:
        """The accuracies, and where the columns are tasks, what each row cost; else `cost` has that.

        remarks: what has to be said under the table, a line each.
        """
        rows = self.rows()
        several = len(self.columns()) > 1 and self.layout.across == "task"
        columns: dict[str, Cells] = {}
        for column in self.columns():
            columns |= self._accuracy(rows, column)
        if several:
            columns |= self._average(rows)
        about = [
            ABOUT.get(self.scorer) or f"Answers right in %, by {self.scorer}{self.about and f': {self.about}'}.",
            ABOUT_CELLS,
            *[ABOUT_PUBLISHED] * bool(self.papers),
            *[ABOUT_AVERAGE] * several,
        ]
        if self.layout.across == "task":
            columns |= self._beside([[self.cells.get((row, c)) for c in self.columns()] for row in rows])
            about.append(ABOUT_ROW)
        lacking = any(remark.startswith(("MISSING", "PARTIAL")) for remark in remarks)
        return Sheet(
            title=f"{'PARTIAL: ' * lacking}{self._title}, {self.scorer} scorer",
            about=" ".join(about),
            label=self._label(self.scorer),
            keys=self._keys(rows),
            columns=columns,
            blocked=True,
            remarks=tuple(remarks),
        )

    def _accuracy(self, rows: Sequence[Row], column: str) -> dict[str, Cells]:
        """One column of the paper's table, with the published figures and the differences where there are any."""
        entries = [self.cells.get((row, column)) for row in rows]
        ours = _intervals([entry.accuracy(self.scorer) if entry else UNKNOWN for entry in entries])
        marks = [STAR * (entry is not None and not entry.whole) for entry in entries]
        best = [(row, column) in self.best for row in rows]
        found = {f"{column}\n% [95%]": replace(ours, marks=marks, best=best)}
        if any(at == column for _, at in self.papers):
            theirs = [self.papers.get((row, column), float("nan")) for row in rows]
            found[f"{column}\npubl."] = Cells(theirs, digits=2)
            found[f"{column}\ndiff."] = Cells([self._difference(row, column) for row in rows], signed=True)
        return found

    def _average(self, rows: Sequence[Row]) -> dict[str, Cells]:
        """The mean over all columns, the same of the published figures, and the difference."""
        ours, top = [self.average(row) for row in rows], self.best_average()
        found = {"average\n% [95%]": replace(_intervals(ours), best=[row in top for row in rows])}
        if self.papers:
            theirs = [self._published_average(row) for row in rows]
            found["average\npubl."] = Cells(theirs, digits=2)
            differences = [mine.estimate - paper for mine, paper in zip(ours, theirs, strict=True)]
            found["average\ndiff."] = Cells(differences, signed=True)
        return found

    def cost(self) -> Sheet:
        """Prompts, missing answers, slots and bytes of each cell, a row each."""
        places = [(row, column) for row in self.rows() for column in self.columns()]
        keys = {"budget": [row.block for row, _ in places], "decoding": [row.decoding for row, _ in places]}
        if any(row.extra for row, _ in places):
            keys["setting"] = [row.extra or NOTHING for row, _ in places]
        keys[self.layout.across] = [column for _, column in places]
        columns = self._beside([[self.cells.get(place)] for place in places])
        title, label = f"{self._title}: what stands behind it", self._label("cost")
        return Sheet(title, ABOUT_ROW, label, pd.DataFrame(keys), columns, blocked=True)

    def _beside(self, rows: Sequence[Sequence[Entry | None]]) -> dict[str, Cells]:
        """Prompts, missing answers, slots and bytes of each row. rows: the entries of each; prompts are added up, the
        rest are means."""
        there = [[entry.figures for entry in entries if entry] for entries in rows]
        lost = missing(self.scorer)
        shares = [
            ratio(sum(f[lost.name] * f["questions"] for f in fs if f["prompts"]), sum(f["questions"] for f in fs))
            for fs in there
        ]
        found = {
            "prompts": counts(
                [sum(f["prompts"] for f in figures) for figures in there],
                [sum(f["planned_prompts"] for f in figures) for figures in there],
            ),
            "missing\n%": Cells(shares),
        }
        for column in (c for c in self.columns_beside if Place.PAPER in c.shown_in):
            means = pd.Series([_mean(f[column.name] for f in fs if f["prompts"]) for fs in there], dtype=float)
            unit, scale = bytes_unit(means) if column.unit == "MiB" else (column.unit, 1)
            digits = 0 if means.max() >= 100 else 2 if column.unit == "MiB" else column.digits
            found[replace(column, unit=unit).heading_alone] = Cells(list(means * scale), digits)
        return found

    def _keys(self, rows: Sequence[Row]) -> pd.DataFrame:
        keys = {"budget": [row.block for row in rows]}
        if self.layout.across == "task":
            keys["method"] = [row.method for row in rows]
        keys["decoding"] = [row.decoding for row in rows]
        if any(row.extra for row in rows):
            keys["setting"] = [row.extra or NOTHING for row in rows]
        return pd.DataFrame(keys)

    def _difference(self, row: Row, column: str) -> float:
        entry, theirs = self.cells.get((row, column)), self.papers.get((row, column))
        return entry.accuracy(self.scorer).estimate - theirs if entry and theirs is not None else float("nan")

    def _published_average(self, row: Row) -> float:
        theirs = [self.papers.get((row, column)) for column in self.columns()]
        return sum(t for t in theirs if t is not None) / len(theirs) if None not in theirs else float("nan")

    @property
    def _title(self) -> str:
        meant = dict.fromkeys(entry.run.labels.get("fidelity", "paper") for entry in self.cells.values())
        fidelity = [f"fidelity {' and '.join(meant)}"] * (list(meant) != ["paper"])
        return ", ".join([self.layout.title, *self.key, *fidelity])

    def _label(self, what: str) -> str:
        return "tab:" + re.sub(r"[^a-z0-9]+", "-", "-".join([self.layout.title, *self.key, what]).lower())

    def remarks(self, behind: Mapping[Any, Sequence[str]]) -> list[str]:
        """What is missing, partial or doubtful in the table, a line each. behind: notes by a run's folder."""
        absent = [cell for cell in self.expected if cell not in self.cells]
        lines = []
        if absent:
            rows_of = {column: [row for row, at in absent if at == column] for column in self.columns()}
            whole = len({row for row, _ in self.expected})
            parts = [
                f"{column}: " + (f"all {whole} rows" if len(rows) == whole else "; ".join(row.name for row in rows))
                for column, rows in rows_of.items()
                if rows
            ]
            lines.append(f"MISSING: {len(absent)} of {len(self.expected)} runs. {'. '.join(parts)}.")
        partial = [
            f"{entry.row.name} on {entry.column}: {_answered([entry])}"
            for entry in self.cells.values()
            if not entry.whole
        ]
        if partial:
            lines.append(f"PARTIAL ({STAR}): {'; '.join(partial)} prompts answered.")
        lines += self._fewer()
        doubts: dict[str, list[str]] = {}
        for entry in self.cells.values():
            idle = [note for note in entry.figures["notes"].split("; ") if "nothing to evict" in note]
            for note in (*behind[entry.run.folder], *idle):
                doubts.setdefault(note, []).append(f"{entry.row.name} on {entry.column}")
        return lines + [f"{note}: {'; '.join(cells)}." for note, cells in doubts.items()]

    def _fewer(self) -> list[str]:
        """Tasks whose runs were planned with fewer prompts than the paper has: whole runs, but not the paper's."""
        planned: dict[str, set[int]] = {}
        for entry in self.cells.values():
            task, count = entry.run.labels["task"], int(entry.figures["planned_prompts"])
            if count < self.layout.tasks.get(task, 0):
                planned.setdefault(task, set()).add(count)
        found = [f"{task} {min(counts)} of {self.layout.tasks[task]}" for task, counts in planned.items()]
        return [f"PARTIAL: fewer prompts are planned than the paper has: {', '.join(found)}."] * bool(found)

    def tidy(self) -> list[dict[str, Any]]:
        """All cells, one row each, with the columns that `Place.PAPER_CSV` shows."""
        best, papers = self.best, self.papers
        return [
            {
                "scorer": self.scorer,
                "model": self.key[0],
                "task": column if self.layout.across == "task" else self.key[1],
                "budget": row.block,
                "method": row.method if self.layout.across == "task" else column,
                "decoding": row.decoding,
                "setting": row.extra,
                **dict(zip(("percent", "low", "high"), entry.accuracy(self.scorer) if entry else UNKNOWN, strict=True)),
                "tied_with_best": (row, column) in best,
                "published_percent": papers.get((row, column)),
                "difference": self._difference(row, column),
                **{column.name: entry.figures[column.name] if entry else None for column in self.columns_beside},
            }
            for row in self.rows()
            for column in self.columns()
            for entry in [self.cells.get((row, column))]
        ]


def _intervals(found: Sequence[Interval]) -> Cells:
    """Estimates with their bounds, in percent."""
    return Cells([one.estimate for one in found], bounds=[(one.low, one.high) for one in found])


def _largest_first(block: str) -> tuple[int, ...]:
    return tuple(-int(word) for word in block.replace(",", " ").split() if word.isdigit())


def _published(layout: Layout, name: str, model: str) -> dict[tuple[Row, str], float]:
    """The published figures of a model in percent, by cell, in the order of the file."""
    found = {}
    for line in published(name).query("model == @model").to_dict("records"):
        block = f"D = {line['decode_budget']}" if line["decode_budget"] else FULL
        for task in layout.tasks:
            method, column = (line["method"], task) if layout.across == "task" else ("", line["method"])
            found[Row(block, method, line["decoding"]), column] = float(line[task])
    return found


def _answered(entries: Sequence[Entry | None]) -> str:
    there = [entry.figures for entry in entries if entry]
    prompts, planned = sum(f["prompts"] for f in there), sum(f["planned_prompts"] for f in there)
    return str(prompts) if prompts >= planned else f"{prompts} of {planned}"


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else float("nan")
