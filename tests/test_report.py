"""The page: one file that asks for nothing else, whose data are the records', and what a browser makes of it."""

import html
import json
import math
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
from analysis.story import story
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
    assert [a["href"] for _, a in page.tags if "href" in a] == ["#runs"]
    assert not [a for _, a in page.tags if "src" in a]
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
    assert {(sweep / of_run["link"]).resolve() for of_run in data["runs"]} == {sweep / name for name in "abcdez"}
    assert data["story"] == list(story(build(sweep)))
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

CATCH = "<head><script>const errors = []; onerror = message => errors.push(message);</script>"
USE = """
<pre id="result"></pre><script>
const heads = () => [...document.querySelectorAll("#table thead th")];
const at = heading => heads().findIndex(th => th.textContent.startsWith(heading));
const inColumn = n => [...document.querySelectorAll("#table tbody tr")].map(row => row.children[n].textContent);
const click = heading => heads()[at(heading)].querySelector("button").click();
const found = {errors, before: inColumn(at("accuracy %")), marks: document.querySelectorAll("#plot title").length};
click("accuracy %"); found.down = inColumn(at("accuracy %"));
found.sorted = document.querySelector("#table [aria-sort]").getAttribute("aria-sort");
click("accuracy %"); found.up = inColumn(at("accuracy %"));
found.bold = document.querySelectorAll("#table b").length;
found.links = [...document.querySelectorAll("#table tbody a")].map(a => a.getAttribute("href"));
const press = key => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
document.querySelector("#plot path").focus(); press("ArrowRight");
found.pointed = document.getElementById("pointed").textContent;
document.getElementById("right").value = "5"; document.getElementById("right").onchange();
found.right = document.querySelector("#rightside pre").textContent;
found.wrong = document.querySelectorAll("#rightside .wrong").length;
document.getElementById("y").value = "tokens_per_second"; document.getElementById("y").onchange();
found.title = document.querySelector("#plot title").textContent;
document.getElementById("result").textContent = JSON.stringify(found);
</script>"""
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the page's script is read, not run")


def in_browser(page: Path, script: str) -> Any:
    """What `script` leaves as JSON in #result, after the page's own script has run. Errors of both are in `errors`."""
    used = page.with_name("used.html")
    used.write_text(page.read_text().replace("<head>", CATCH).replace("</body>", script + "</body>"))
    return dumped(used)


