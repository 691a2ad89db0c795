"""Traces against the cache itself: a plain run of the same prompt, looked at from outside."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tiny_models import generate

from analysis.records import read_runs
from analysis.traces import heavy_hitters, read_traces
from scope.cache import CompressedCache
from scope.decoding import Slide
from scope.generation import models
from scope.generation.models import ModelSource
from scope.generation.rows import Prompt
from scope.generation.sampling import Sampling
from scope.prefill import SnapKV
from scope.runs.experiment import Experiment
from scope.runs.run import run
from scope.runs.traces import Trace
from scope.runs.tracking import NoTracking
from scope.tasks import Arithmetic
from scope.util.errors import ConfigError, ScopeError, SettingError

EXPERIMENT = Experiment(
    model=ModelSource(),
    method=SnapKV(40, 8),
    decoding=Slide(16, 8),
    task=Arithmetic(questions=4, max_new_tokens=40, prompts=1),
    sampling=Sampling(),
    labels={"model": "embedded", "task": "arithmetic", "method": "snapkv", "decoding": "slide"},
)


def traced(tmp_path: Path, trace: Trace | None) -> Path:
    return run(replace(EXPERIMENT, trace=trace), NoTracking(), tmp_path, Console(file=io.StringIO()))


def test_a_trace_says_what_the_cache_held_and_looked_at(tmp_path: Path) -> None:
    folder = traced(tmp_path, None)
    assert not (folder / "traces").exists()
    records = (folder / "records.jsonl").read_bytes()
    assert traced(tmp_path, Trace([0, -1], every=4, most=6, queries=3)) == folder  # a finished run can be traced
    assert (folder / "records.jsonl").read_bytes() == records

    held: list[list[set[int]]] = []

    def look(cache: CompressedCache) -> None:
        held.append([{p for p in head.tolist() if p >= 0} for head in cache.positions(2)[0]])

    loaded, sample = models.load(EXPERIMENT.model), EXPERIMENT.task.samples()[0]
    prompt = Prompt(sample.name, tuple(loaded.tokenizer(sample.prompt).input_ids), sample.stop)
    generate(loaded.model, loaded.tokenizer, [prompt], EXPERIMENT.method, EXPERIMENT.decoding, 40, observe=look)
    arrays = read_traces(read_runs([tmp_path]))[0].arrays
    assert arrays["layers"].tolist() == [0, 2]
    assert arrays["step"].tolist() == [-1, 3, 7, 11, 15, 19]
    for n, step in enumerate(arrays["step"]):
        alive = [set(np.flatnonzero(head).tolist()) for head in arrays["alive"][n, 1]]
        assert alive == held[step + 1]
    assert [len(heads[0]) for heads in held] == arrays["slots"][:, 1].tolist()

    for n, step in enumerate(arrays["step"][1:]):  # a step looks at what was left before it and at itself
        for head, attention in enumerate(arrays["decode_attention"][n, 1].astype(float)):
            group = arrays["decode_attention"].shape[2] // len(held[0])
            allowed = held[step][head // group] | {len(prompt.tokens) + int(step)}
            assert set(np.flatnonzero(attention).tolist()) <= allowed
            assert attention.sum() == pytest.approx(1, abs=0.01)
    assert arrays["prompt_queries"].tolist()[::2] == [0, len(prompt.tokens) - 1]
    maps = arrays["prompt_attention"].astype(float)
    assert maps.sum(-1) == pytest.approx(np.ones(maps.shape[:-1]), abs=0.01)
    middle = arrays["prompt_queries"][1]
    assert (maps[:, :, 1, middle + 1 :] == 0).all()
    assert (maps[:, :, 0, 0] == 1).all()


def test_attention_that_was_kept_is_not_lost_to_a_trace_without(tmp_path: Path) -> None:
    folder = traced(tmp_path, Trace([0], queries=2))
    (path,) = folder.glob("traces/*.npz")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"^trace\.queries=0: {path} holds attention too: "):
        traced(tmp_path, Trace([0]))
    assert path.read_bytes() == before
    traced(tmp_path, Trace([0], queries=3))  # as rich, and asked for
    assert path.read_bytes() != before
    path.unlink()
    traced(tmp_path, Trace([0]))
    traced(tmp_path, Trace([0], queries=2))  # richer
    assert "prompt_attention" in np.load(path).files


def test_heavy_hitters_are_the_highest_among_what_was_seen() -> None:
    attention = np.array([0.1, 0.5, 0.2, 0.0, 0.0, 0.0, 0.15, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.05, 9.0])
    assert heavy_hitters(attention, 14) == [1, 2]
    assert heavy_hitters(attention, 3) == [1]
    assert heavy_hitters(np.array([0.0, 0.0, 1.0] + 17 * [0.0]), 20) == [2]


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScopeError, match="no layer 3; it has layers 0 to 2"):
        traced(tmp_path, Trace([3]))
    assert not list(tmp_path.iterdir())
    with pytest.raises(SettingError, match="layers"):
        Trace([])
