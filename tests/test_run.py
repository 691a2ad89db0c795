"""A run as a library call on the embedded model: its records, its resuming, its identity."""

import io
import json
import re
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.library import Silent, but_for_timings, experiment, go
from rich.console import Console

from scope import decoding, prefill
from scope.cache.sizes import cache_bytes, prefill_bytes
from scope.decoding import KeepAll, Slide
from scope.generation.engine import Engine
from scope.generation.models import ModelSource, load_shape
from scope.generation.sampling import Sampling
from scope.prefill import Full, SnapKV
from scope.runs.run import run
from scope.runs.summary import summary
from scope.tasks import Arithmetic
from scope.util.errors import ScopeError
from scope.util.stopping import Stopped


def test_a_record_says_what_happened(tmp_path: Path) -> None:
    tracker = Silent()
    what = experiment()
    folder, lines = go(what, tmp_path / "sweep", tracker)
    assert tracker.told == ["start", "log 1", "log 2", "log 3", "finish 3 3"]
    assert [line["sample"] for line in lines] == [s.name for s in what.task.samples()]
    for line, sample in zip(lines, what.task.samples(), strict=True):
        assert line["prefill_kept"] == [40, 40, 40]
        assert line["prefill_evicted"] == 3 * (line["prompt_tokens"] - 40)
        fed = line["generated_tokens"] - 1
        assert line["slots_kept"] == [40 + min(32, fed)] * 3
        assert line["decode_evicted"] == 3 * max(0, fed - 32)
        # 3 layers x 2 key/value heads x 32 numbers x 4 bytes, keys and values
        assert line["cache_bytes"] == (40 + min(33, fed)) * 3 * 2 * 32 * 4 * 2
        assert line["full_cache_bytes"] == (line["prompt_tokens"] + fed) * 3 * 2 * 32 * 4 * 2
        assert line["finish"] in ("eos", "stop", "length")
        assert [(q["number"], q["expected"]) for q in line["questions"]] == [
            (q.number, q.expected) for q in sample.questions
        ]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["identity"] == what.identity()
    assert manifest["experiment"] == "sweep"
    assert manifest["settings"]["method"] == {
        "type": "scope.prefill.snapkv.SnapKV",
        "budget": 40,
        "window": 8,
        "kernel": 7,
    }
    assert manifest["samples"] == 3


def test_a_finished_run_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, lines = go(experiment(), tmp_path)
    monkeypatch.setattr("scope.generation.models.load", lambda source: pytest.fail("the model was loaded"))
    tracker = Silent()
    assert go(experiment(), tmp_path, tracker) == (folder, lines)
    assert tracker.told == []


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    _, whole = go(experiment(), tmp_path / "whole")
    folder, _ = go(experiment(task=replace(experiment().task, prompts=1)), tmp_path / "cut")
    with (folder / "records.jsonl").open("a") as stream:
        stream.write('{"sample": "arithmetic-4-0-1", "gener')
    again, resumed = go(experiment(), tmp_path / "cut")
    assert again == folder
    assert but_for_timings(resumed) == but_for_timings(whole)


def test_an_interruption_says_whose_answers_there_are(tmp_path: Path) -> None:
    class Interrupting(Silent):
        def log(self, metrics: Mapping[str, float]) -> None:
            raise Stopped(signal.SIGINT)

    told = io.StringIO()
    with pytest.raises(Stopped):
        run(experiment(engine=Engine(batch_size=1)), Interrupting(), tmp_path, Console(file=told))
    start = "snapkv + slide: stopped, with the longest prompts first: 1 of 3 samples: "
    assert re.match(rf"{re.escape(start)}[\d.]+% of 4 answers right in 1 prompt, ", told.getvalue())


def test_speed_with_the_compiling_in_it_says_so(tmp_path: Path) -> None:
    told = io.StringIO()
    short = experiment(engine=Engine(kind="compile"), task=Arithmetic(questions=4, max_new_tokens=4, prompts=1))
    run(short, Silent(), tmp_path, Console(file=told))
    first, last = told.getvalue().splitlines()
    assert "steps are compiled" in first
    assert last.endswith("tokens/s with the compiling")
    eager = io.StringIO()
    run(replace(short, engine=Engine(kind="eager")), Silent(), tmp_path / "eager", Console(file=eager))
    assert eager.getvalue().endswith("tokens/s\n")


