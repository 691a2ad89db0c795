"""A sheet as a LaTeX table: booktabs' rules, figures aligned at their points by siunitx, through pandas' Styler."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.sheets import DAGGER, NOTHING, STAR, Sheet
from scope.util.visible import visible

NEEDS = "% needs \\usepackage{booktabs,siunitx,graphicx}"
_FIGURE = re.compile(rf"[+-]?\d+(\.\d+)?[{STAR}{DAGGER}]*", re.ASCII)
_MARKS = {STAR: "{*}", DAGGER: r"{\textsuperscript{\textdagger}}"}  # siunitx is told by braces that it is no figure
_WITH_INTERVAL = re.compile(rf"([+-]?\d+(?:\.\d+)?[{STAR}{DAGGER}]*) (\[[-+\d., ]+\])", re.ASCII)
_WIDE = 12  # columns, or
_LONG = 24  # rows, from which on a table is set in smaller type
_PAGE = 45  # rows of a table at most; more make further tables

_SHRUNK = "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%"  # only where it is too wide
_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        NOTHING: "--",
        DAGGER: r"\textdagger{}",
        "\n": " ",
    }
)


def escaped(text: str) -> str:
    """Text as LaTeX prints it; safe at the start of a row too."""
    plain = visible(text, keep="\n").translate(_ESCAPES)
    found = re.sub(r"(?<![\w-])-(?=\d)", "$-$", plain)  # a hyphen is no minus sign
    return "{}" + found if text[:1] in ("[", "*") else found  # after \\ these would be its arguments


@dataclass(frozen=True)
class _Column:
    """One column as it is typeset: its heading's two lines, its place in the tabular's argument, its cells."""

    heading: tuple[str, str]
    alignment: str
    cells: list[str]
    bold: Sequence[bool]


def latex(sheet: Sheet) -> str:
    """A `table`, or several of a long sheet, with what siunitx has to know set inside of each."""
    count = -(-len(sheet.keys) // _PAGE)
    return "\n".join(_table(part) for part in (_part(sheet, n, count) for n in range(count)))


def _part(sheet: Sheet, n: int, count: int) -> Sheet:
    rows = slice(n * _PAGE, (n + 1) * _PAGE)
    return (
        sheet
        if count == 1
        else replace(
            sheet,
            title=f"{sheet.title}, part {n + 1} of {count}",
            label=f"{sheet.label}-{n + 1}",
            keys=sheet.keys[rows].reset_index(drop=True),
            columns=sheet.columns[rows].reset_index(drop=True),
            best={heading: list(bold)[rows] for heading, bold in sheet.best.items()},
        )
    )


def _table(sheet: Sheet) -> str:
    keys = list(sheet.keys)[sheet.blocked :]
    none = [False] * len(sheet.keys)
    columns = [_Column(("", escaped(key)), "l", [escaped(cell) for cell in sheet.keys[key]], none) for key in keys]
    for name in sheet.columns:
        columns += _typeset(name, list(sheet.columns[name]), sheet.best.get(name, none))
    body = pd.DataFrame({position: column.cells for position, column in enumerate(columns)})
    bold = [["bfseries:" if column.bold[row] else "" for column in columns] for row in range(len(body))]
    body.columns = pd.MultiIndex.from_tuples([column.heading for column in columns])
    styler = body.style.hide(axis="index").apply(lambda _: np.array(bold, dtype=object).reshape(body.shape), axis=None)
    size = "scriptsize" if len(columns) >= _WIDE or len(body) >= _LONG else "small"
    styler = styler.set_table_styles(
        [
            {"selector": size, "props": ":{};"},
            {"selector": "setlength", "props": ":{\\tabcolsep}{3pt};"},
            {"selector": "sisetup", "props": ":{detect-weight=true, mode=text, retain-explicit-plus=true};"},
        ]
    )
    text = styler.to_latex(
        column_format="".join(column.alignment for column in columns),
        position="htbp",
        position_float="centering",
        hrules=True,
        siunitx=True,
        multicol_align="c",
        caption=escaped(f"{sheet.title}. {sheet.about}".strip()),
        label=sheet.label,
    )
    return _finished(str(text), columns, list(sheet.keys.iloc[:, 0]) if sheet.blocked else [], sheet.remarks)


def _typeset(name: str, cells: list[str], bold: Sequence[bool]) -> list[_Column]:
    """Figures in a column of siunitx's, an interval behind them in one of its own; anything else as text."""
    above, _, below = name.partition("\n") if "\n" in name else ("", "", name)
    filled = [cell for cell in cells if cell != NOTHING]
    parts = [_WITH_INTERVAL.fullmatch(cell) for cell in cells]
    if any(parts) and all(_WITH_INTERVAL.fullmatch(cell) or _FIGURE.fullmatch(cell) for cell in filled):
        figures = [part[1] if part else cell for part, cell in zip(parts, cells, strict=True)]
        bounds = ["{" + (part[2] if part else "") + "}" for part in parts]
        under, bracket, rest = below.partition("[")
        return [
            _Column(
                (escaped(above), escaped(under.strip())), _siunitx(figures) + "@{\\hspace{3pt}}", _braced(figures), bold
            ),
            _Column((escaped(above), escaped(bracket + rest)), ">{\\scriptsize}l", bounds, [False] * len(cells)),
        ]
    if filled and all(_FIGURE.fullmatch(cell) for cell in filled):
        return [_Column((escaped(above), escaped(below)), _siunitx(cells), _braced(cells), bold)]
    alignment = ">{\\raggedright\\arraybackslash}p{6cm}" if name == "notes" else "r"
    return [_Column((escaped(above), escaped(below)), alignment, [escaped(cell) for cell in cells], bold)]


