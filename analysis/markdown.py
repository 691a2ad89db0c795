"""A sheet as Markdown: a pipe table whose columns line up in the source too."""

import re

from rich.cells import cell_len

from analysis.sheets import NOTES, Sheet, one_line
from scope.util.visible import visible

_MARKS = re.compile(  # an underscore within a word is none, nor are brackets without an address behind them
    r"[\\|*`<>~$]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|&(?=#?\w+;)"
)
_LIVE = re.compile(r"://|www\.|mailto:|xmpp:|@\w|\w@", re.I)  # what GitHub makes a link of by itself


def markdown(sheet: Sheet) -> str:
    parts = [escaped(sheet.title) + "." if sheet.title else "", pipes(sheet), *[escaped(r) for r in sheet.remarks]]
    return "\n\n".join(part for part in (*parts, escaped(sheet.about)) if part)


def pipes(sheet: Sheet) -> str:
    """The table alone."""
    text, best = sheet.keys.join(sheet.text), sheet.best
    columns = []
    for position, name in enumerate(text):
        bold = best.get(name, [False] * len(text))
        cells = [f"**{escaped(c)}**" if b else escaped(c) for c, b in zip(text[name], bold, strict=True)]
        heading = escaped(one_line(name))
        width = max(3, *(cell_len(cell) for cell in (heading, *cells)))
        left = position < sheet.keys.shape[1] or name == NOTES
        rule = "-" * width if left else "-" * (width - 1) + ":"
        fill = " " * width
        padded = [(c + fill[cell_len(c) :]) if left else (fill[cell_len(c) :] + c) for c in (heading, *cells)]
        columns.append([padded[0], rule, *padded[1:]])
    return "\n".join("| " + " | ".join(line) + " |" for line in zip(*columns, strict=True))


def escaped(text: str) -> str:
    """Text as Markdown shows it: no tag, no emphasis, no formula, and no link that can be followed."""
    words = re.split(r"(\S+)", visible(text.replace("\n", " ")))
    return "".join(_code(word) if _LIVE.search(word) else _MARKS.sub(r"\\\g<0>", word) for word in words)


def _code(word: str) -> str:
    """A word in which nothing is alive: within backticks, more of them than it has itself."""
    longest = max((len(run) for run in re.findall("`+", word)), default=0)
    fence, space = "`" * (longest + 1), " " * (word[0] == "`" or word[-1] == "`")
    return f"{fence}{space}{word}{space}{fence}".replace("|", "\\|")  # a cell ends at a bar in code too
