"""Scores generations again, by both scorers, without a model, and prints the table.

python -m scope.scoring outputs/demo
python -m scope.scoring <folder with the released code's result files>
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from math import isnan
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.statistics import clustered_proportion, tied_with_best
from scope.errors import ScopeError
from scope.scoring.answer import Answer
from scope.scoring.sources import Scored, read

SCORERS: dict[str, Callable[[Answer], bool]] = {
    "aligned": lambda answer: answer.correct,
    "released": lambda answer: answer.released_correct,
}


def table(runs: Sequence[Scored]) -> Table:
    """A row per run, those of a task below each other; bold: not to be told from the task's best by that scorer."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("task", "run"):
        made.add_column(heading, overflow="fold")
    for heading in ("prompts", "questions", *(f"{name} %\n[95% interval]" for name in SCORERS)):
        made.add_column(heading, justify="right", no_wrap=True)
    for heading in ("missing", "duplicates", "missing\nreleased"):
        made.add_column(heading, justify="right", no_wrap=True)
    for task in dict.fromkeys(run.task for run in runs):
        block = [run for run in runs if run.task == task]
        cells = [_scores(block, right) for right in SCORERS.values()]
        for run, *scores in zip(block, *cells, strict=True):
            answers = [answer for given in run.answers.values() for answer in given]
            made.add_row(
                Text(task),
                Text(run.name),
                str(len(run.answers)),
                str(len(answers)),
                *scores,
                str(sum(answer.found is None for answer in answers)),
                str(sum(max(0, answer.given - 1) for answer in answers)),
                str(sum(answer.released_found is None for answer in answers)),
            )
    return made


def _scores(runs: Sequence[Scored], right: Callable[[Answer], bool]) -> list[Text]:
    counts = [{p: (sum(map(right, given)), len(given)) for p, given in run.answers.items()} for run in runs]
    ties = tied_with_best(counts)
    cells = []
    for prompts, tied in zip(counts, ties, strict=True):
        hits, sizes = zip(*prompts.values(), strict=True)
        found = clustered_proportion(hits, sizes)
        text = f"{100 * found.estimate:.2f}"
        if not isnan(found.low):  # of one prompt there is none
            text += f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        cells.append(Text(text, "bold" if tied and len(runs) > 1 else ""))
    return cells


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit code: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m scope.scoring", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="records, or <dataset>/<method>.json files"
    )
    options = parser.parse_args(arguments)
    try:
        runs = [run for folder in options.folders for run in read(folder)]
    except (ScopeError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    made = table(runs)
    console.print(made, width=max(console.measure(made).minimum, console.width), crop=False)
    console.print(Text("aligned: answers by their printed number. released: the paper's scorer, by position.", "dim"))
    console.print(Text("Bold: not distinguishable from the task's best (95%, paired by prompt).", "dim"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
