"""The table of a sweep: one row per run, as a data frame, in the terminal, and as table.csv, table.md and table.tex.

    python -m analysis.tables outputs/demo

The frame is tidy and exact (`build`); what a person reads is made from it alone: a `_View` of rounded text, which the
terminal (`show`) and the two documents (`write`) set each in its own way.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.records import Run, Sample, read_runs
from analysis.statistics import UNKNOWN, Interval, clustered_proportion, paired_difference
from scope.errors import ScopeError

ACCURACY = ("accuracy_percent", "accuracy_low_percent", "accuracy_high_percent")
LOST = ("points_lost", "points_lost_low", "points_lost_high")
IDENTITY = ("experiment", "run", "model", "task", "method", "decoding", "budget")
MEASURES = (
    "compressed",
    "prompts",
    "planned_prompts",
    "failed_prompts",
    "questions",
    *ACCURACY,
    *LOST,
    "paired_prompts",
    "missing_percent",
    "kept_percent",
    "cache_mib",
    "cache_percent",
    "tokens_per_second",
    "notes",
)
"""Columns of the frame. Those of `IDENTITY` come first, then the settings that tell rows apart, then these.

`prompts` counts the answered ones and `questions` theirs. `points_lost` is the accuracy of the uncompressed run minus
that of this one in percentage points, so positive is worse; it is the mean over `paired_prompts`, the prompts that both
answered, each with the same weight. `missing_percent`: questions without an answer. `kept_percent`: cache slots at the
end, of those of an uncompressed cache. `cache_mib`: mean bytes of one sequence's cache in 2^20; `cache_percent`: of
the bytes of the full one. `tokens_per_second`: all tokens generated over the decoding time of all batches.
"""

NOTHING = "\N{EN DASH}"  # what a cell without a value shows
NOTES_WIDTH = 28  # characters of terminal that notes are wrapped to where space is short


# --- the frame ---------------------------------------------------------------------------------------------------


def build(folders: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """One row per run in and below `folders`, uncompressed first and then in the order the runs were created.

    Runs that differ only in settings get a column for each of these, `decoding.budget` for one. RecordsError: a folder
    that cannot be read as a sweep.
    """
    several = [folders] if isinstance(folders, str | Path) else folders
    runs = _ordered(read_runs([Path(folder) for folder in several]))
    frame = pd.DataFrame([_row(run, _baseline(run, runs)) for run in runs])
    settings = [_flat(run.settings) | {"seed": run.seed} for run in runs]
    for position, key in enumerate(_telling(settings, frame), start=len(IDENTITY)):
        values = [setting.get(key) for setting in settings]
        frame.insert(position, key, pd.Series(values, dtype=object))  # object: a whole number stays one beside a gap
    return frame


def _ordered(runs: Sequence[Run]) -> list[Run]:
    first: dict[tuple[str, str], int] = {}
    for position, run in enumerate(runs):
        for part, label in run.labels.items():
            first.setdefault((part, label), position)

    parts = ("model", "task", "method", "decoding")

    def rank(run: Run) -> tuple[int, ...]:
        model, task, method, decoding = (first[part, run.labels[part]] for part in parts)
        return model, task, run.compresses_prefill, method, run.compresses_decoding, decoding

    return sorted(runs, key=rank)


def _baseline(run: Run, runs: Sequence[Run]) -> Run | None:
    """The uncompressed run over the same model, task and seed: of this experiment if it can be, then the longest."""
    if not run.compressed:
        return None
    alike = [other for other in runs if not other.compressed and _conditions(other) == _conditions(run)]
    return max(alike, key=lambda other: (other.experiment == run.experiment, len(other.samples)), default=None)


def _conditions(run: Run) -> tuple[Any, ...]:
    return run.settings.get("model"), run.settings.get("task"), run.seed


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys; lists become their JSON text, so that every value can be compared."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return flat


def _telling(settings: Sequence[Mapping[str, Any]], frame: pd.DataFrame) -> list[str]:
    """The keys whose values differ between runs that the frame labels alike."""
    keys = dict.fromkeys(key for setting in settings for key in setting)
    alike = frame.groupby(["model", "task", "method", "decoding"]).indices.values()
    return [key for key in keys if any(len({repr(settings[row].get(key)) for row in rows}) > 1 for rows in alike)]


def _row(run: Run, baseline: Run | None) -> dict[str, Any]:
    samples = run.samples
    answered, correct = [len(s.correct) for s in samples], [sum(s.correct) for s in samples]
    lost, paired = _lost(run, baseline)
    cache_bytes = sum(s.cache_bytes for s in samples)
    return {
        "experiment": run.experiment,
        "run": run.name,
        **{part: run.labels.get(part, "") for part in IDENTITY[2:]},
        "compressed": run.compressed,
        "prompts": len(samples),
        "planned_prompts": run.planned,
        "failed_prompts": len(run.failed),
        "questions": sum(answered),
        **_percent(ACCURACY, clustered_proportion(correct, answered)),
        **_percent(LOST, lost),
        "paired_prompts": paired,
        "missing_percent": 100 * _ratio(sum(s.missing for s in samples), sum(answered)),
        "kept_percent": 100 * _ratio(sum(sum(s.slots_kept) for s in samples), sum(s.slots_full for s in samples)),
        "cache_mib": _ratio(cache_bytes, len(samples)) / 2**20,
        "cache_percent": 100 * _ratio(cache_bytes, sum(s.full_cache_bytes for s in samples)),
        "tokens_per_second": _ratio(sum(s.generated_tokens for s in samples), _decoding_seconds(samples)),
        "notes": "; ".join(_notes(run, baseline, paired)),
    }


def _percent(names: Sequence[str], interval: Interval) -> dict[str, float]:
    return {name: 100 * value for name, value in zip(names, interval, strict=True)}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _lost(run: Run, baseline: Run | None) -> tuple[Interval, int]:
    """What the baseline answers better, in 0..1 over the prompts both answered, and how many these are."""
    if baseline is None:
        return UNKNOWN, 0
    # A prompt is the same only if it asks for the same answers: a name may have been given to another one since.
    full = {(s.name, s.expected): np.mean(s.correct) for s in baseline.samples if s.correct}
    both = [(full[s.name, s.expected], np.mean(s.correct)) for s in run.samples if (s.name, s.expected) in full]
    return paired_difference([float(before - after) for before, after in both]), len(both)


def _decoding_seconds(samples: Sequence[Sample]) -> float:
    """The time of all batches one after the other; a batch lasts as long as its longest row."""
    longest: dict[tuple[int, float], float] = {}
    for s in samples:
        batch = s.batch, s.prefill_seconds  # a run that was continued counts its batches from 0 again
        longest[batch] = max(longest.get(batch, 0.0), s.decode_seconds)
    return sum(longest.values())


def _notes(run: Run, baseline: Run | None, paired: int) -> Iterator[str]:
    recorded, answered = len(run.samples) + len(run.failed), len(run.samples)
    if recorded < run.planned:
        yield f"partial: {recorded} of {run.planned}"
    if run.failed:
        yield f"failed: {len(run.failed)} of {recorded}"
    yield from run.notes
    if answered == 1:
        yield "one prompt: no interval"
    if run.compresses_prefill:
        yield from _idle("prefill", [s.prefill_evicted for s in run.samples])
    if run.compresses_decoding:
        yield from _idle("decoding", [s.decode_evicted for s in run.samples])
    if baseline is not None and paired < answered:
        yield f"points lost over {paired} of {answered} prompts"


def _idle(part: str, evicted: Sequence[int]) -> Iterator[str]:
    idle = sum(count == 0 for count in evicted)
    if idle:
        everywhere = idle == len(evicted)
        yield f"{part}: nothing to evict" + ("" if everywhere else f" in {idle} of {len(evicted)} prompts")


# --- what a person reads -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """The frame as rounded text. `keys` say what a row is; `best` marks the rows whose accuracy leads their block."""

    experiment: str
    constant: str
    about: str
    keys: pd.DataFrame
    quality: pd.DataFrame
    cost: pd.DataFrame
    best: list[bool]


def _view(frame: pd.DataFrame) -> _View:
    keys = _keys(frame)
    constant = [f"{part} {frame[part].iloc[0]}" for part in ("model", "task") if part not in keys]
    unit, scale = ("KiB", 1024) if frame["cache_mib"].max() < 1 else ("MiB", 1)
    quality = {
        "prompts": [_count(*counts) for counts in zip(frame["prompts"], frame["planned_prompts"], strict=True)],
        "questions": [str(count) for count in frame["questions"]],
        "accuracy %\n[95% interval]": _intervals(frame, *ACCURACY),
        "points lost\n[95% interval]": _intervals(frame, *LOST),
        "missing\n%": _numbers(frame["missing_percent"]),
    }
    compared = bool(frame["points_lost"].notna().any())
    if not compared:
        del quality["points lost\n[95% interval]"]
    cost = {
        "slots\nkept %": _numbers(frame["kept_percent"]),
        f"cache\n{unit}": _numbers(frame["cache_mib"] * scale),
        "cache %\nof full": _numbers(frame["cache_percent"]),
        "tokens/s": _numbers(frame["tokens_per_second"]),
    }
    if any(frame["notes"]):
        cost["notes"] = list(frame["notes"])
    return _View(
        experiment=", ".join(frame["experiment"].unique()),
        constant=", ".join(constant),
        about=f"{ABOUT} {ABOUT_LOST}" if compared else ABOUT,
        keys=pd.DataFrame({key: [_value(value) for value in frame[key]] for key in keys}),
        quality=pd.DataFrame(quality),
        cost=pd.DataFrame(cost),
        best=_best(frame),
    )


def _keys(frame: pd.DataFrame) -> list[str]:
    """The columns that tell the rows apart: as few as do, and at the least method and decoding."""
    keys = [part for part in ("model", "task") if frame[part].nunique() > 1] + ["method", "decoding", *_settings(frame)]
    for last_resort in ("budget", "experiment", "run"):
        if frame.duplicated(keys).any() and frame[last_resort].nunique() > 1:
            keys.append(last_resort)
    return keys


def _settings(frame: pd.DataFrame) -> list[str]:
    return [column for column in frame if column not in IDENTITY + MEASURES]


def _settings_of(frame: pd.DataFrame, part: str) -> list[str]:
    return [column for column in _settings(frame) if column.startswith(f"{part}.")]


def _blocks(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows that may be held against each other: those of one model, task and seed."""
    compared = _settings_of(frame, "method") + _settings_of(frame, "decoding")
    conditions = ["model", "task"] + [column for column in _settings(frame) if column not in compared]
    return [block for _, block in frame.groupby(conditions, sort=False, dropna=False)]


