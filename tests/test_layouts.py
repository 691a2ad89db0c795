"""Tables in the paper's layouts: each figure of the .tex again by plain loops over the .jsonl, and what is missing."""

import csv
import json
import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.sweeps import sample, write_run, write_sweep
from scipy import stats

from analysis.frame import of_runs
from analysis.paper import compiled
from analysis.records import read_runs
from analysis.sheets import NOTHING
from analysis.tables import PRESETS, main, write, write_preset
from scope.util.errors import ScopeError

PUBLISHED = Path(__file__).parents[1] / "analysis" / "published"
TASKS = {"gsm8k_4k": 4, "mmlu_4k": 3, "csqa_4k": 5}  # questions of a prompt
PROMPTS = 10
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def records(seed: int, level: float, questions: int, prompts: int = PROMPTS) -> list[dict[str, Any]]:
    """Answers, scored otherwise by position, some missing, on caches of several sizes."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(prompts):
        line = sample(index, (random.random(questions) < level).tolist(), cache_bytes=10**8 + seed * 10**6 + index)
        line["full_cache_bytes"] = 3 * 10**8
        line["slots_kept"] = [200 + seed + layer for layer in range(4)]
        for asked in line["questions"]:
            asked["released_correct"] = bool(random.random() < level)
            if random.random() < 0.2:
                asked |= {"found": None, "correct": False}
            if random.random() < 0.1:
                asked |= {"released_found": None, "released_correct": False}
        made.append(line)
    return made


def write_paper_sweep(sweep: Path, model: str = "llama3.1_8b", tasks: Sequence[str] = tuple(TASKS)) -> Path:
    """The first rows of table 1 and one that the paper has not."""
    rows = [
        ("full", "none", (None, None), 0.9),
        ("h2o", "h2o", (2048, 1024), 0.4),
        ("h2o", "slide", (2048, 1024), 0.6),
        ("h2o", "adaptive", (2048, 1024), 0.6),
        ("h2o", "slide", (2048, 512), 0.5),
        ("snapkv", "slide", (2048, 512), 0.5),
    ]
    for number, (method, decoding, budgets, level) in enumerate(rows):
        for at, task in enumerate(tasks):
            labels = {"model": model, "task": task, "method": method, "decoding": decoding, "budget": "x"}
            made = records(10 * number + at, level, TASKS[task])
            if method == "full":
                made = [line | {"cache_bytes": line["full_cache_bytes"]} for line in made]
            write_run(
                sweep, f"{task}-{number}", made, method=method, decoding=decoding, budgets=budgets,
                created=number, labels=labels,
            )  # fmt: skip
    return sweep


# --- the oracle: records by plain loops --------------------------------------------------------------------------


@dataclass
class Plain:
    """One run, from its two files."""

    labels: dict[str, str]
    budgets: tuple[Any, Any]
    planned: int
    lines: list[dict[str, Any]]


def plain_runs(folder: Path) -> list[Plain]:
    found = []
    for path in sorted(folder.rglob("manifest.json")):
        manifest = json.loads(path.read_text())
        lines = [json.loads(line) for line in (path.parent / "records.jsonl").read_text().splitlines()]
        budgets = tuple(manifest["settings"][part].get("budget") for part in ("method", "decoding"))
        found.append(Plain(manifest["labels"], budgets, manifest["samples"], lines))
    return found


def only(runs: Sequence[Plain], **labels: str) -> Plain:
    (run,) = [r for r in runs if all(r.labels[key] == value for key, value in labels.items())]
    return run


def korn_graubard(hits: Sequence[int], sizes: Sequence[int]) -> tuple[float, float, float]:
    """The interval as the article writes it, in percent."""
    n, groups, p = sum(sizes), len(sizes), sum(hits) / sum(sizes)
    deff = 1.0
    if 0 < p < 1:
        spread = sum((hit - p * size) ** 2 for hit, size in zip(hits, sizes, strict=True))
        deff = max(1.0, groups / (groups - 1) * spread / n**2 / (p * (1 - p) / (n - 1)))
    eff = n / deff * (stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, groups - 1)) ** 2
    low = stats.beta.ppf(0.025, p * eff, eff - p * eff + 1) if p > 0 else 0.0
    high = stats.beta.ppf(0.975, p * eff + 1, eff - p * eff) if p < 1 else 1.0
    return 100 * p, 100 * low, 100 * high


def accuracy(run: Plain, key: str) -> tuple[float, float, float]:
    return korn_graubard(
        [sum(q[key] for q in line["questions"]) for line in run.lines],
        [len(line["questions"]) for line in run.lines],
    )


def shares(run: Plain, key: str) -> list[float]:
    return [sum(q[key] for q in line["questions"]) / len(line["questions"]) for line in run.lines]


def missing(runs: Sequence[Plain], key: str) -> float:
    asked = [q[key] is None for run in runs for line in run.lines for q in line["questions"]]
    return 100 * sum(asked) / len(asked)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def slots(run: Plain) -> float:
    return mean([mean(line["slots_kept"]) for line in run.lines])


def mib(run: Plain) -> float:
    return mean([line["cache_bytes"] for line in run.lines]) / 1024 / 1024


def tokens_per_second(run: Plain) -> float:
    slowest: dict[str, float] = {}
    for line in run.lines:
        slowest[line["batch"]] = max(slowest.get(line["batch"], 0.0), line["batch_seconds"])
    return sum(line["generated_tokens"] for line in run.lines) / sum(slowest.values())


def points_lost(full: Plain, run: Plain) -> tuple[float, float, float]:
    """Paired by prompt, by Student's t: there are few."""
    lost = [a - b for a, b in zip(shares(full, "correct"), shares(run, "correct"), strict=True)]
    low, high = stats.ttest_1samp(lost, 0).confidence_interval(0.95)
    return 100 * mean(lost), 100 * low, 100 * high