def _siunitx(cells: Sequence[str]) -> str:
    """Room for the longest figure: digits before and after the point, a sign, marks."""
    figures = [cell.rstrip(STAR + DAGGER) for cell in cells if cell != NOTHING]
    whole = max(len(figure.lstrip("+-").partition(".")[0]) for figure in figures)
    digits = max(len(figure.partition(".")[2]) for figure in figures)
    sign = "+" if any(figure[0] in "+-" for figure in figures) else ""
    marks = "".join(typeset for mark, typeset in _MARKS.items() if any(mark in cell for cell in cells))
    space = f", table-space-text-post={marks if marks.count('}') == 1 else f'{{{marks}}}'}" if marks else ""
    return f"S[table-format={sign}{whole}" + (f".{digits}" if digits else "") + f"{space}]"


def _braced(cells: Sequence[str]) -> list[str]:
    """What is no figure has to be told to siunitx by braces."""
    return [
        "{--}" if cell == NOTHING else "".join(_MARKS.get(character, character) for character in cell) for cell in cells
    ]


def _finished(text: str, columns: Sequence[_Column], blocks: Sequence[str], remarks: Sequence[str]) -> str:
    """What pandas has no word for: rules under shared headings, a heading over each block, remarks under the table."""
    lines = text.splitlines()
    start, end = lines.index("\\midrule"), lines.index("\\bottomrule")
    head, rows = lines[lines.index("\\toprule") + 1 : start], lines[start + 1 : end]
    made: list[str] = []
    for position, row in enumerate(rows):
        block = blocks[position] if blocks else ""
        if block and (position == 0 or block != blocks[position - 1]):
            made += ["\\addlinespace"] * bool(made)
            made.append(f"\\multicolumn{{{len(columns)}}}{{@{{}}l}}{{\\textit{{{escaped(block)}}}}} \\\\")
        made.append(row)
    head = [head[0], *_rules([column.heading[0] for column in columns]), *head[1:]]
    lines = [*lines[: lines.index("\\toprule") + 1], *head, lines[start], *made, *lines[end:]]
    first = next(n for n, line in enumerate(lines) if line.startswith("\\begin{tabular}"))
    lines[first : first + 1] = [_SHRUNK, lines[first]]
    lines.insert(lines.index("\\end{tabular}") + 1, "}")
    notes = [f"\\par\\smallskip\\footnotesize\\raggedright {escaped(remark)}" for remark in remarks]
    position = lines.index("\\end{tabular}") + 2
    return "\n".join([*lines[:position], *notes, *lines[position:]]) + "\n"


def _rules(shared: Sequence[str]) -> list[str]:
    """A rule under each first line of a heading that stands over several columns."""
    rules, first = [], 0
    for position in range(1, len(shared) + 1):
        if position == len(shared) or shared[position] != shared[first]:
            if shared[first] and position - first > 1:
                rules.append(f"\\cmidrule(lr){{{first + 1}-{position}}}")
            first = position
    return [" ".join(rules)] * bool(rules)
