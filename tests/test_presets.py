"""The presets of the paper's tables and `plan=true`, from the command line, on made-up data and the embedded model."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import huggingface_hub
import made_up
import pytest
from helpers.command import ROOT, Scope, runs
from helpers.library import Skies, experiment, go
from helpers.quick import every
from hydra import compose, initialize_config_dir
from made_up import write
from tiny_models import strategies
from transformers import AutoModelForCausalLM

from scope.generation import models
from scope.generation.sampling import Sampling
from scope.prefill import Full, PyramidKV, SnapKV
from scope.runs.forecast import cache_bytes, full_cache_bytes, require_fit
from scope.util.errors import ImpossibleError

PROTECTING = ("slide", "adaptive", "discontinuous")
UNIFIED = ("streamingllm", "h2o", "pyramidinfer")
BASELINES_AND_SCOPE = [*zip(UNIFIED, UNIFIED, strict=True), *product(["h2o"], PROTECTING)]
FULL = ("full", "none", "-", "-")
Rows = list[tuple[str, ...]]


def table1(prefill: int) -> Rows:
    """As the paper has it: each baseline alone, and h2o's prefill under SCOPE's three, at two decode budgets."""
    compressed = [(*pair, f"{prefill}", f"{decode}") for decode in (1024, 512) for pair in BASELINES_AND_SCOPE]
    return [FULL, *compressed]


def table2() -> Rows:
    """SCOPE's three on top of other prefill methods."""
    kept = {"full": "-", "snapkv": "2048", "pyramidkv": "2048"}
    alone = [(method, "none", c, "-") for method, c in kept.items()]
    return alone + [(m, s, c, f"{d}") for m, c in kept.items() for s in PROTECTING for d in (512, 1024)]


def table5() -> Rows:
    """C + D = 2560."""
    return [FULL, *((*pair, f"{c}", f"{2560 - c}") for pair in BASELINES_AND_SCOPE for c in (2048, 1536, 1024))]


def figure2a() -> Rows:
    shares = product(("streamingllm", "h2o", "snapkv", "pyramidkv"), ("0.8", "0.6", "0.4", "0.2"))
    return [FULL, *((method, "none", share, "-") for method, share in shares)]


def en_sum() -> Rows:
    return [FULL, *((*pair, "2048", "512") for pair in BASELINES_AND_SCOPE)]


@dataclass(frozen=True)
class Preset:
    """rows: (method, decoding, C, D); narrowed: what a user adds to run a part of it."""

    rows: Rows
    tasks: set[str]
    tokens: int
    narrowed: dict[str, str]
    models: set[str] = field(default_factory=lambda: {"llama3.1_8b"})


