"""The page: one file that asks for nothing else, whose data are the records'. No browser runs its script here."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_tables import question, sample, write_run, write_sweep

from analysis.report import main


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def test_the_page_holds_the_records_and_asks_for_nothing_else(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep")
    assert main([str(sweep)]) == 0
    text = (sweep / "report.html").read_text()
    page = Page(text)
    assert not [a for _, a in page.tags if set(a) & {"src", "href"}]
    assert re.findall(r"https?://[^\"' ]+", text) == ["http://www.w3.org/2000/svg"]  # a name, not an address
    data = json.loads(page.scripts[0])
    assert len(data["rows"]) == len(data["runs"]) == 6
    for row in data["rows"]:
        answers = [q for s in data["runs"][row["run"]]["samples"].values() for q in s["questions"]]
        lines = (sweep / row["run"] / "records.jsonl").read_text().splitlines()
        right = [q["correct"] for line in lines for q in json.loads(line)["questions"]]
        assert [q[3] for q in answers] == right
        assert row["accuracy_percent"] == pytest.approx(100 * sum(right) / len(right))
    assert "decoding.budget" in {row["key"] for row in data["differences"]}
    assert "task.prompts" not in {row["key"] for row in data["differences"]}
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert set(re.findall(r'\$\("(\w+)"\)', page.scripts[1])) <= ids


def test_a_generation_cannot_leave_its_place(tmp_path: Path) -> None:
    nasty = "</script><script>alert(1)</script> @DATA@ <!--"
    write_run(tmp_path, "run", [sample(0, generation=nasty, questions=[question(1, True)])], experiment="<b>&")
    assert main([str(tmp_path)]) == 0
    page = Page((tmp_path / "report.html").read_text())
    assert len(page.scripts) == 2
    assert json.loads(page.scripts[0])["runs"]["run"]["samples"]["arithmetic-0"]["generation"] == nasty
    assert "b" not in {tag for tag, _ in page.tags}
