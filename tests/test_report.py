"""The page: one file that asks for nothing else, whose data are the records', and what a browser makes of it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers.sweeps import question, sample, write_run, write_sweep
from rich.console import Console

from analysis.frame import build
from analysis.records import read_runs
from analysis.report import main
from scope.decoding import KeepAll
from scope.generation.models import ModelSource
from scope.generation.sampling import Sampling
from scope.prefill import Full
from scope.runs.experiment import Experiment
from scope.runs.run import run
from scope.runs.tracking import NoTracking
from scope.tasks import Arithmetic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


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


def data_of(path: Path) -> Any:
    return json.loads(Page(path.read_text()).scripts[0])


def test_the_page_holds_the_records_and_asks_for_nothing_else(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep")
    assert main([str(sweep)]) == 0
    text = (sweep / "report.html").read_text()
    page = Page(text)
    assert not [a for _, a in page.tags if set(a) & {"src", "href"}]
    assert re.findall(r"https?://[^\"' ]+", text) == ["http://www.w3.org/2000/svg"]  # a name, not an address
    data = json.loads(page.scripts[0])
    assert len(data["rows"]) == len(data["runs"]) == 6
    for row, of_run in zip(data["rows"], data["runs"], strict=True):
        answers = [q for s in of_run["samples"].values() for q in s["questions"]]
        lines = (sweep / row["run"] / "records.jsonl").read_text().splitlines()
        right = [q["correct"] for line in lines for q in json.loads(line)["questions"]]
        assert [q[3] for q in answers] == right
        assert row["accuracy_percent"] == pytest.approx(100 * sum(right) / len(right))
    assert "decoding.budget" in {row["key"] for row in data["differences"]}
    assert "task.prompts" not in {row["key"] for row in data["differences"]}
    keys = {key for column in data["columns"] for key in (column["key"], *column.get("bounds", []))}
    assert keys <= set(data["rows"][0])
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert set(re.findall(r'\$\("(\w+)"\)', page.scripts[1])) <= ids


def test_runs_of_one_name_stay_apart(tmp_path: Path) -> None:
    for folder, text in (("one", "first"), ("two", "second")):
        write_run(tmp_path / folder, "run", [sample(0, generation=text)])
    assert main([str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(tmp_path / "page.html")]) == 0
    data = data_of(tmp_path / "page.html")
    assert [r["samples"]["arithmetic-0"]["generation"] for r in data["runs"]] == ["first", "second"]
    assert "same configuration as one/run" in data["warnings"][0]


def test_a_generation_cannot_leave_its_place(tmp_path: Path) -> None:
    nasty = "</script><script>alert(1)</script> @DATA@ <!--"
    write_run(tmp_path, "run", [sample(0, generation=nasty, questions=[question(1, True)])], experiment="<b>&")
    assert main([str(tmp_path)]) == 0
    page = Page((tmp_path / "report.html").read_text())
    assert len(page.scripts) == 2
    assert json.loads(page.scripts[0])["runs"][0]["samples"]["arithmetic-0"]["generation"] == nasty
    assert "b" not in {tag for tag, _ in page.tags}


# --- prompts -----------------------------------------------------------------------------------------------------


def real_run(folder: Path) -> tuple[Path, Arithmetic]:
    """A run of the embedded model, with the configuration that main.py would have recorded."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    asked = ["task=arithmetic_tiny", "task.prompts=2", "method=full", "decoding=none", "task.questions=2"]
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", overrides=asked), resolve=True)
    task = Arithmetic(**{key: value for key, value in config["task"].items() if key != "_target_"})
    labels = {"model": "embedded", "task": "arithmetic", "method": "full", "decoding": "none"}
    parts = {"model": ModelSource(), "method": Full(), "decoding": KeepAll(), "task": task, "sampling": Sampling()}
    made = Experiment(**parts, labels=labels, config=config)
    return run(made, NoTracking(), folder / "sweep", Console(quiet=True)), task