BOTH = {"llama3.1_8b", "mistral_7b_v0.3"}
PRESETS = {
    "table1_4k": Preset(
        table1(2048), {"gsm8k_4k", "mmlu_4k", "csqa_4k"}, 4096, {"task": "mmlu_4k", "decoding": "slide"}, BOTH
    ),
    "table1_8k": Preset(
        table1(4096), {"gsm8k_8k", "mmlu_8k", "csqa_8k"}, 7950, {"task": "csqa_8k", "decoding": "h2o"}, BOTH
    ),
    "table2_plugin": Preset(table2(), {"gsm8k_4k"}, 4096, {"method": "pyramidkv", "decoding": "adaptive"}),
    "table5_equal_budget": Preset(table5(), {"gsm8k_4k"}, 4096, {"decoding": "discontinuous"}),
    "figure2a_prefill_ratio": Preset(figure2a(), {"gsm8k_4k"}, 4096, {"method": "snapkv"}),
    "en_sum": Preset(en_sum(), {"en_sum"}, 1200, {"method": "h2o", "decoding": "slide"}),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_the_paper_compares(name: str) -> None:
    preset = PRESETS[name]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", [f"experiment={name}"], return_hydra_config=True)
    chosen, sweeper = cfg.hydra.runtime.choices, cfg.hydra.sweeper
    params = sweeper.params or {}
    assert set(params.get("model", chosen.model).split(",")) == preset.models
    assert set(params.get("task", chosen.task).split(",")) == preset.tasks
    assert set(params) <= {"model", "task"}
    rows = []
    for line in sweeper.pairs:
        given = {"decoding": chosen.decoding, "budget": chosen.budget} | dict(p.split("=") for p in line.split())
        size, decode = given["budget"].split("_")
        prefill = given.get("budget.prefill", {"4k": "2048", "8k": "4096"}[size])
        c = "-" if given["method"] == "full" else prefill
        d = "-" if given["decoding"] == "none" else given.get("budget.decode", decode)
        rows.append((given["method"], given["decoding"], c, d))
    assert sorted(rows) == sorted(preset.rows)
    assert cfg.name == name


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with enough for one prompt of each set, and two summaries."""
    folder = tmp_path_factory.mktemp("data")
    for name, rows in (("gsm8k", made_up.gsm8k(60)), ("mmlu", made_up.mmlu(60)), ("csqa", made_up.csqa(80))):
        write(folder / f"{name}.jsonl", rows)
    write(folder / "longbook_sum_eng.jsonl", made_up.novels(3))
    return folder


@pytest.fixture
def hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("[Errno 101] unreachable")

    monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", fail)


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("weights were loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    models.load.cache_clear()
    yield
    models.load.cache_clear()


@pytest.mark.parametrize("name", every(4, PRESETS))
def test_a_part_of_a_preset_is_planned_without_weights(
    name: str, scope: Scope, data: Path, tmp_path: Path, no_weights: None
) -> None:
    preset, narrowed = PRESETS[name], PRESETS[name].narrowed
    asked = [f"{key}={value}" for key, value in narrowed.items()]
    said = scope("-m", f"experiment={name}", "model=random", *asked, f"task.source={data}", "limit=1", "plan=true")
    rows = [
        dict(zip(("method", "decoding", "C", "D"), row, strict=True))
        for row in preset.rows
        if narrowed.get("method", row[0]) == row[0] and narrowed.get("decoding", row[1]) == row[1]
    ]
    assert said.out.startswith(f"{len(rows)} run")
    lines = said.out.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("method "))
    headings = lines[start].split()
    planned = [dict(zip(headings, line.split(), strict=False)) for line in lines[start + 1 : start + 1 + len(rows)]]
    telling = [key for key in rows[0] if key in headings]
    assert sorted([row[key] for key in telling] for row in planned) == sorted(
        [row[key] for key in telling] for row in rows
    )
    constant = dict(pair.split(" ", 1) for pair in lines[start - 1].split(", "))
    assert all(constant[key] == value for key, value in rows[0].items() if key not in telling)
    assert constant["task"] in preset.tasks
    assert all(f" {preset.tokens} " in line for line in lines[start + 1 : start + 1 + len(rows)])
    several = "s" * (len(rows) > 1)
    counts = f"{len(rows)} run{several}, {len(rows)} sample{several}, {len(rows) * preset.tokens} tokens to write"
    assert counts in said.out
    assert list(tmp_path.iterdir()) == []


SMALL = ["model=embedded", "limit=2", "task.max_new_tokens=40", "budget.prefill=40", "budget.decode=24"]
SMALL += ["budget.recent=8"]


def records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of each run, by method + decoding."""
    made = {}
    for run in runs(folder):
        labels = json.loads((run / "manifest.json").read_text())["labels"]
        lines = (run / "records.jsonl").read_text().splitlines()
        made[f"{labels['method']} + {labels['decoding']}"] = [json.loads(line) for line in lines]
    return made


def test_a_preset_runs_on_the_embedded_model(scope: Scope, data: Path, tmp_path: Path) -> None:
    said = scope(
        *("-m", "experiment=table1_4k", "task=mmlu_4k", "budget=4k_512", "decoding=none,slide"),
        *(f"task.source={data}", "task.questions=3", *SMALL),
    )
    made = records(tmp_path)
    assert set(made) == {"full + none", "h2o + slide"}
    for lines in made.values():
        assert [line["sample"] for line in lines] == ["mmlu_4k-botany", "mmlu_4k-road_law"]
        assert [[q["number"] for q in line["questions"]] for line in lines] == [[6, 7, 8]] * 2
        assert [[q["expected"] for q in line["questions"]] for line in lines] == [["A", "B", "C"]] * 2
    assert [line["prefill_kept"] for line in made["h2o + slide"]] == [[40] * 3] * 2
    assert all(line["prefill_evicted"] == 0 for line in made["full + none"])
    assert "written: " in said.out


def test_summaries_run_on_the_embedded_model(scope: Scope, data: Path, tmp_path: Path) -> None:
    said = scope("-m", "experiment=en_sum", "decoding=none,slide", f"task.source={data}", *SMALL)
    made = records(tmp_path)
    assert set(made) == {"full + none", "h2o + slide"}
    for lines in made.values():
        assert [line["sample"] for line in lines] == ["en_sum-0", "en_sum-1"]
        assert all(set(line["measures"]) == {"rouge1", "rouge2", "rougeL", "rougeLsum"} for line in lines)
        assert all(line["questions"] == [] for line in lines)
    assert re.search(r"h2o \+ slide: rouge1 [\d.]+%, rouge2 .*rougeL .*of the full cache's bytes", said.out)
    assert "points lost" not in said.out


# what a plan says


def test_a_plan_says_what_is_skipped_and_what_is_out_of_reach(
    scope: Scope, tmp_path: Path, no_weights: None, hub_out_of_reach: None
) -> None:
    said = scope("-m", "task=arithmetic,csqa_4k", "budget.recent=16,200", "task.max_new_tokens=100", "plan=true").out
    assert len(re.findall("^skipped ", said, re.M)) == 2
    assert re.search(r"skipped .*task=arithmetic budget.recent=200.*: must be at most the decoding budget, 36", said)
    assert re.search(r"^csqa_4k +snapkv( +\?){7}$", said, re.M)
    assert re.search(r"^\?: tau/commonsense_qa: not built here and cannot be downloaded", said, re.M)
    assert re.search(r"2 runs, 16 samples, 1600 tokens to write, .* CPU hours; 1 of them unknown", said)
    assert list(tmp_path.iterdir()) == []


def test_hours_are_batches_times_steps(scope: Scope, no_weights: None) -> None:
    sampled = ["sampling.samples=3", "sampling.temperature=1"]
    said = scope(
        "task.prompts=5", "task.max_new_tokens=360", "engine.batch_size=4", "plan=true", "steps_per_second=2", *sampled
    )
    # 15 generations in 4 batches of 360 steps, 2 a second: 720 seconds
    assert re.search(r"^snapkv +15 .* 5400 .* 0\.20$", said.out, re.M)
    assert "an assumed 2 steps a second" in said.out
    assert "plan=maybe: must be true or false" in scope("plan=maybe", code=2).err
    assert "steps_per_second=0: must be a number above 0" in scope("steps_per_second=0", code=2).err


def test_what_a_step_reads_is_weights_and_all_rows_caches(scope: Scope, no_weights: None) -> None:
    asked = ["model=random", "task.prompts=2", "engine.batch_size=4", "plan=true", "method=full,snapkv"]
    said = scope("-m", *asked, "budget.prefill=128", "decoding=slide", "budget.decode=32", "budget.recent=16").out
    shares = [int(share) for share in re.findall(r"^(?:full|snapkv) .* (\d+)%  +\S+$", said, re.M)]
    held = [float(mib) for mib in re.findall(r"^(?:full|snapkv) .* (\d+\.\d)  +\d+%  +\d+%  +\S+$", said, re.M)]
    full = [100 * float(mib) / int(of) for mib, of in re.findall(r" (\d+\.\d)  +(\d+)%  +\d+%  +\S+$", said, re.M)]
    hidden, wide, layers, vocabulary = 512, 1024, 4, 1024  # the random model: 8 heads and 2 key/value heads of 64
    block = hidden * hidden * 2 + 2 * hidden * 128 + 3 * hidden * wide + 2 * hidden
    weights = 4 * (layers * block + hidden + vocabulary * hidden) / 2**20  # its input embedding is not read as a whole
    assert len(shares) == 2
    for share, own, all_ in zip(shares, held, full, strict=True):
        assert share == pytest.approx(100 * (weights + 4 * own) / (weights + 4 * all_), abs=2)


def test_hours_of_a_replay_are_not_those_of_writing(scope: Scope, no_weights: None) -> None:
    said = scope("measure=replay", "task.prompts=5", "engine.batch_size=4", "plan=true").out
    assert re.search(r"^snapkv +5 .* \?$", said, re.M)
    assert re.search(
        r"^1 run, 5 samples, 3200 tokens to force, 0\.0 CPU hours; a replay's hours are not forecast", said, re.M
    )


def test_a_plan_of_a_model_that_is_not_there_is_refused(scope: Scope, tmp_path: Path) -> None:
    """A hub that cannot be reached is a `?`; a folder that is not there is a mistake."""
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, why in ((tmp_path / "nowhere", "there is no such folder"), (empty, "holds no model")):
        for words in (["decoding=slide"], ["-m", "decoding=slide,none"]):
            said = scope(*words, "model=hf", f"model.path={path}", "plan=true", code=2)
            assert said.err.startswith(f"error: model.path={path}: {why}" if "-m" not in words else "error: ")
            assert why in said.err
            assert "?" not in said.out


def test_a_plan_names_the_model_and_counts_hours_of_its_device(scope: Scope, no_weights: None) -> None:
    folder = str(ROOT / "scope" / "embedded")
    said = scope("model=hf", f"model.path={folder}/", "limit=1", "plan=true").out
    assert "\nmodel embedded, task arithmetic" in f"\n{said}"
    assert re.search(r"^1 run, 1 sample, 640 tokens to write, [\d.]+ CPU hours$", said, re.M)
    assert "GPU" not in said
    assert re.search(r"^snapkv +1 +\d+ +640 ", said, re.M)  # one length, not least-median-most
    assert re.search(r"^snapkv +16 +\d+-\d+-\d+ ", scope("plan=true").out, re.M)


NOTE = "note: budget=tiny is the default: C = 0.75 of each prompt, D = 36; budget=... chooses another"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model=random"], True),
        (["model=random", "method=full"], True),
        (["model=random", "method=full", "decoding=none"], False),
        (["model=random", "budget=tiny"], False),
        (["model=random", "budget.decode=36"], False),
        ([], False),
        (["-m", "model=random", "decoding=slide,h2o"], True),
        (["-m", "model=random", "decoding=slide,h2o", "budget.decode=30,40"], False),
        (["-m", "model=random", "decoding=slide,h2o", "budget=4k_512"], False),
    ],
)
@pytest.mark.slow
def test_a_budget_that_nobody_chose_is_told(words: list[str], told: bool, scope: Scope, no_weights: None) -> None:
    said = scope(*words, "plan=true").out
    assert said.splitlines().count(NOTE) == told
    assert ("budget=tiny is the default" in said) == told


