"""The table of a sweep, in the terminal and as table.csv, table.md and table.tex.

python -m analysis.tables outputs/demo
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from analysis.frame import build
from analysis.view import NOTHING, about_grid, grids, make_view, one_line, show
from scope.errors import ScopeError
from scope.files import write_whole

__all__ = ["build", "show", "write"]


def write(frame: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Write table.csv, table.md and table.tex into `folder`, each whole or not at all, and return their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"table.csv": frame.to_csv(index=False), "table.md": _markdown(frame), "table.tex": _latex(frame)}
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def _markdown(frame: pd.DataFrame) -> str:
    view = make_view(frame)
    parts = [f"# {_escaped_markdown(view.experiment)}", _escaped_markdown(view.constant)]
    parts += [_pipes(view.keys.join(view.quality).join(view.cost), view.keys.shape[1], view.best)]
    for conditions, grid in grids(frame):
        parts += [_escaped_markdown(about_grid(conditions, grid)) + ".", _pipes(grid, 1, {})]
    return "\n\n".join(part for part in (*parts, view.about) if part) + "\n"


def _pipes(text: pd.DataFrame, keys: int, best: Mapping[str, Sequence[bool]]) -> str:
    """A pipe table whose columns line up in the source too."""
    columns = []
    for position, name in enumerate(text):
        bold = best.get(name, [False] * len(text))
        cells = [
            f"**{_escaped_markdown(c)}**" if b else _escaped_markdown(c) for c, b in zip(text[name], bold, strict=True)
        ]
        heading = _escaped_markdown(one_line(name))
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
    view = make_view(frame)
    label = "tab:" + re.sub(r"[^A-Za-z0-9]+", "-", view.experiment).strip("-")
    of = f" of {view.experiment}{f' ({view.constant})' * bool(view.constant)}"
    tables = [
        _booktabs(
            view.keys,
            view.quality,
            f"Accuracy{of}. {view.about}",
            f"{label}-accuracy",
            view.best,
        ),
        _booktabs(view.keys, view.cost, f"Cache and speed{of}.", f"{label}-cost", {}),
    ]
    for position, (conditions, grid) in enumerate(grids(frame), start=1):
        caption = f"{view.experiment}: {about_grid(conditions or view.constant, grid)}."
        cells = grid.drop(columns="method")
        tables.append(_booktabs(grid[["method"]], cells, caption, f"{label}-grid-{position}", {}))
    return "% needs \\usepackage{booktabs}\n" + "\n".join(tables)


def _booktabs(
    keys: pd.DataFrame, columns: pd.DataFrame, caption: str, label: str, best: Mapping[str, Sequence[bool]]
) -> str:
    text = keys.join(columns).rename(columns=one_line)
    marks = {one_line(name): rows for name, rows in best.items()}
    bold = [
        ["textbf:--rwrap;" if name in marks and marks[name][row] else "" for name in text] for row in range(len(text))
    ]
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
