"""A sheet as Markdown: a table that is easy to read in the source too."""

import re

from analysis.sheets import NOTES, Sheet, one_line
from scope.util.visible import visible

_MARKS = re.compile(  # what Markdown acts on; not an underscore within a word, nor brackets without an address
    r"[\\|*`<>~$]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|&(?=#?\w+;)"
)
_LIVE = re.compile(r"://|www\.|mailto:|xmpp:|@\w|\w@", re.I)  # GitHub makes links of these


def markdown(sheet: Sheet) -> str:
    """The table with its title, its remarks and what it is about."""
    parts = [escaped(sheet.title) + "." if sheet.title else "", pipes(sheet), *[escaped(r) for r in sheet.remarks]]
    return "\n\n".join(part for part in (*parts, escaped(sheet.about)) if part)


def pipes(sheet: Sheet) -> str:
    """The table alone. A sheet without rows is no table."""
    text, best = sheet.keys.join(sheet.text), sheet.best
    left = [heading in sheet.keys or heading == NOTES for heading in text]
    for heading, bold in best.items():
        cells = zip(text[heading], bold, strict=True)
        text[heading] = [f"**{escaped(cell)}**" if is_bold else escaped(cell) for cell, is_bold in cells]
    for key in sheet.keys:
        text[key] = [escaped(word) for word in text[key]]
    text.columns = [escaped(one_line(heading)) for heading in text]
    alignment = ["left" if words else "right" for words in left]
    return str(text.to_markdown(index=False, disable_numparse=True, colalign=alignment))


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: without tags, emphasis, formulas or links."""
    words = re.split(r"(\S+)", visible(text.replace("\n", " ")))
    return "".join(_code(word) if _LIVE.search(word) else _MARKS.sub(r"\\\g<0>", word) for word in words)


def _code(word: str) -> str:
    """A word as code: within one backtick more than its longest run of backticks."""
    longest = max((len(run) for run in re.findall("`+", word)), default=0)
    fence, space = "`" * (longest + 1), " " * (word[0] == "`" or word[-1] == "`")
    return f"{fence}{space}{word}{space}{fence}".replace("|", "\\|")  # a cell ends at a bar in code too
