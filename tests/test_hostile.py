"""Names from elsewhere in what is written of records: spreadsheets, Markdown, LaTeX, the page, figures, a terminal."""

import io
import json
import re
import unicodedata
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from analysis import report, tables
from analysis.frame import build
from analysis.latex import escaped as in_latex
from analysis.markdown import escaped, pipes
from analysis.records import read_runs
from analysis.sheets import Cells, Sheet, as_csv
from scope.records.lines import seal
from scope.util.visible import visible

ESCAPE, TURN = "\x1b[31;1m\x1b]0;title\x07", "\u202e\u2066\u200b"
LABELS = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1+1",
    "[x](http://a.b)",
    "![x](http://a.b/c.png)",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a|b\\|c",
    "`code` ``more``",
    "**bold** _thin_ ~~gone~~ __init__",
    "https://evil.example/x",
    "www.evil.example",
    "<http://evil.example>",
    "me@evil.example",
    "&lt;b&gt; &#x5B;x&#x5D;(y)",
    "$\\frac{1}{0}$",
    "{{ 7 * 7 }} {% raw %}",
    "\\input{/etc/passwd} \\write18{id}",
    "%s %(x)d 100%",
    "@DATA@ @TITLE@",
    ESCAPE,
    TURN,
    "line\nbreak\rreturn\u2028\x85\x0b\x0c",
    "[bold]rich[/bold] [/]",
]


