"""A sheet as Markdown: a pipe table whose columns line up in the source too."""

import re

from rich.cells import cell_len

from analysis.sheets import Sheet, one_line


def markdown(sheet: Sheet) -> str:
    parts = [escaped(sheet.title) + "." if sheet.title else "", pipes(sheet), *[escaped(r) for r in sheet.remarks]]
    return "\n\n".join(part for part in (*parts, escaped(sheet.about)) if part)


def pipes(sheet: Sheet) -> str:
    text = sheet.keys.join(sheet.columns)
    columns = []
    for position, name in enumerate(text):
        bold = sheet.best.get(name, [False] * len(text))
        cells = [f"**{escaped(c)}**" if b else escaped(c) for c, b in zip(text[name], bold, strict=True)]
        heading = escaped(one_line(name))
        width = max(3, *(cell_len(cell) for cell in (heading, *cells)))
        left = position < sheet.keys.shape[1] or name == "notes"
        rule = "-" * width if left else "-" * (width - 1) + ":"
        fill = " " * width
        padded = [(c + fill[cell_len(c) :]) if left else (fill[cell_len(c) :] + c) for c in (heading, *cells)]
        columns.append([padded[0], rule, *padded[1:]])
    return "\n".join("| " + " | ".join(line) + " |" for line in zip(*columns, strict=True))


def escaped(text: str) -> str:
    return re.sub(r"([\\|*`<])", r"\\\1", text).replace("\n", " ")
