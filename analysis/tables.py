"""The tables of a sweep, in the terminal and as .csv, .md and .tex.

python -m analysis.tables outputs/demo
python -m analysis.tables outputs/table1_4k --preset table1_4k
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.text import Text

from analysis.command import command
from analysis.efficiency import efficiency
from analysis.frame import build, of_runs
from analysis.latex import NEEDS, latex
from analysis.layouts import LAYOUTS, fill
from analysis.markdown import escaped, markdown, pipes
from analysis.records import Run
from analysis.sheets import Sheet, as_csv
from analysis.view import about_grid, explain, grids, make_view, sheets, show, show_sheet, whole
from scope.util.files import make_folder, write_whole

__all__ = ["build", "explain", "show", "write"]

Preset = Callable[[Sequence[Run], pd.DataFrame], tuple[list[Sheet], pd.DataFrame]]
PRESETS: dict[str, Preset] = {name: partial(fill, layout) for name, layout in LAYOUTS.items()} | {"table3": efficiency}


def write(frame: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Write table.csv, table.md and table.tex into `folder`, each whole or not at all, and return their paths."""
    return write_texts(
        Path(folder),
        {"table.csv": as_csv(frame), "table.md": _markdown(frame), "table.tex": as_latex(sheets(frame))},
    )


def write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write each text into a file of `folder`, each whole or not at all. -> the paths."""
    make_folder(folder)
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def as_latex(made: Sequence[Sheet]) -> str:
    """A .tex file of these sheets. Its first line names the packages that it needs."""
    return "\n".join([NEEDS, *map(latex, made)])


def _markdown(frame: pd.DataFrame) -> str:
    view = make_view(frame)
    parts = [f"# {escaped(view.experiment)}", escaped(view.constant), pipes(whole(view))]
    for conditions, grid in grids(frame):
        parts += [escaped(about_grid(conditions, grid)) + ".", pipes(grid)]
    return "\n\n".join(part for part in (*parts, *map(escaped, view.remarks), view.about) if part) + "\n"


def write_preset(runs: Sequence[Run], name: str, folder: Path) -> tuple[list[Sheet], list[Path]]:
    """Write a table in the paper's layout into `folder`, as <name>.csv, .md and .tex. -> its sheets and the paths."""
    made, cells = PRESETS[name](runs, of_runs(runs))
    text = "\n\n".join([f"# {name}", *map(markdown, made)]) + "\n"
    texts = {f"{name}.csv": as_csv(cells), f"{name}.md": text, f"{name}.tex": as_latex(made)}
    return made, write_texts(folder, texts)


def _work(runs: list[Run], out: Path, given: Namespace) -> None:
    console = Console()
    if given.preset:
        made, paths = write_preset(runs, given.preset, out)
        for sheet in made:
            show_sheet(sheet, console)
    else:
        frame = of_runs(runs)
        show(frame, console)
        if given.explain:
            explain(frame, console)
        paths = write(frame, out)
    for path in paths:
        console.print(Text(str(path)), soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the table of the folders given and write its files; -> the exit code, as `command` has it."""
    presets = {"choices": sorted(PRESETS), "help": "a table of the paper, with its figures beside those of the records"}
    explained = {"action": "store_true", "help": "say what each column of the table is"}
    return command("tables", __doc__, "", _work, arguments, {"--preset": presets, "--explain": explained})


if __name__ == "__main__":
    sys.exit(main())