TOKENS = 60
STRATEGIES = strategies(budget=24, recent=8, tokens=TOKENS)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_forecast_is_the_bytes_that_a_longest_generation_takes(name: str, tmp_path: Path) -> None:
    """The record counts the slots of the run itself; discontinuous may end before a period's peak, delta = 3 slots."""
    slack = 3 * 3 * 4 * 32 * 2 * 4 if name == "discontinuous" else 0  # slots, layers, heads, width, two of 4 bytes
    for method in (Full(), PyramidKV(24, 8)) if name in ("none", "slide", "pyramidinfer") else (SnapKV(24, 8),):
        what = experiment(
            method=method,
            decoding=STRATEGIES[name],
            task=Skies((12,), max_new_tokens=TOKENS),
            sampling=Sampling(min_new_tokens=TOKENS),
        )
        _, (line,) = go(what, tmp_path / type(method).__name__)
        assert line["generated_tokens"] == TOKENS
        config, _ = models.load_shape(what.model)
        assert 0 <= cache_bytes(what, config, line["prompt_tokens"]) - line["cache_bytes"] <= slack
        assert full_cache_bytes(what, config, line["prompt_tokens"]) == line["full_cache_bytes"]


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "none"])
@pytest.mark.parametrize("method", [Full(), PyramidKV(24, 8)], ids=["full", "pyramidkv"])
def test_the_fewest_bytes_that_a_refusal_names_are_the_fewest(name: str, method: Any) -> None:
    what = experiment(method=method, decoding=STRATEGIES[name], max_bytes=1)
    config, _ = models.load_shape(what.model)
    with pytest.raises(ImpossibleError, match=r"^budget\.bytes=1: must be at least \d+ for a prompt of 91 ") as refused:
        require_fit(what, config, [60, 91])
    least = int(re.findall(r"least (\d+)", str(refused.value))[0])
    require_fit(replace(what, max_bytes=least), config, [60, 91])
    with pytest.raises(ImpossibleError, match=f"least {least} for"):
        require_fit(replace(what, max_bytes=least - 1), config, [60, 91])


@pytest.mark.parametrize("task", every(3, sorted(path.stem for path in (ROOT / "conf" / "task").glob("*.yaml"))[::-1]))
@pytest.mark.parametrize("strategy", ["adaptive", "discontinuous"])
def test_a_strategy_that_is_computed_from_t_gets_it_from_every_task(task: str, strategy: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", [f"task={task}", f"decoding={strategy}"])
    written = composed.task.continuation_tokens if task == "text" else composed.task.max_new_tokens
    assert composed.decoding.tokens == written
    assert isinstance(written, int)