def test_a_line_says_of_how_many_prompts_and_of_what_text_it_is(tmp_path: Path) -> None:
    go(experiment(), tmp_path)
    told = io.StringIO()
    fewer = experiment(task=replace(experiment().task, prompts=1))
    run(fewer, Silent(), tmp_path, Console(file=told))  # the folder holds three
    assert "% of 12 answers right in 3 prompts, " in told.getvalue()
    assert "% of the full cache's bytes for its own text, " in told.getvalue()


def test_batch_size_changes_no_record(tmp_path: Path) -> None:
    _, alone = go(experiment(engine=Engine(batch_size=1)), tmp_path / "one")
    _, together = go(experiment(engine=Engine(batch_size=3)), tmp_path / "three")
    assert but_for_timings(alone) == but_for_timings(together)


def test_identity_is_what_changes_an_answer() -> None:
    base = experiment().identity()
    assert experiment(engine=Engine(batch_size=7)).identity() == base
    assert experiment(labels={}).identity() == base
    assert experiment(task=Arithmetic(questions=4, max_new_tokens=100, prompts=9)).identity() == base
    assert experiment(model=ModelSource(device="cpu")).identity() == base
    changes: list[dict[str, Any]] = [
        {"method": SnapKV(41, 8)},
        {"method": Full()},
        {"decoding": KeepAll()},
        {"sampling": Sampling(seed=1)},
        {"task": Arithmetic(questions=5, max_new_tokens=100)},
        {"model": ModelSource(dtype="bfloat16")},
    ]
    assert len({experiment(**change).identity() for change in changes} | {base}) == len(changes) + 1


def test_a_model_that_is_not_there_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ScopeError, match=r"model.path=\S*nowhere: there is no such folder"):
        go(experiment(model=ModelSource(path=str(tmp_path / "nowhere"))), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_full_cache_solves_the_task_and_compression_costs(tmp_path: Path) -> None:
    task = Arithmetic(questions=24, prompts=3)
    _, full = go(experiment(task=task, method=Full(), decoding=KeepAll(), engine=Engine(batch_size=3)), tmp_path)
    _, small = go(
        experiment(task=task, method=SnapKV(0.5, 8), decoding=Slide(64, 32), engine=Engine(batch_size=3)),
        tmp_path,
    )
    assert summary(full)["accuracy"] >= 0.95
    assert summary(small)["accuracy"] < summary(full)["accuracy"] - 0.2
    assert summary(small)["cache_share"] < 0.5


def test_no_policy_of_the_library_lacks_a_test_of_its_yaml() -> None:
    conf = Path(__file__).parents[1] / "conf"
    named = {
        p.read_text().split("_target_: ")[1].split()[0]
        for g in ("method", "decoding")
        for p in (conf / g).glob("*.yaml")
    }
    classes = {f"scope.prefill.{n}" for n in prefill.__all__ if n != "PrefillMethod"}
    classes |= {f"scope.decoding.{n}" for n in decoding.__all__ if n != "DecodingStrategy"}
    assert named == classes


@pytest.mark.slow
def test_as_many_rows_as_fit_are_those_of_any_other_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row's cache is what the record says that it was; with room for two and a half there are two rows."""
    _, alone = go(experiment(engine=Engine(batch_size=1)), tmp_path / "one")
    fits = experiment(engine=Engine(batch_size="auto", kind="graph"))
    config, _ = load_shape(fits.model)
    longest = max(line["prompt_tokens"] for line in alone)
    row = cache_bytes(config, fits.policy, "float32", longest, fits.task.max_new_tokens)
    assert row >= max(line["cache_bytes"] for line in alone)
    need = row + prefill_bytes(config, fits.policy, "float32", longest, longest)
    need += cache_bytes(config, fits.policy, "float32", longest, 1)  # a prompt on its way into a row that has ended
    monkeypatch.setattr("scope.util.memory.free_memory", lambda device: int(2.5 * need / 0.8))
    _, together = go(fits, tmp_path / "auto")
    assert {line["batch_rows"] for line in together} == {2}
    assert but_for_timings(together) == but_for_timings(alone)
    monkeypatch.setattr("scope.util.memory.free_memory", lambda device: int((need + row) / 0.8) + 1)
    for at_once, rows in ((1, 2), (2, 1)):  # with room for two rows' caches, and for one prompt that is read
        _, together = go(experiment(engine=Engine(batch_size="auto", prefill_rows=at_once)), tmp_path / f"{at_once}")
        assert {line["batch_rows"] for line in together} == {rows}
        assert but_for_timings(together) == but_for_timings(alone)
    monkeypatch.setattr("scope.util.memory.free_memory", lambda device: need // 2)
    with pytest.raises(ScopeError, match=r"engine\.batch_size=auto: one row takes"):
        go(fits, tmp_path / "none")
