"""What a run is recorded as does not depend on the file that a class lies in.

Oracles: hashes and names written down when they were first recorded. A test that fails here means that all recorded
runs become others: a class that has moved needs `recorded_as`, and a new field is meant only where it changes answers.
"""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from golden import composed

from scope import records
from scope.generation.source import ModelSource
from scope.prefill import SnapKV
from scope.records import describe, name_of

CONF = Path(__file__).parents[1] / "conf"

GOLDEN = {
    (): "cc872036c09e2c17",
    ("method=h2o", "decoding=adaptive", "sampling.temperature=0.7", "sampling.top_p=0.9"): "2b6c3e557feebe32",
    ("method=pyramidkv", "decoding=discontinuous", "fidelity=released", "budget=4k_512"): "869adb0f5860843f",
    ("method=streamingllm", "decoding=tova", "model=random", "task=arithmetic_long", "seed=3"): "d5a0b6fddd3da086",
    ("method=full", "decoding=none", "model.dtype=bfloat16", "attention=eager"): "95611f52a1524881",
    ("method=r_kv", "decoding=r_kv", "budget.bytes=500000", "sampling=qwen3_thinking"): "4b8ffffcd83408fd",
    ("decoding=distinct", "budget.total=0.5"): "eacfc77259b42774",
    ("cache.precision=float",): "cc872036c09e2c17",
    ("cache.precision=int4",): "bce917d5fe946861",
    ("method=pyramidinfer", "decoding=pyramidinfer", "model.thinking=null", "task.questions=8"): "893153f26dd8e510",
    (
        "method=keydiff",
        "decoding=lazyeviction",
        "fidelity.granularity=query_head",
        "model.layout=chat",
    ): "8e4fcf1dac74ca7f",
}


@pytest.mark.parametrize("overrides", GOLDEN)
def test_a_configuration_is_recorded_as_ever(overrides: tuple[str, ...]) -> None:
    """All but the weights, which have tests of their own."""
    assert records.identity(composed(*overrides).settings(limits=False))[:16] == GOLDEN[overrides]


NAMES = {
    "scope.decoding.AccumulatedH2O": "scope.decoding.accumulated_h2o.AccumulatedH2O",
    "scope.decoding.AMS": "scope.decoding.ams.AMS",
    "scope.decoding.Adaptive": "scope.decoding.adaptive.Adaptive",
    "scope.decoding.Discontinuous": "scope.decoding.discontinuous.Discontinuous",
    "scope.decoding.Distinct": "scope.decoding.distinct.Distinct",
    "scope.decoding.Diverse": "scope.decoding.diverse.Diverse",
    "scope.decoding.GKV": "scope.decoding.g_kv.GKV",
    "scope.decoding.ExpectedAttention": "scope.decoding.expected_attention.ExpectedAttention",
    "scope.decoding.H2O": "scope.decoding.h2o.H2O",
    "scope.decoding.KNorm": "scope.decoding.knorm.KNorm",
    "scope.decoding.KeepAll": "scope.decoding.none.KeepAll",
    "scope.decoding.KeyDiff": "scope.decoding.keydiff.KeyDiff",
    "scope.decoding.LazyEviction": "scope.decoding.lazyeviction.LazyEviction",
    "scope.decoding.MorphKV": "scope.decoding.morphkv.MorphKV",
    "scope.decoding.PyramidInfer": "scope.decoding.pyramidinfer.PyramidInfer",
    "scope.decoding.RKV": "scope.decoding.r_kv.RKV",
    "scope.decoding.RaaS": "scope.decoding.raas.RaaS",
    "scope.decoding.Random": "scope.decoding.random.Random",
    "scope.decoding.Recent": "scope.decoding.recent.Recent",
    "scope.decoding.Slide": "scope.decoding.slide.Slide",
    "scope.decoding.SnapKVD": "scope.decoding.snapkv_d.SnapKVD",
    "scope.decoding.StreamingLLM": "scope.decoding.streamingllm.StreamingLLM",
    "scope.decoding.TOVA": "scope.decoding.tova.TOVA",
    "scope.decoding.TriAttention": "scope.decoding.triattention.TriAttention",
    "scope.decoding.VASE": "scope.decoding.vase.VASE",
    "scope.Sampling": "scope.generate.Sampling",
    "scope.ModelSource": "scope.models.ModelSource",
    "scope.RandomModel": "scope.models.RandomModel",
    "scope.prefill.Distinct": "scope.prefill.distinct.Distinct",
    "scope.prefill.Entropy": "scope.prefill.entropy.Entropy",
    "scope.prefill.Full": "scope.prefill.full.Full",
    "scope.prefill.H2O": "scope.prefill.h2o.H2O",
    "scope.prefill.KNorm": "scope.prefill.knorm.KNorm",
    "scope.prefill.KVPress": "scope.prefill.kvpress.KVPress",
    "scope.prefill.KeyDiff": "scope.prefill.keydiff.KeyDiff",
    "scope.prefill.PyramidInfer": "scope.prefill.pyramidinfer.PyramidInfer",
    "scope.prefill.PyramidKV": "scope.prefill.pyramidkv.PyramidKV",
    "scope.prefill.RKV": "scope.prefill.r_kv.RKV",
    "scope.prefill.Random": "scope.prefill.random.Random",
    "scope.prefill.Recent": "scope.prefill.recent.Recent",
    "scope.prefill.SnapKV": "scope.prefill.snapkv.SnapKV",
    "scope.prefill.StreamingLLM": "scope.prefill.streamingllm.StreamingLLM",
    "scope.prefill.TOVA": "scope.prefill.tova.TOVA",
    "scope.tasks.Arithmetic": "scope.tasks.arithmetic.Arithmetic",
    "scope.tasks.Hub": "scope.tasks.sources.Hub",
    "scope.tasks.InfiniteBench": "scope.tasks.infinitebench.InfiniteBench",
    "scope.tasks.LongGenBench": "scope.tasks.longgenbench.LongGenBench",
    "scope.tasks.Questions": "scope.tasks.questions.Questions",
}