def published(name: str) -> list[dict[str, str]]:
    lines = [line for line in (PUBLISHED / name).read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


# --- the .tex: its numbers, row by row ---------------------------------------------------------------------------


def tex_tables(path: Path) -> dict[str, list[tuple[list[str], list[str]]]]:
    """label -> rows of (cells without a number in figures, all numbers of the others)."""
    found = {}
    for table in path.read_text().split(r"\begin{table}")[1:]:
        label = re.search(r"\\label\{tab:(.*?)\}", table)[1]
        body = table.split(r"\midrule")[1].split(r"\bottomrule")[0]
        rows = []
        for line in body.splitlines():
            if not line.endswith(r"\\") or line.startswith(r"\multicolumn"):
                continue
            cells = [cell.replace(r"\bfseries", "").strip() for cell in re.split(r"(?<!\\)&", line[:-2])]
            words = [cell for cell in cells if re.fullmatch(r"[a-z][a-z0-9_\\]*", cell)]
            rows.append((words, [n for cell in cells if cell not in words for n in NUMBER.findall(cell)]))
        found[label] = rows
    return found


def one(value: float) -> str:
    return f"{value:.1f}"


def same(found: Sequence[str], expected: Sequence[str]) -> None:
    assert list(found) == [text for text in expected if text not in ("nan", "+nan")]


@pytest.mark.parametrize(
    ("scorer", "key", "file"), [("released", "released", "table1.csv"), ("aligned", "", "table1_aligned.csv")]
)
def test_table_1_again_from_the_records(tmp_path: Path, scorer: str, key: str, file: str) -> None:
    sweep = write_paper_sweep(tmp_path / "sweep")
    assert main([str(sweep), "--preset", "table1_4k"]) == 0
    right, lost = (f"{key}_correct", f"{key}_found") if key else ("correct", "found")
    runs, theirs = plain_runs(sweep), published(file)
    rows = tex_tables(sweep / "table1_4k.tex")[f"as-table-1-4k-llama3-1-8b-{scorer}"]
    assert len(rows) == 14  # the paper's 13 and snapkv + slide
    checked = 0
    for words, numbers in rows:
        method, decoding = words
        told = [r for r in runs if (r.labels["method"], r.labels["decoding"]) == (method, decoding)]
        papers = [line for line in theirs if line["model"] == "llama3.1_8b"]
        papers = [line for line in papers if (line["method"], line["decoding"]) == (method, decoding)]
        for decode in dict.fromkeys(r.budgets[1] for r in told):
            three = [only([r for r in told if r.budgets[1] == decode], task=task) for task in TASKS]
            line = [p for p in papers if int(p["decode_budget"]) == (decode or 0)]
            expected, parts = [], []
            for run in three:
                parts.append(accuracy(run, right))
                expected += map(one, parts[-1])
                if line:
                    value = float(line[0][run.labels["task"]])
                    expected += [f"{value:.2f}", f"{parts[-1][0] - value:+.1f}"]
            average = mean([p[0] for p in parts])
            down = math.sqrt(sum((p[0] - p[1]) ** 2 for p in parts)) / 3
            up = math.sqrt(sum((p[2] - p[0]) ** 2 for p in parts)) / 3
            expected += map(one, (average, average - down, average + up))
            if line:
                value = mean([float(line[0][task]) for task in TASKS])
                expected += [f"{value:.2f}", f"{average - value:+.1f}"]
            expected += [str(3 * PROMPTS), one(missing(three, lost)), f"{mean([slots(r) for r in three]):.0f}"]
            expected.append(f"{mean([mib(r) for r in three]):.0f}")
            if numbers == expected:
                checked += 1
    assert checked == 6
    empty = [numbers for _, numbers in rows if numbers[-1] == "0"]
    assert len(empty) == 14 - 6  # the paper's other rows: its figures, and no prompt of ours
    assert all(len(numbers) == 5 for numbers in empty)


def test_table_2_again_from_the_records(tmp_path: Path) -> None:
    sweep = write_paper_sweep(tmp_path / "sweep", tasks=["gsm8k_4k"])
    made, (table, *_) = write_preset(read_runs([sweep]), "table2", tmp_path)
    assert "MISSING: 19 of 21 runs" in made[1].remarks[0]
    runs = plain_runs(sweep)
    tables = tex_tables(table.with_suffix(".tex"))
    rows = tables["as-table-2-llama3-1-8b-gsm8k-4k-released"]
    cells = {(p["decoding"], p["decode_budget"], p["method"]): p["gsm8k_4k"] for p in published("table2.csv")}
    order = [("none", "0"), *[(d, b) for b in ("1024", "512") for d in ("slide", "adaptive", "discontinuous")]]
    for (words, numbers), (decoding, budget) in zip(rows[:3], order[:3], strict=True):
        assert words == [decoding]
        expected: list[str] = []
        for method in ("full", "snapkv", "pyramidkv", "h2o"):
            theirs = float(cells.get((decoding, budget, method), "nan"))
            ours = [
                r
                for r in runs
                if (r.labels["decoding"], r.labels["method"], str(r.budgets[1] or 0)) == (decoding, method, budget)
            ]
            found = accuracy(ours[0], "released_correct") if ours else (math.nan,) * 3
            expected += [*map(one, found), f"{theirs:.2f}", f"{found[0] - theirs:+.1f}"]
        same(numbers, expected)
    behind = tables["as-table-2-llama3-1-8b-gsm8k-4k-cost"]
    run = only(runs, method="snapkv")
    assert (
        ["slide", "snapkv"],
        [str(PROMPTS), one(missing([run], "found")), f"{slots(run):.0f}", f"{mib(run):.0f}"],
    ) in [
        (words, [numbers[0], numbers[1], numbers[2], f"{float(numbers[3]):.0f}"])
        for words, numbers in behind
        if len(numbers) == 4
    ]


def test_table_3_again_from_the_records(tmp_path: Path) -> None:
    sweep = write_paper_sweep(tmp_path / "sweep", tasks=["gsm8k_4k"])
    write_preset(read_runs([sweep]), "table3", tmp_path)
    runs, (rows,) = plain_runs(sweep), tex_tables(tmp_path / "table3.tex").values()
    full = only(runs, method="full")
    theirs = {(p["method"], p["decoding"]): p for p in published("table3.csv")}
    base = theirs["full", "none"]
    whole = sum(line["cache_bytes"] for line in full.lines)
    checked = 0
    for words, numbers in rows:
        for run in runs:
            if [run.labels["method"], run.labels["decoding"]] != words:
                continue
            batches: dict[str, int] = {}
            for line in run.lines:
                batches[line["batch"]] = batches.get(line["batch"], 0) + line["cache_bytes"]
            speed = tokens_per_second(run)
            share = 100 * sum(line["cache_bytes"] for line in run.lines) / whole
            relative = 100 * speed / tokens_per_second(full)
            paper = theirs.get((words[0], words[1]))
            gib = float(paper["peak_gib"]) if paper else math.nan
            rate = float(paper["tokens_per_second"]) if paper else math.nan
            their_share, their_rate = 100 * gib / float(base["peak_gib"]), 100 * rate / float(base["tokens_per_second"])
            budget = [str(run.budgets[1])] if run.budgets[1] else []
            expected = [*budget, str(PROMPTS), "2", f"{slots(run):.0f}", f"{mib(run):.2f}"]
            expected += [
                f"{max(batches.values()) / 2**20:.2f}",
                one(share),
                one(their_share),
                f"{share - their_share:+.1f}",
            ]
            expected += [
                one(speed),
                one(relative),
                one(their_rate),
                f"{relative - their_rate:+.1f}",
                one(gib),
                f"{rate:.2f}",
            ]
            checked += numbers == [text for text in expected if "nan" not in text]
    assert checked == len(runs) == 6


def test_table_5_and_the_plain_table_again_from_the_records(tmp_path: Path) -> None:
    sweep = write_paper_sweep(tmp_path / "sweep", model="embedded", tasks=["gsm8k_4k"])
    runs, read = plain_runs(sweep), read_runs([sweep])
    write_preset(read, "table5", tmp_path)
    write(of_runs(read), tmp_path)
    text = (tmp_path / "table5.tex").read_text()
    assert "C = 2048, D = 1024 (total 3072)" in text
    five = tex_tables(tmp_path / "table5.tex")["as-table-5-embedded-aligned"]
    tables = tex_tables(tmp_path / "table.tex")
    full = only(runs, method="full")
    checked = 0
    for run in runs:
        words = [run.labels["method"], run.labels["decoding"]]
        found = accuracy(run, "correct")
        duplicates = sum(max(0, q["given"] - 1) for line in run.lines for q in line["questions"])
        asked = sum(len(line["questions"]) for line in run.lines)
        lost = points_lost(full, run) if run is not full else (math.nan,) * 3
        released = accuracy(run, "released_correct")
        gone = missing([run], "found")
        row = [*map(one, found), str(PROMPTS), one(gone), f"{slots(run):.0f}", f"{mib(run):.0f}"]
        checked += (words, row) in five
        budget = [str(run.budgets[1])] if run.budgets[1] else []
        row = [*budget, str(PROMPTS), str(asked), *map(one, (*found, *released, *lost, gone)), str(duplicates)]
        checked += (words, [text for text in row if text != "nan"]) in tables["sweep-accuracy"]
        own = sum(
            len(line["slots_kept"]) * (line["prompt_tokens"] + line["generated_tokens"] - 1) for line in run.lines
        )
        kept = 100 * sum(sum(line["slots_kept"]) for line in run.lines) / own
        share = 100 * mib(run) / mib(full)
        row = [*budget, *map(one, (slots(run), kept, mib(run), share, tokens_per_second(run)))]
        checked += (words, row) in tables["sweep-cost"]
    assert checked == 3 * len(runs) == 18


# --- what is missing ---------------------------------------------------------------------------------------------


def test_what_the_paper_has_and_the_records_have_not_is_said(tmp_path: Path) -> None:
    sweep = write_paper_sweep(tmp_path / "sweep", tasks=["gsm8k_4k", "mmlu_4k"])
    labels = {"model": "llama3.1_8b", "task": "gsm8k_8k", "method": "full", "decoding": "none", "budget": "x"}
    write_run(sweep, "other", [sample(0)], method="full", decoding="none", budgets=(None, None), labels=labels)
    part = sweep / "gsm8k_4k-2" / "manifest.json"
    part.write_text(json.dumps(json.loads(part.read_text()) | {"samples": 43}))
    made, cells = PRESETS["table1_4k"](read_runs([sweep]), of_runs(read_runs([sweep])))
    remarks = "\n".join(made[0].remarks)
    assert made[0].title.startswith("PARTIAL: ")
    assert "MISSING: 29 of 39 runs." in remarks
    assert "csqa_4k: all 13 rows" in remarks
    assert "h2o + slide, D = 1024 on gsm8k_4k: 10 of 43 prompts answered" in remarks
    assert "left out: 1 runs of gsm8k_8k" in remarks
    assert "MISSING: all of mistral_7b_v0.3" in remarks
    assert "PARTIAL: fewer prompts are planned than the paper has: gsm8k_4k 10 of 43, mmlu_4k 10 of 57." in remarks
    partial = cells[(cells["prompts"] < cells["planned_prompts"])]
    assert set(partial["run"]) == {"gsm8k_4k-2"}
    assert not partial["tied_with_best"].any()


def test_a_whole_sweep_lacks_nothing(tmp_path: Path) -> None:
    """Another model on tasks of its own: nothing published to hold it against, no empty columns, no warning."""
    rows = [("full", (None, None)), ("h2o", (0.5, 16)), ("snapkv", (0.5, 16))]
    for number, (method, budgets) in enumerate(rows):
        for task in ("short", "long"):
            labels = {"model": "embedded", "task": task, "method": method, "decoding": "slide", "fidelity": "released"}
            made = records(number, 0.5, 4)
            write_run(tmp_path, f"{task}{number}", made, method=method, budgets=budgets, labels=labels)
    made, cells = PRESETS["table1_4k"](read_runs([tmp_path]), of_runs(read_runs([tmp_path])))
    assert [sheet.remarks for sheet in made] == [(), ()]
    assert made[0].title == "As table 1, 4K, embedded, fidelity released, aligned scorer"
    assert not [heading for heading in made[0].columns if "publ." in heading]
    assert "average\n% [95%]" in made[0].columns
    assert cells["published_percent"].isna().all()
    assert set(cells["task"]) == {"short", "long"}
    by_method = PRESETS["table2"](read_runs([tmp_path]), of_runs(read_runs([tmp_path])))[1]
    assert set(by_method["method"]) == {"full", "h2o", "snapkv"}
    assert set(by_method["task"]) == {"short", "long"}


def test_another_prefill_budget_is_not_held_against_the_papers(tmp_path: Path) -> None:
    labels = {"model": "llama3.1_8b", "task": "gsm8k_4k", "method": "h2o", "decoding": "slide", "budget": "x"}
    for name, prefill in (("a", 2048), ("b", 1024)):
        write_run(tmp_path, name, records(1, 0.5, 4), method="h2o", budgets=(prefill, 512), labels=labels)
    _, cells = PRESETS["table1_4k"](read_runs([tmp_path]), of_runs(read_runs([tmp_path])))
    there = cells[cells["run"].notna() & (cells["scorer"] == "released")].set_index("run")
    assert there["published_percent"]["a"] == 42.56
    assert pd.isna(there["published_percent"]["b"])
    assert there["setting"]["b"] == "C = 1024"


def test_runs_that_would_share_a_cell_are_rows_of_their_own(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_run(tmp_path / folder, "run-of-it", records(1, 0.5, 4))
    made, cells = PRESETS["table1_4k"](read_runs([tmp_path]), of_runs(read_runs([tmp_path])))
    assert len(made[0].keys) == 2
    assert set(cells["setting"]) == {"one/un-of-it", "two/un-of-it"}
    assert any("same configuration as one/run-of-it" in remark for remark in made[0].remarks)


def test_ties_are_those_of_a_block(tmp_path: Path) -> None:
    """At D = 1024 one run wins by far; at D = 512 another is the best of its own, weaker, block."""
    levels = {("h2o", 1024): 5, ("snapkv", 1024): 2, ("h2o", 512): 0, ("snapkv", 512): 2}
    for (method, budget), right in levels.items():
        made = [sample(k, [n < right + k % 2 for n in range(6)]) for k in range(16)]
        write_run(tmp_path, f"{method}{budget}", made, method=method, budgets=(0.5, budget))
    _, cells = PRESETS["table1_4k"](read_runs([tmp_path]), of_runs(read_runs([tmp_path])))
    assert set(cells.loc[cells["tied_with_best"], "run"]) == {"h2o1024", "snapkv512"}


# --- TeX ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_preset_compiles_and_prints_its_figures(tmp_path: Path) -> None:
    sweep = write_paper_sweep(tmp_path / "sweep")
    write_run(sweep, "odd", records(3, 0.5, 4), method="a_b & 50% {$x^2$} ~\\", created=9, samples=33)
    read = read_runs([sweep])
    for preset in PRESETS:
        write_preset(read, preset, tmp_path)
    write(of_runs(read), tmp_path)
    names = [*PRESETS, "table"]
    inputs = "\\clearpage".join(f"\\input{{{name}.tex}}" for name in names)
    needs = {(tmp_path / f"{name}.tex").read_text().splitlines()[0] for name in names}
    (packages,) = {line.removeprefix("% needs ") for line in needs}
    page = tmp_path / "page.tex"
    page.write_text(f"\\documentclass{{article}}{packages}\\begin{{document}}{inputs}\\end{{document}}")
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: the .tex is read, not compiled")
    printed = subprocess.run(["pdftotext", "-layout", compiled(page), "-"], capture_output=True, text=True, check=False)
    log = page.with_suffix(".log").read_text(errors="replace")
    assert "Overfull \\hbox" not in log
    if printed.returncode == 0:
        for preset in PRESETS:
            for rows in tex_tables(tmp_path / f"{preset}.tex").values():
                for _, numbers in rows:
                    assert all(number.lstrip("+-") in printed.stdout for number in numbers)


def test_what_tex_stumbles_over_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.tex"
    page.write_text("\\documentclass{article}\\begin{document}\\nosuchcommand\\end{document}")
    if shutil.which("pdflatex"):
        with pytest.raises(ScopeError, match="refused it: ! Undefined control sequence"):
            compiled(page)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ScopeError, match="pdflatex is not installed"):
        compiled(page)


def test_a_long_table_is_several(tmp_path: Path) -> None:
    for n in range(50):
        write_run(tmp_path / "sweep", f"r{n}", records(n, 0.5, 3, prompts=2), budgets=(0.5, 64 + n))
    write(of_runs(read_runs([tmp_path / "sweep"])), tmp_path)
    tables = tex_tables(tmp_path / "table.tex")
    assert [len(tables[f"sweep-accuracy-{part}"]) for part in (1, 2)] == [45, 5]


def test_the_written_presets_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = write_sweep(tmp_path / "demo")
    for preset in PRESETS:
        assert main([str(sweep), "--preset", preset, "--out", str(tmp_path / "out")]) == 0
        assert all((tmp_path / "out" / f"{preset}.{kind}").exists() for kind in ("csv", "md", "tex"))
    assert "nan" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(sweep), "--preset", "table4"])


def test_a_run_that_has_only_begun_is_a_row_without_figures(tmp_path: Path) -> None:
    full = [line | {"cache_bytes": line["full_cache_bytes"]} for line in records(0, 0.9, 4)]
    write_run(tmp_path, "full", full, method="full", decoding="none", budgets=(None, None))
    write_run(tmp_path, "done", records(1, 0.5, 4), created=1)
    write_run(tmp_path, "begun", [], method="h2o", samples=4, created=2)
    read = read_runs([tmp_path])
    for preset in PRESETS:
        made, _ = write_preset(read, preset, tmp_path / "out")
        assert made[0].title.startswith("PARTIAL: ")
        text = (tmp_path / "out" / f"{preset}.md").read_text()
        assert "nan" not in text
        assert f"{NOTHING}\\*" not in text  # a mark without a figure
        assert "0 of 4" in text
        rows = [row for table in tex_tables(tmp_path / "out" / f"{preset}.tex").values() for row in table]
        assert any(words[:1] in (["h2o"], ["slide"]) for words, _ in rows)