def _complete(frame: pd.DataFrame) -> "pd.Series[bool]":
    return frame["prompts"] >= frame["planned_prompts"]


def _best(frame: pd.DataFrame) -> list[bool]:
    """Which compressed runs lead their block as printed, ties included; a partial run had easier or harder prompts."""
    best = pd.Series(False, index=frame.index)
    for block in _blocks(frame):
        accuracy = block.loc[block["compressed"] & _complete(block), "accuracy_percent"].dropna()
        best[accuracy.index] = accuracy.map(_number) == _number(accuracy.max())
    return list(best)


def _grids(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """For every block with at least two methods and two strategies, its conditions and accuracy by both."""
    grids = []
    for block in _blocks(frame):
        rows, columns = _labels(block, "method"), _labels(block, "decoding")
        if len(set(rows)) < 2 or len(set(columns)) < 2:
            continue
        cells: dict[tuple[str, str], list[str]] = {}
        for row, column, accuracy, complete in zip(
            rows, columns, block["accuracy_percent"], _complete(block), strict=True
        ):
            cells.setdefault((row, column), []).append(_number(accuracy) + "*" * (not complete))
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
    return ", ".join(f"{key} {_value(block[key].iloc[0])}" for key in keys)


def _count(answered: int, planned: int) -> str:
    return str(answered) if answered >= planned else f"{answered} of {planned}"


def _intervals(frame: pd.DataFrame, estimate: str, low: str, high: str) -> list[str]:
    bounds = zip(frame[estimate], frame[low], frame[high], strict=True)
    return [NOTHING if pd.isna(e) else f"{_number(e)} [{_number(a)}, {_number(b)}]" for e, a, b in bounds]


def _numbers(values: "pd.Series[float]") -> list[str]:
    return [_number(value) for value in values]


def _number(value: float) -> str:
    return NOTHING if pd.isna(value) else f"{value:z.1f}"


def _value(value: object) -> str:
    return NOTHING if pd.isna(value) else str(value)


def _one_line(heading: str) -> str:
    return heading.replace("\n", " ")


ABOUT = "Intervals are 95% and clustered by prompt."
ABOUT_LOST = (
    "Points lost: accuracy of the uncompressed run minus this one's, over the prompts both answered; positive is worse."
)
ABOUT_GRID = "Accuracy in % by method (rows) and decoding strategy (columns)"
ABOUT_STAR = "* not all prompts answered"


def _about(conditions: str, grid: pd.DataFrame) -> str:
    starred = grid.map(lambda cell: cell.endswith("*")).any(axis=None)
    return "; ".join([ABOUT_GRID, *[conditions] * bool(conditions), *[ABOUT_STAR] * bool(starred)])


# --- the terminal ------------------------------------------------------------------------------------------------


def show(frame: pd.DataFrame, console: Console) -> None:
    """Print the table; where the console is too narrow for it, as several below each other with the same rows."""
    view = _view(frame)
    console.print(Text(view.experiment, "bold") + Text(f"  {view.constant}" * bool(view.constant)), "")
    _print(view.keys, view.quality.join(view.cost), view.best, console)
    for conditions, grid in _grids(frame):
        console.print(Text(_about(conditions, grid)), "")
        _print(grid[["method"]], grid.drop(columns="method"), [False] * len(grid), console)
    console.print(Text(view.about, "dim"))


def _print(keys: pd.DataFrame, columns: pd.DataFrame, best: Sequence[bool], console: Console) -> None:
    for part in _fitting(columns, console.width - _width(keys)):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        # Cropped or wrapped, half a number is a wrong number: beyond the console's width, the terminal breaks the line.
        needed = _width(keys) + _width(part)
        table.width = needed if needed > console.width else None
        for column in (*keys, *part):
            words = column in keys or column == "notes"
            table.add_column(Text(_heading(column)), justify="left" if words else "right", no_wrap=column != "notes")
        for leads, cells in zip(best, keys.join(part).to_dict("records"), strict=True):
            table.add_row(*(Text(cells[c], "bold" if leads and c.startswith("accuracy") else "") for c in cells))
        console.print(table, "", crop=False)


def _fitting(columns: pd.DataFrame, room: int) -> Iterator[pd.DataFrame]:
    """The columns in as few parts as are at most `room` characters wide each."""
    part: list[str] = []
    for column in columns:
        if part and _width(columns[[*part, column]]) > room:
            yield columns[part]
            part = []
        part.append(column)
    yield columns[part]


def _width(text: pd.DataFrame) -> int:
    """Characters that the columns need, two more for each to keep it from the next."""
    return sum(_column_width(column, text[column]) + 2 for column in text)


def _column_width(column: str, cells: "pd.Series[str]") -> int:
    longest = max(cell_len(line) for cell in (_heading(column), *cells) for line in cell.split("\n"))
    return min(longest, NOTES_WIDTH) if column == "notes" else longest


def _heading(column: str) -> str:
    return column.replace(", ", ",\n") if ", " in column else column.replace(".", ".\n")


# --- the files ---------------------------------------------------------------------------------------------------


def write(frame: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Write table.csv, table.md and table.tex into `folder`, each whole or not at all, and return their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"table.csv": frame.to_csv(index=False), "table.md": _markdown(frame), "table.tex": _latex(frame)}
    return [_replace(folder / name, text) for name, text in texts.items()]


def _replace(path: Path, text: str) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _markdown(frame: pd.DataFrame) -> str:
    view = _view(frame)
    parts = [f"# {_escaped_markdown(view.experiment)}", _escaped_markdown(view.constant)]
    parts += [_pipes(view.keys.join(view.quality).join(view.cost), view.keys.shape[1], view.best)]
    for conditions, grid in _grids(frame):
        parts += [_escaped_markdown(_about(conditions, grid)) + ".", _pipes(grid, 1, [False] * len(grid))]
    return "\n\n".join(part for part in (*parts, f"{view.about} Bold: the best compressed run.") if part) + "\n"


def _pipes(text: pd.DataFrame, keys: int, best: Sequence[bool]) -> str:
    """A pipe table whose columns line up in the source too."""
    columns = []
    for position, name in enumerate(text):
        bold = [leads and name.startswith("accuracy") for leads in best]
        cells = [
            f"**{_escaped_markdown(c)}**" if b else _escaped_markdown(c) for c, b in zip(text[name], bold, strict=True)
        ]
        heading = _escaped_markdown(_one_line(name))
        width = max(3, *(cell_len(cell) for cell in (heading, *cells)))
        left = position < keys or name == "notes"
        rule = "-" * width if left else "-" * (width - 1) + ":"
        fill = " " * width
        padded = [(c + fill[cell_len(c) :]) if left else (fill[cell_len(c) :] + c) for c in (heading, *cells)]
        columns.append([padded[0], rule, *padded[1:]])
    return "\n".join("| " + " | ".join(line) + " |" for line in zip(*columns, strict=True))


def _escaped_markdown(text: str) -> str:
    return re.sub(r"([\\|*`<])", r"\\\1", text).replace("\n", " ")


def _latex(frame: pd.DataFrame) -> str:
    """Quality, cost and accuracy grids as a table each: side by side they would not fit on a page of text."""
    view = _view(frame)
    label = "tab:" + re.sub(r"[^A-Za-z0-9]+", "-", view.experiment).strip("-")
    of = f" of {view.experiment}{f' ({view.constant})' * bool(view.constant)}"
    tables = [
        _booktabs(
            view.keys,
            view.quality,
            f"Accuracy{of}. {view.about} Bold: the best compressed run.",
            f"{label}-accuracy",
            view.best,
        ),
        _booktabs(view.keys, view.cost, f"Cache and speed{of}.", f"{label}-cost", [False] * len(frame)),
    ]
    for position, (conditions, grid) in enumerate(_grids(frame), start=1):
        caption = f"{view.experiment}: {_about(conditions or view.constant, grid)}."
        cells = grid.drop(columns="method")
        tables.append(_booktabs(grid[["method"]], cells, caption, f"{label}-grid-{position}", [False] * len(grid)))
    return "% needs \\usepackage{booktabs}\n" + "\n".join(tables)


def _booktabs(keys: pd.DataFrame, columns: pd.DataFrame, caption: str, label: str, best: Sequence[bool]) -> str:
    text = keys.join(columns).rename(columns=_one_line)
    bold = [["textbf:--rwrap;" if b and name.startswith("accuracy") else "" for name in text] for b in best]
    styler = text.style.hide(axis="index").format(_escaped_latex).format_index(_escaped_latex, axis=1)
    styler = styler.apply(lambda _: np.array(bold, dtype=object).reshape(text.shape), axis=None)
    styler = styler.set_table_styles(
        [{"selector": "small", "props": ":{};"}, {"selector": "setlength", "props": ":{\\tabcolsep}{4pt};"}]
    )
    alignment = "l" * keys.shape[1] + "".join("p{3.5cm}" if name == "notes" else "r" for name in columns)
    return str(
        styler.to_latex(
            column_format=alignment,
            position_float="centering",
            hrules=True,
            caption=_escaped_latex(caption),
            label=label,
        )
    )


_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", NOTHING: "--", "\n": " "}
)


def _escaped_latex(text: str) -> str:
    escaped = text.translate(_LATEX)
    escaped = re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)  # a hyphen is no minus sign
    return "{}" + escaped if text[:1] in ("[", "*") else escaped  # after \\ these would be its arguments


# --- the command line --------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the table of the folders given and write its files; 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m analysis.tables", description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a sweep: outputs/<experiment>")
    parser.add_argument("--out", type=Path, help="where the three files go (default: into the one FOLDER)")
    options = parser.parse_args(arguments)
    if options.out is None and len(options.folders) > 1:
        parser.error("several folders: say with --out where their table goes")
    try:
        frame = build(options.folders)
        console = Console()
        show(frame, console)
        for path in write(frame, options.out or options.folders[0]):
            console.print(Text(str(path)), soft_wrap=True)
    except (ScopeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