def targets() -> set[str]:
    """Classes that a configuration names, and that are part of what a run is."""
    files = [path for group in ("model", "method", "decoding", "task", "sampling") for path in (CONF / group).glob("*")]
    read = [yaml.safe_load(path.read_bytes()) or {} for path in files]
    nodes = [*read, *(node["hub"] for node in read if isinstance(node.get("hub"), dict))]
    return {node["_target_"] for node in nodes if "_target_" in node}


def class_of(target: str) -> type:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def test_fields_that_change_no_answer_are_described_where_asked_for() -> None:
    source = ModelSource(path="x", threads=3)
    assert describe(source)["threads"] == 3
    assert "threads" not in describe(source, limits=False)


def test_every_settings_class_is_recorded_as_ever() -> None:
    """New ones may come; those that are here keep their names."""
    assert {target: name_of(class_of(target)) for target in targets() if target in NAMES} == NAMES


@dataclass(frozen=True)
class Moved:
    recorded_as: ClassVar[str] = "scope.where.it.was.Moved"
    budget: int = 3


@dataclass(frozen=True)
class Mine(Moved):
    window: int = 1


@dataclass(frozen=True)
class MineOfTheirs(SnapKV):
    pass


@dataclass(frozen=True)
class Grown:
    budget: int = 3
    window: int = field(default=1, metadata={"later": True})


def test_a_field_that_came_later_is_recorded_where_it_changes_something() -> None:
    assert describe(Grown()) == {"type": f"{__name__}.Grown", "budget": 3}
    assert describe(Grown(window=1)) == describe(Grown())
    assert describe(Grown(window=0))["window"] == 0


def test_a_class_that_has_moved_is_recorded_as_before_and_one_that_extends_it_as_itself() -> None:
    assert describe(Moved()) == {"type": "scope.where.it.was.Moved", "budget": 3}
    assert describe(Mine()) == {"type": f"{__name__}.Mine", "budget": 3, "window": 1}
    assert describe(MineOfTheirs(40, 8))["type"] == f"{__name__}.MineOfTheirs"


def test_no_two_classes_are_recorded_by_one_name() -> None:
    names = [name_of(class_of(target)) for target in targets()]
    assert len(set(names)) == len(names)
