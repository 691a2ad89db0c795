"""A sheet as a LaTeX table: booktabs' rules, figures aligned at their points by siunitx.

The form of the table is in `table.tex.jinja`; here are the cells, the widths and the escapes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import groupby

import jinja2

from analysis.sheets import NOTES, NOTHING, STAR, Cells, Sheet
from analysis.speeds import DAGGER
from scope.util.visible import visible

NEEDS = "% needs \\usepackage{booktabs,siunitx,graphicx}"
_MARKS = {STAR: "{*}", DAGGER: r"{\textsuperscript{\textdagger}}"}  # braces tell siunitx that a mark is no figure
_WIDE = 12  # columns; from here on the type is smaller
_LONG = 24  # rows; the same
_PAGE = 45  # rows of a table at most; more make further tables

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
    """Text as LaTeX prints it. It is safe at the start of a row too."""
    plain = visible(text, keep="\n").translate(_ESCAPES)
    found = re.sub(r"(?<![\w-])-(?=\d)", "$-$", plain)  # a hyphen is no minus sign
    return "{}" + found if text[:1] in ("[", "*") else found  # after \\ LaTeX would take these as its arguments


@dataclass(frozen=True)
class _Column:
    """One column as it is typeset: its heading's two lines, its place in the tabular's argument, its cells."""

    heading: tuple[str, str]
    alignment: str
    cells: list[str]


@dataclass(frozen=True)
class _Row:
    """A row's cells; `block`: the heading to set above it, empty where it goes on with the block of the row before."""

    cells: list[str]
    block: str


def latex(sheet: Sheet) -> str:
    """A `table` that needs the packages of `NEEDS`; of a long sheet several, each with a part of the rows."""
    count = -(-len(sheet.keys) // _PAGE)
    if count == 1:
        return _table(sheet)
    parts = []
    for n in range(count):
        part = sheet.part(slice(n * _PAGE, (n + 1) * _PAGE))
        title, label = f"{sheet.title}, part {n + 1} of {count}", f"{sheet.label}-{n + 1}"
        parts.append(_table(replace(part, title=title, label=label)))
    return "\n".join(parts)


def _table(sheet: Sheet) -> str:
    keys = list(sheet.keys)[sheet.blocked :]
    columns = [_Column(("", escaped(key)), "l", [escaped(cell) for cell in sheet.keys[key]]) for key in keys]
    for heading, cells in sheet.columns.items():
        columns += _typeset(heading, cells)
    blocks = list(sheet.keys.iloc[:, 0]) if sheet.blocked else [""] * len(sheet.keys)
    begins = [n == 0 or block != blocks[n - 1] for n, block in enumerate(blocks)]
    rows = [_Row([column.cells[n] for column in columns], escaped(block) * begins[n]) for n, block in enumerate(blocks)]
    small = len(columns) >= _WIDE or len(rows) >= _LONG
    return _template().render(
        caption=escaped(f"{sheet.title}. {sheet.about}".strip()),
        label=sheet.label,
        size="scriptsize" if small else "small",
        columns=columns,
        head=_head([column.heading for column in columns]),
        rules=_rules([column.heading[0] for column in columns]),
        rows=rows,
        remarks=[escaped(remark) for remark in sheet.remarks],
    )


@cache
def _template() -> jinja2.Template:
    """The form of a table. Its marks are << >> and <% %>, since LaTeX has the braces."""
    environment = jinja2.Environment(
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # what is put in is escaped for LaTeX, not for HTML
    )
    return environment.from_string(resources.files("analysis").joinpath("table.tex.jinja").read_text(encoding="utf-8"))


def _typeset(heading: str, cells: Cells) -> list[_Column]:
    """Figures in a column of siunitx's, an interval behind them in one of its own; words as text."""
    above, _, below = heading.partition("\n") if "\n" in heading else ("", "", heading)
    figures, intervals = cells.figures(), cells.intervals()
    bold = ["\\bfseries " * shown for shown in cells.bold()]
    if cells.are_words or all(figure == NOTHING for figure in figures):
        alignment = ">{\\raggedright\\arraybackslash}p{6cm}" if heading == NOTES else "r"
        texts = [mark + escaped(text) for mark, text in zip(bold, figures, strict=True)]
        return [_Column((escaped(above), escaped(below)), alignment, texts)]
    set_figures = [mark + figure for mark, figure in zip(bold, _braced(figures), strict=True)]
    if not any(intervals):
        return [_Column((escaped(above), escaped(below)), _siunitx(figures), set_figures)]
    under, bracket, rest = below.partition("[")
    return [
        _Column((escaped(above), escaped(under.strip())), _siunitx(figures) + "@{\\hspace{3pt}}", set_figures),
        _Column((escaped(above), escaped(bracket + rest)), ">{\\scriptsize}l", [f"{{{text}}}" for text in intervals]),
    ]


def _siunitx(cells: Sequence[str]) -> str:
    """The siunitx column for these figures: space for their digits on both sides of the point, signs and marks."""
    figures = [cell.rstrip(STAR + DAGGER) for cell in cells if cell != NOTHING]
    whole = max(len(figure.lstrip("+-").partition(".")[0]) for figure in figures)
    digits = max(len(figure.partition(".")[2]) for figure in figures)
    sign = "+" if any(figure[0] in "+-" for figure in figures) else ""
    marks = "".join(typeset for mark, typeset in _MARKS.items() if any(mark in cell for cell in cells))
    space = f", table-space-text-post={marks if marks.count('}') == 1 else f'{{{marks}}}'}" if marks else ""
    return f"S[table-format={sign}{whole}" + (f".{digits}" if digits else "") + f"{space}]"


def _braced(cells: Sequence[str]) -> list[str]:
    """The cells for a siunitx column, where braces mark what is not a figure."""
    return [
        "{--}" if cell == NOTHING else "".join(_MARKS.get(character, character) for character in cell) for cell in cells
    ]


def _head(headings: Sequence[tuple[str, str]]) -> list[str]:
    """The lines of the heading: what several columns share above, what each has of its own below."""
    if not any(above for above, _ in headings):
        return [" & ".join(f"{{{below}}}" for _, below in headings)]
    spans = [(above, len(list(same))) for above, same in groupby(above for above, _ in headings)]
    over = [f"{{{above}}}" if count == 1 else f"\\multicolumn{{{count}}}{{c}}{{{above}}}" for above, count in spans]
    return [" & ".join(over), " & ".join(f"{{{below}}}" for _, below in headings)]


def _rules(shared: Sequence[str]) -> str:
    """A rule under each first line of a heading that stands over several columns."""
    rules, first = [], 1
    for above, same in groupby(shared):
        count = len(list(same))
        if above and count > 1:
            rules.append(f"\\cmidrule(lr){{{first}-{first + count - 1}}}")
        first += count
    return " ".join(rules)