def acts(text: str, but: str = "\n") -> list[str]:
    """Characters that do something instead of being seen."""
    return [c for c in text if c not in but and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def line(index: int, correct: bool) -> dict[str, Any]:
    question = {"number": 1, "expected": "1", "found": "1", "correct": correct, "given": 1}
    return {
        "sample": f"s-{index}",
        "status": "ok",
        "prompt_tokens": 300,
        "generated_tokens": 200,
        "finish": "eos",
        "generation": f"</script>{ESCAPE}{TURN}@DATA@",
        "questions": [question | {"released_found": "1", "released_correct": correct}],
        "measures": {f"rouge{ESCAPE}=1": 0.5},
        "batch": "b",
        "batch_rows": 2,
        "prefill_seconds": 0.1,
        "decode_seconds": 2.0,
        "batch_seconds": 2.0,
        "tokens_per_second": 100.0,
        "cache_bytes": 50_000,
        "full_cache_bytes": 100_000,
        "slots_kept": [200, 200],
        "prefill_kept": [180, 180],
        "prefill_evicted": 40,
        "decode_evicted": 10,
    }


def write_run(folder: Path, name: str, labels: Mapping[str, str], experiment: str, created: int = 0) -> None:
    folder.mkdir(parents=True)
    manifest = {
        "identity": "0" * 64,
        "experiment": experiment,
        "run": name,
        "created": f"2025-01-01T00:{created:02d}:00+00:00",
        "commit": f"c{ESCAPE}",
        "seed": 0,
        "labels": {"model": "m", "task": "t", "method": "full", "decoding": "none", **labels},
        "settings": {"method": {"budget": 0.5, f"=key{ESCAPE}": name, "limit": 1}},
        "samples": 3,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "records.jsonl").write_text("".join(seal(line(i, i != created % 3), "0" * 64).decode() for i in range(3)))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run a label, each in another place: method, decoding, model, task, the run's name, the experiment's."""
    folder = tmp_path_factory.mktemp("sweep")
    for n, label in enumerate(LABELS):
        labels = {"method": label, "decoding": LABELS[-n - 1]}
        write_run(folder / str(n), "run " + re.sub(r"[/\\]", ":", label), labels, "@DATA@ </title> =x", n)
    return folder


def test_the_terminal_is_told_nothing(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main([str(sweep)]) == 0
    assert report.main([str(sweep)]) == 0
    said = capsys.readouterr()
    assert acts(said.out + said.err) == []
    assert "\\x1b[31;1m" in said.out
    assert "\\u202e" in said.out
    assert "[bold]rich[/bold]" in said.out


def test_a_folder_that_is_no_sweep_is_named_safely(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main([str(tmp_path / f"no{ESCAPE}where")]) == 2
    assert acts(capsys.readouterr().err) == []


def test_no_cell_is_a_formula(sweep: Path) -> None:
    tables.write(build(sweep), sweep / "out")
    frame = pd.read_csv(sweep / "out" / "table.csv", dtype=str, keep_default_na=False)
    for cell in [*frame.columns, *frame.to_numpy().ravel()]:
        assert not re.match(r"\s*[=+\-@\t\r\uff1d]", cell) or re.fullmatch(r"[+-]?[\d.]+(e-?\d+)?", cell), cell
        assert acts(cell, "") == []
    assert set(frame["method"]) == {f"'{shown}" if shown[0] in "=+-@" else shown for shown in map(visible, LABELS)}


def test_ordinary_cells_are_read_back_as_they_were() -> None:
    frame = pd.DataFrame(
        {
            "number": [-4.8, float("nan"), 2.5e-7],
            "whole": [-4, 0, 10**12],
            "mixed": pd.Series([-1, "0.75", None], dtype=object),
            "text": ["snapkv", "a, b", 'say "x"'],
            "figure": ["-4.8", "+1.5", "-4.8 [-9.0, -1.2]"],
            "dash": ["\N{EN DASH}", "a-b", "a=b"],
        }
    )
    back = pd.read_csv(io.StringIO(as_csv(frame)))
    assert list(back["number"][:1]) == [-4.8]
    assert back["number"].equals(frame["number"])
    assert list(back["whole"]) == [-4, 0, 10**12]
    assert list(back["mixed"].fillna(0)) == [-1, 0.75, 0]
    for column in ("text", "dash"):
        assert list(back[column]) == list(frame[column])
    assert list(back["figure"]) == list(frame["figure"])
    assert list(frame.columns) == list(back.columns)


class Seen(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.outside_code = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("td", "th", "p"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data
        if self.get_starttag_text() != "<code>":
            self.outside_code += data


def rendered(text: str) -> Seen:
    return Seen(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))


@pytest.mark.parametrize("label", LABELS)
def test_markdown_shows_a_label_as_it_is(label: str) -> None:
    shown = visible(label.replace("\n", " "))
    sheet = Sheet("", "", "", pd.DataFrame({"method": [label, "x"]}), {label: Cells(["1", "2"])})
    page = rendered(pipes(sheet))
    assert set(page.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "code"}
    assert [cell.strip() for cell in page.cells] == ["method", shown.strip(), shown.strip(), "1", "x", "2"]
    assert not re.search(r"://|www\.|\w@\w", re.sub(r"(`+).*?\1", "", pipes(sheet)))  # what GitHub makes links of
    alone = rendered(f"Title: {escaped(label)}.\n\n{escaped(label)}: x")
    assert set(alone.tags) <= {"p", "code"}


def test_an_interval_stays_readable_in_the_source() -> None:
    assert escaped("46.5 [38.1, 55.2] h2o_sum, a-b (c)") == "46.5 [38.1, 55.2] h2o_sum, a-b (c)"


LATEX = re.compile(
    r"\\(?:textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}|\\[&%$#_{}]|\$-\$"
)


@pytest.mark.parametrize("label", LABELS)
def test_latex_has_nothing_but_text(label: str) -> None:
    plain = LATEX.sub("", in_latex(label)).removeprefix("{}")
    assert not re.search(r"[\\{}$&#%~^_|<>]", plain)
    assert acts(in_latex(label), "") == []


def test_the_tex_file_has_no_command_of_a_label(sweep: Path) -> None:
    text = tables.write(build(sweep), sweep / "out")[2].read_text()
    assert acts(text) == []
    assert not re.search(r"\\(input|write|frac)", text)
    assert "\\{\\{ 7 * 7 \\}\\}" in text


def test_a_note_that_looks_like_an_interval_is_text() -> None:
    from analysis.latex import latex

    notes = Cells(["other [\\input{secret}]", "y [\\input{secret}]"])
    text = latex(Sheet("t", "", "tab:t", pd.DataFrame({"method": ["a", "b"]}), {"x": notes}))
    assert "\\input" not in text


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text.setdefault(tag, []).append("")

    def handle_data(self, data: str) -> None:
        if self.tags:
            self.text[self.tags[-1]][-1] += data


@pytest.mark.parametrize("title", ["@DATA@", "@TITLE@", "</title><script>x", "\\1 \\g<0> &amp;", "@DATA@@DATA@"])
def test_a_title_is_a_title(title: str, tmp_path: Path) -> None:
    write_run(tmp_path / "run", "r", {}, title)
    runs = read_runs([tmp_path])
    page = Page(report.page(runs, build(tmp_path)))
    assert [text.strip() for text in page.text["title"] + page.text["h1"]] == [title, title]
    assert len(page.text["script"]) == 2
    data = json.loads(page.text["script"][0])
    assert data["runs"][0]["samples"]["s-0"]["generation"] == f"</script>{ESCAPE}{TURN}@DATA@"  # data as they are


def test_the_page_of_hostile_runs(sweep: Path) -> None:
    runs = read_runs([sweep])
    text = report.page(runs, build(sweep))
    usual = report.page(runs[:1], build(sweep / "0"))
    assert Page(text).tags == Page(usual).tags
    data = json.loads(Page(text).text["script"][0])
    assert [row["method"] for row in data["rows"]] == [visible(run.labels["method"]) for run in runs]


def test_figures_take_any_label(sweep: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from analysis.figures import draw_all

    few = [run for run in read_runs([sweep]) if "frac" in run.labels["method"] or "{{" in run.labels["method"]]
    assert few
    assert draw_all(few, tmp_path)


@pytest.mark.parametrize("label", LABELS)
def test_a_sheet_of_scores_is_shown_safely(label: str) -> None:
    from analysis.view import print_columns

    out = io.StringIO()
    print_columns(pd.DataFrame({"run": [label]}), pd.DataFrame({"x": ["1"]}), {}, Console(file=out, width=200))
    assert acts(out.getvalue()) == []


def test_visible_leaves_what_can_be_seen() -> None:
    for text in ("", "snapkv + slide", "é ü 漢字 ∑ \N{EN DASH} 😀", "a\\nb"):
        assert visible(text) == text
    assert visible("a\nb\tc", keep="\n\t") == "a\nb\tc"
    assert visible("\x1b\x00\x7f\x9b\u200f\ufeff") == "\\x1b\\x00\\x7f\\x9b\\u200f\\ufeff"