def dumped(page: Path) -> Any:
    profile = f"--user-data-dir={page.parent / 'profile'}"
    asked = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", profile, "--virtual-time-budget=4000"]
    done = subprocess.run(
        [*asked, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result is not None, done.stderr[-500:]
    return json.loads(html.unescape(result[1]))


@needs_browser
def test_a_browser_sorts_plots_and_compares(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep")
    assert main([str(sweep)]) == 0
    found, frame = in_browser(sweep / "report.html", USE), build(sweep)
    assert found["errors"] == []
    shown = [f"{e:.1f} [{a:.1f}, {b:.1f}]" for e, a, b in frame.filter(regex="^accuracy").to_numpy()]
    assert found["before"] == shown
    order = frame["accuracy_percent"].sort_values(kind="stable")
    assert [float(cell.split()[0]) for cell in found["up"]] == [float(f"{value:.1f}") for value in order]
    assert [float(cell.split()[0]) for cell in found["down"]] == [float(f"{value:.1f}") for value in order[::-1]]
    assert found["sorted"] == "descending"
    assert found["bold"] == frame["best"].sum() + frame["released_best"].sum()
    assert found["marks"] == len(frame)
    assert sorted(found["links"]) == [f"{name}/" for name in "abcdez"]
    second = frame.iloc[1]
    assert found["pointed"].startswith(f"{second['method']} + {second['decoding']} (")
    runs = {r.name: r for r in read_runs([sweep])}
    chosen = runs[frame["run"][5]]
    assert found["right"] == "text"
    assert found["wrong"] == sum(not right for right in chosen.samples[0].correct)
    assert "tokens/s" in found["title"]


MEASURED = """<script>
const wide = [...document.querySelectorAll("table")].filter(t => t.offsetWidth > t.parentElement.clientWidth);
parent.postMessage([innerWidth, document.documentElement.scrollWidth, errors, wide.length], "*");</script>"""
FRAMES = """<body><pre id="result"></pre><script>const found = [];
onmessage = event => { found.push(event.data); document.getElementById("result").textContent = JSON.stringify(found); };
</script><iframe src="framed.html" style="width:1280px;height:900px"></iframe>
<iframe src="framed.html" style="width:390px;height:900px"></iframe></body>"""


@needs_browser
def test_no_page_scrolls_sideways_on_a_screen_or_a_phone(tmp_path: Path) -> None:
    """Whatever the number of columns, and the length of words without a space in generations and names."""
    sweep = write_sweep(tmp_path / "sweep")
    write_run(sweep, "long_" + 60 * "x", [sample(0, generation=400 * "y")], method="m" * 40, decoding="d" * 40)
    write_run(sweep, "replay", [replayed()], method="h2o", created=9)
    assert main([str(sweep), "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    (tmp_path / "framed.html").write_text(text.replace("<head>", CATCH).replace("</body>", MEASURED + "</body>"))
    (tmp_path / "frames.html").write_text(FRAMES)
    found = sorted(dumped(tmp_path / "frames.html"))
    assert [width for width, *_ in found] == [390, 1280]
    for width, needed, errors, tables in found:
        assert errors == []
        assert needed <= width
        assert tables == 0


def replayed(**changed: Any) -> dict[str, Any]:
    """A replay of three tokens: the second is lost, the third is kept. A piece is a part of a character."""
    tokens = {
        "tokens": [5, 6, 7],
        "texts": ["It", " is", " <b>7"],
        "top": ["It", " was", "7"],
        "full_top": ["It", " is", "7"],
        "kl": [0.0, 2.5, -1e-9],
        "log_likelihood": [-0.1, -3.0, -0.2],
        "full_log_likelihood": [-0.1, -0.5, -0.2],
        "agrees": "101",
        "recalls": "100",
        "full_recalls": "110",
        "answers": "001",
    }
    return sample(0, (), questions=[], generation="", replay=tokens | changed)


POINT = """
<pre id="result"></pre><script>
const spans = [...document.querySelectorAll("#leftside .tokens span")];
spans[0].focus();
spans[0].dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
document.getElementById("result").textContent = JSON.stringify({errors, text: spans.map(s => s.textContent),
  kinds: spans.map(s => s.className), stops: spans.map(s => s.tabIndex),
  told: [...document.querySelectorAll(".told")].map(e => e.textContent),
  most: [...document.querySelectorAll("#leftside .most button")].map(e => e.textContent)});
</script>"""


@needs_browser
def test_a_token_says_what_each_cache_takes_for_most_likely(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep", "new", [replayed()], created=1)
    old = {key: value for key, value in replayed()["replay"].items() if key not in ("texts", "top", "full_top")}
    write_run(tmp_path / "sweep", "old", [replayed() | {"replay": old}], created=2, method="h2o")
    assert main([str(tmp_path / "sweep")]) == 0
    found = in_browser(tmp_path / "sweep" / "report.html", POINT)
    assert found["errors"] == []
    assert found["text"] == ["It", " is", " <b>7"]
    assert found["kinds"] == ["k0", "k4 changed here", "k0 answer"]
    assert found["stops"] == [-1, 0, -1]
    told, of_old = found["told"]
    assert "Token 2:  is, KL 2.5 nats." in told
    assert "with the full cache:  is; with the compressed one:  was." in told
    assert f"{100 * math.exp(-0.5):.1f}% and {100 * math.exp(-3):.1f}%" in told
    assert "Token 2: #6 , KL 2.5 nats. The records do not have the most likely tokens." in of_old
    assert len(found["most"]) == 1
    assert "\u201c is\u201d, compressed: \u201c was\u201d" in found["most"][0]


def test_what_a_screen_reader_needs_is_there(tmp_path: Path) -> None:
    """Landmarks, names of sections and fields, captions: in the page as it is written, before its script runs."""
    sweep = write_sweep(tmp_path / "sweep")
    assert main([str(sweep)]) == 0
    text = (sweep / "report.html").read_text()
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    assert dict(page.tags)["html"] == {"lang": "en"}
    assert tags.count("main") == tags.count("header") == tags.count("h1") == 1
    assert tags.count("caption") == tags.count("table") == 2
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    assert {a["aria-labelledby"] for tag, a in page.tags if tag in ("section", "svg")} <= set(ids)
    assert len(re.findall(r"<label>[^<]*<(?:select|input)", text)) == tags.count("select") + tags.count("input")


def luminance(colour: str) -> float:
    """Of #rgb or #rrggbb, as WCAG 2.2 defines relative luminance."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_stands_out_and_what_was_lost_is_darker(tmp_path: Path) -> None:
    """Contrast of 4.5 to 1 and more, WCAG 2.2 level AA; and the shades of KL are in order without colours too."""
    rules = (Path(__file__).parents[1] / "analysis" / "report.html").read_text()
    style = rules.partition("<style>")[2].partition("</style>")[0]
    texts = set(re.findall(r"[;{]color:(#\w+)", style)) - {"#fff"}
    pairs, shades = [(text, ground) for text in texts for ground in ("#fff", "#f4f4f4")], []
    for body in re.findall(r"{([^{}]*background:#[^{}]*)}", style):
        ground = re.findall(r"background:(#\w+)", body)[0]
        pairs.append(((re.findall(r"(?:^|;)color:(#\w+)", body) or ["#222"])[0], ground))
    for body in re.findall(r"\.k\d{([^{}]*)}", style):
        shades.append(luminance(re.findall(r"background:(#\w+)", body)[0]))
    for text, ground in pairs:
        light, dark = sorted((luminance(text), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)
    assert shades == sorted(shades, reverse=True)
    assert len(shades) == 5


def test_one_prompt_has_an_accuracy_and_no_bounds(tmp_path: Path) -> None:
    write_run(tmp_path, "run", [sample(0, (True, False, False, False))])
    assert main([str(tmp_path)]) == 0
    (row,) = data_of(tmp_path / "report.html")["rows"]
    assert (row["accuracy_percent"], row["accuracy_low_percent"], row["accuracy_high_percent"]) == (25, None, None)
