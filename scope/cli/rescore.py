"""Scores generations again, without a model, and prints the table.

python -m scope.scoring outputs/demo
python -m scope.scoring outputs/demo --scoring aligned,released,strict
python -m scope.scoring outputs/demo --scoring aligned,mylab.mine --write
python -m scope.scoring <folder with the released code's result files>
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from textwrap import fill

import pandas as pd
from rich.console import Console
from rich.text import Text

from analysis.statistics import clustered_proportion, tied_with_best
from analysis.view import print_columns, width
from scope.scoring import PRIMARY, STANDARD, Scorer, scorers, standard
from scope.scoring.sources import Scored, read, recorded_scorers, write_scores
from scope.util.errors import ConfigError, ScopeError, print_anything
from scope.util.visible import visible

NAME_WIDTH = 24  # characters that a run's name is folded to where space is short
UNBOUNDED = 10_000  # columns: more than any table has


def table(runs: Sequence[Scored], by: Mapping[str, Scorer]) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, list[bool]]]:
    """A row per run, grouped by task. -> task and run, figures, and for each heading which cells are bold.

    Bold: not distinguishable from the task's best run by that scorer.
    """
    by_task = [[run for run in runs if run.task == task] for task in dict.fromkeys(run.task for run in runs)]
    rows = [run for block in by_task for run in block]
    answers = [[answer for given in run.answers.values() for answer in given] for run in rows]
    columns = {
        "prompts": [str(len(run.answers)) for run in rows],
        "questions": [str(len(given)) for given in answers],
    }
    bold = {}
    for name in by:
        heading = f"{name} %\n[95% interval]"
        found = [_scores(block, name) for block in by_task]
        columns[heading] = [cell for cells, _ in found for cell in cells]
        bold[heading] = [tied for _, ties in found for tied in ties]
    for name in by:
        heading = "missing" if name == PRIMARY else f"missing\n{name}"
        columns[heading] = [str(sum(answer.scores[name].found is None for answer in given)) for given in answers]
        if name == PRIMARY:
            columns["duplicates"] = [str(sum(max(0, answer.given - 1) for answer in given)) for given in answers]
    keys = pd.DataFrame({"task": [visible(run.task) for run in rows], "run": [visible(run.name) for run in rows]})
    return keys, pd.DataFrame(columns), bold


def _scores(runs: Sequence[Scored], name: str) -> tuple[list[str], list[bool]]:
    """For each run of one task, by one scorer: its figure as text, and whether it ties with the best run."""
    counts = [
        {p: (sum(answer.scores[name].correct for answer in given), len(given)) for p, given in run.answers.items()}
        for run in runs
    ]
    cells = []
    for prompts in counts:
        hits, sizes = zip(*prompts.values(), strict=True)
        found = clustered_proportion(hits, sizes)
        text = f"{100 * found.estimate:.2f}"
        if not isnan(found.low):  # one prompt has no interval
            text += f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        cells.append(text)
    return cells, [tied and len(runs) > 1 for tied in tied_with_best(counts)]


def show(runs: Sequence[Scored], console: Console, by: Mapping[str, Scorer] | None = None) -> None:
    """Print the table of scores. by: the scorers, None for the standard ones.

    On a narrow console, names take several lines and columns several tables.
    """
    by = standard() if by is None else by
    keys, columns, bold = table(runs, by)
    if width(keys) + width(columns) > console.width:
        keys["run"] = [fill(name, NAME_WIDTH, break_long_words=False, break_on_hyphens=False) for name in keys["run"]]
    print_columns(keys, columns, bold, console)
    console.print(Text(" ".join(f"{name}: {scorer.about}." for name, scorer in by.items()), "dim"))
    console.print(Text("Bold: not distinguishable from the task's best (95%, paired by prompt).", "dim"))


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit code: 0; 1 if lines were left out because they were changed, or a run's scores could not be written;
    2 if nothing could be read.

    stderr names each kind of line that was left out, for each run.
    """
    parser = argparse.ArgumentParser(prog="python -m scope.scoring", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="records, or <dataset>/<method>.json files"
    )
    parser.add_argument(
        "--scoring", metavar="NAMES", help="scorers, as in the setting of that name: aligned,released,strict"
    )
    parser.add_argument(
        "--write", action="store_true", help="write these scores into the records, for all tables; the old file is kept"
    )
    options = parser.parse_args(arguments)
    print_anything()
    try:
        by = _scorers(options.folders, options.scoring)
        runs = [run for folder in options.folders for run in read(folder, by)]
    except (ScopeError, OSError, ValueError) as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2
    for run in runs:
        for note in run.notes:
            print(f"warning: {run.folder}: {note}", file=sys.stderr)
    changed = sum(run.changed for run in runs)
    answered = [run for run in runs if run.answers]
    if not answered:
        print(f"error: {', '.join(map(str, options.folders))}: no record that can be scored is left", file=sys.stderr)
        return 1 if changed else 2
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width: one line for each run
        console.width = UNBOUNDED
    show(answered, console, by)
    unwritten = _write([run.folder for run in answered if run.folder], by) if options.write else 0
    if changed:
        runs_word = "1 run is" if changed == 1 else f"{changed} runs are"
        print(f"error: {runs_word} not as recorded: the scores above are of the other lines only", file=sys.stderr)
    return int(changed > 0 or unwritten > 0)


def _write(folders: Sequence[Path], by: Mapping[str, Scorer]) -> int:
    """Write the scores into the records of runs, and say of each what was written. -> how many could not be."""
    if not folders:
        print("error: --write: is for the records of runs, and there are none here", file=sys.stderr)
        return 1
    refused = 0
    for folder in folders:
        try:
            done = write_scores(folder, by)
        except (ScopeError, OSError) as error:
            print(f"error: {visible(str(error))}", file=sys.stderr)
            refused += 1
            continue
        counts = [f"{n} new by {name}" for name, n in done.new.items()]
        counts += [f"{n} changed by {name}" for name, n in done.changed.items()]
        kept = f"; what was there before: {done.before.name}" if done.before else ""
        print(visible(f"{folder}: scores written: {', '.join(counts) or 'none, all are there'}{kept}"))
    return refused


def _scorers(folders: Sequence[Path], asked: str | None) -> dict[str, Scorer]:
    """The scorers asked for; otherwise the standard ones and those of the runs. stderr names those not installed."""
    if asked is not None:
        return scorers(asked.strip("[]").split(","))
    names = list(STANDARD)
    for name in dict.fromkeys(name for folder in folders for name in recorded_scorers(folder)):
        if name not in names:
            try:
                scorers([*names, name])
                names.append(name)
            except ConfigError as error:
                print(f"warning: not scored again by {visible(name)}: {visible(str(error))}", file=sys.stderr)
    return scorers(names)