def test_prompts_are_made_again_where_they_are_those_of_the_records(tmp_path: Path) -> None:
    folder, task = real_run(tmp_path)
    page = tmp_path / "page.html"
    assert main([str(tmp_path / "sweep"), "--out", str(page)]) == 0
    assert data_of(page)["prompts"] == []
    assert main([str(tmp_path / "sweep"), "--out", str(page), "--prompts"]) == 0
    data = data_of(page)
    for made in task.samples():
        assert data["prompts"][data["runs"][0]["samples"][made.name]["prompt"]] == made.prompt

    config = folder / "config.yaml"
    asked = config.read_text()
    for change, reason in (
        (("reference_share: 0.3", "reference_share: 0.9"), "now makes other prompts (2 differ)"),
        (("_target_: scope.tasks.Arithmetic", "_target_: os.system"), "cannot be made again: task._target_=os.system"),
        ((asked, "[1"), "is not YAML"),
        ((asked, "name: x"), "is not the configuration of a run"),
    ):
        assert change[0] in asked
        config.write_text(asked.replace(*change))
        assert main([str(tmp_path / "sweep"), "--out", str(page), "--prompts"]) == 0
        data = data_of(page)
        assert data["prompts"] == []
        assert reason in data["runs"][0]["no_prompt"]


# --- a browser ---------------------------------------------------------------------------------------------------

USE = """
<pre id="result"></pre><script>
const cells = n => [...document.querySelectorAll("#table tr")].slice(1).map(row => row.children[n].textContent);
const at = heading => data.columns.findIndex(column => column.heading === heading);
const click = heading => document.querySelectorAll("#table th")[at(heading)].onclick();
const found = {errors, before: cells(at("accuracy %")), marks: document.querySelectorAll("#plot title").length};
click("accuracy %"); found.down = cells(at("accuracy %"));
click("accuracy %"); found.up = cells(at("accuracy %"));
found.bold = document.querySelectorAll("#table b").length;
document.getElementById("right").value = "5"; document.getElementById("right").onchange();
found.right = document.querySelector("#rightside pre").textContent;
found.wrong = document.querySelectorAll("#rightside .wrong").length;
document.getElementById("y").value = "tokens_per_second"; document.getElementById("y").onchange();
found.title = document.querySelector("#plot title").textContent;
document.getElementById("result").textContent = JSON.stringify(found);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the page's script is read, not run")
def test_a_browser_sorts_plots_and_compares(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep")
    assert main([str(sweep)]) == 0
    text = (sweep / "report.html").read_text()
    catch = "<head><script>const errors = []; onerror = message => errors.push(message);</script>"
    used = tmp_path / "used.html"
    used.write_text(text.replace("<head>", catch).replace("</body>", USE + "</body>"))
    asked = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*asked, "--dump-dom", used.as_uri()], capture_output=True, text=True, timeout=60, check=False
    )
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result is not None, done.stderr[-500:]
    found, frame = json.loads(result[1]), build(sweep)
    assert found["errors"] == []
    shown = [f"{e:.1f} [{a:.1f}, {b:.1f}]" for e, a, b in frame.filter(regex="^accuracy").to_numpy()]
    assert found["before"] == shown
    order = frame["accuracy_percent"].sort_values(kind="stable")
    assert [float(cell.split()[0]) for cell in found["up"]] == [float(f"{value:.1f}") for value in order]
    assert [float(cell.split()[0]) for cell in found["down"]] == [float(f"{value:.1f}") for value in order[::-1]]
    assert found["bold"] == frame["best"].sum() + frame["released_best"].sum()
    assert found["marks"] == len(frame)
    last = read_runs([sweep])
    runs = {r.name: r for r in last}
    chosen = runs[frame["run"][5]]
    assert found["right"] == "text"
    assert found["wrong"] == sum(not right for right in chosen.samples[0].correct)
    assert "tokens/s" in found["title"]


def test_one_prompt_has_an_accuracy_and_no_bounds(tmp_path: Path) -> None:
    write_run(tmp_path, "run", [sample(0, (True, False, False, False))])
    assert main([str(tmp_path)]) == 0
    (row,) = data_of(tmp_path / "report.html")["rows"]
    assert (row["accuracy_percent"], row["accuracy_low_percent"], row["accuracy_high_percent"]) == (25, None, None)
