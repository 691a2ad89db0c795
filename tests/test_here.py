"""What a machine cannot do is refused before anything is looked up, and what a dtype of `auto` comes to.

Oracles: torch's own answers about devices, replaced where a test needs a machine that this one is not.
"""

import importlib.util
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import open_dict
from rich.console import Console

from scope import records
from scope.cli.sweep import Sweep
from scope.decoding import Slide
from scope.generation import devices, models
from scope.generation.engine import Engine
from scope.generation.models import EMBEDDED, ModelSource, RandomModel
from scope.generation.sampling import Sampling
from scope.prefill import SnapKV
from scope.runs.experiment import Experiment
from scope.runs.forecast import cache_bytes, show_plan
from scope.runs.run import run
from scope.runs.tracking import NoTracking
from scope.tasks import Arithmetic
from scope.util.errors import ConfigError, ImpossibleError, ScopeError

CONF = Path(__file__).parents[1] / "conf"


def experiment(model: ModelSource, most: int = 4, prompts: int = 1, **changes: Any) -> Experiment:
    return Experiment(
        **{
            "model": model,
            "method": SnapKV(40, 8),
            "decoding": Slide(32, 16),
            "task": Arithmetic(questions=2, max_new_tokens=most, prompts=prompts),
            "sampling": Sampling(),
            "labels": {"model": "embedded", "method": "snapkv", "decoding": "slide"},
            "engine": Engine(batch_size=1),
            **changes,
        }
    )


def go(what: Experiment, output: Path) -> tuple[Path, str]:
    said = io.StringIO()
    return run(what, NoTracking(), output, Console(file=said, width=400)), said.getvalue()


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """As on a machine with so many."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


# devices

IMPOSSIBLE: dict[str, tuple[int, dict[str, Any], str]] = {
    "no GPU": (0, {"device": "cuda"}, "model.device=cuda: this machine has no cuda device that torch can use"),
    "nor a first": (0, {"device": "cuda:0"}, "model.device=cuda:0: this machine has no cuda device"),
    "an eighth of one": (1, {"device": "cuda:7"}, "model.device=cuda:7: this machine has only cuda:0"),
    "a third of two": (2, {"device": "cuda:2"}, "model.device=cuda:2: this machine has only cuda:0 to cuda:1"),
    "no xpu": (0, {"device": "xpu"}, "model.device=xpu: this machine has no xpu device"),
    "no hpu": (0, {"device": "hpu"}, "model.device=hpu: this machine has no hpu device"),
    "no second CPU": (0, {"device": "cpu:1"}, "model.device=cpu:1: this machine has only cpu:0"),
    "flash on a CPU": (0, {"attention": "flash_attention_2", "dtype": "bfloat16"}, "attention=flash_attention_2 needs"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_is_impossible_here_is_refused_before_a_finished_run_is_found(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, settings, message = IMPOSSIBLE[case]
    finished = ModelSource(device="cpu", **{key: v for key, v in settings.items() if key == "dtype"})
    folder, _ = go(experiment(finished), tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    gpus(monkeypatch, there)
    with pytest.raises(ConfigError) as refused:
        go(experiment(ModelSource(**settings)), tmp_path)
    assert str(refused.value).startswith(message)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has it")
def test_apples_gpu_is_refused_elsewhere() -> None:
    with pytest.raises(ImpossibleError, match=r"^model\.device=mps: this machine has no mps device"):
        ModelSource(device="mps").require()


def test_what_is_here_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("auto", "cpu", "cpu:0"):
        ModelSource(device=device).require()
    gpus(monkeypatch, 2)
    for device in ("auto", "cuda", "cuda:0", "cuda:1"):
        ModelSource(device=device).require()


def test_a_device_map_needs_accelerate_and_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_accelerate", lambda: False)
    with pytest.raises(ImpossibleError, match=r"^model\.device_map=balanced: needs accelerate: pip install"):
        ModelSource(device_map="balanced").require()
    monkeypatch.setattr(devices, "has_accelerate", lambda: True)
    gpus(monkeypatch, 0)
    for spread in devices.SPREADS:
        ModelSource(device_map=spread).require()
    with pytest.raises(ImpossibleError, match=r"^model\.device_map=cuda:1: this machine has no cuda device"):
        ModelSource(device_map="cuda:1").require()
    ModelSource(device="cuda", device_map="cpu").require()  # device does not count then


def test_flash_attention_takes_no_float32_and_no_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scope.cache.backends.is_flash_attn_2_available", lambda: True)
    gpus(monkeypatch, 1)
    ModelSource(attention="flash_attention_2", dtype="bfloat16").require()
    with pytest.raises(ImpossibleError, match=r"takes model\.dtype=bfloat16 or float16, not float32$"):
        ModelSource(attention="flash_attention_2").require()
    with pytest.raises(ImpossibleError, match=r"needs a GPU; model\.device=cpu is none$"):
        ModelSource(attention="flash_attention_2", dtype="bfloat16", device="cpu").require()


def test_a_graph_over_several_gpus_is_refused_before_a_finished_run_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(experiment(ModelSource(device="cpu")), tmp_path)
    monkeypatch.setattr(devices, "has_accelerate", lambda: True)
    for count, spread, refused in ((2, "auto", True), (2, "balanced", True), (2, "cuda:1", False), (1, "auto", False)):
        gpus(monkeypatch, count)
        for kind in ("graph", "eager", "auto"):
            what = experiment(ModelSource(device_map=spread), engine=Engine(kind=kind))
            if refused and kind == "graph":
                with pytest.raises(ConfigError, match=r"^engine=graph: the model lies on cuda:0, cuda:1; "):
                    go(what, tmp_path)
            else:
                assert "was finished already" in go(what, tmp_path)[1]


# dtype


def copied(folder: Path, **config: Any) -> Path:
    """The embedded model, with other words in its configuration."""
    shutil.copytree(EMBEDDED, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def test_auto_is_float32_on_a_cpu_and_the_checkpoints_own_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bfloat16", "float16", "float32"):
        source = ModelSource(path=str(copied(tmp_path / name, dtype=name)), dtype="auto")
        gpus(monkeypatch, 0)
        assert source.resolved_dtype() == "float32"
        assert experiment(source).identity() == experiment(ModelSource(path=source.path)).identity()
        gpus(monkeypatch, 1)
        assert source.resolved_dtype() == name
        given = experiment(ModelSource(path=source.path, dtype=name))
        assert experiment(source).identity() == given.identity()
        assert ModelSource(path=source.path, dtype="auto", device="cpu").resolved_dtype() == "float32"
        assert ModelSource(path=source.path, dtype="auto", device_map="cpu").resolved_dtype() == "float32"
        assert ModelSource(path=source.path, dtype="auto", device_map="auto").resolved_dtype() == name


def test_a_checkpoint_that_says_nothing_or_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 1)
    silent = copied(tmp_path / "silent")
    words = json.loads((silent / "config.json").read_text())
    (silent / "config.json").write_text(json.dumps({k: v for k, v in words.items() if "dtype" not in k}))
    assert ModelSource(path=str(silent), dtype="auto").resolved_dtype() == "float32"
    other = copied(tmp_path / "other", dtype="float64")
    with pytest.raises(ConfigError, match=r"^model\.dtype=auto: the checkpoint is of float64: give one of float32, "):
        ModelSource(path=str(other), dtype="auto").resolved_dtype()


def test_the_manifest_says_what_auto_came_to_and_sizes_follow(tmp_path: Path) -> None:
    source = ModelSource(path=str(copied(tmp_path / "model", dtype="bfloat16")), dtype="auto", device="cpu")
    folder, said = go(experiment(source), tmp_path / "out")
    assert records.read_manifest(folder)["settings"]["model"]["dtype"] == "float32"
    assert models.load(source).model.dtype == torch.float32
    config, _ = models.load_shape(source)
    sizes = {dtype: cache_bytes(experiment(ModelSource(dtype=dtype)), config, 100) for dtype in ("float32", "bfloat16")}
    assert cache_bytes(experiment(source), config, 100) == sizes["float32"] == 2 * sizes["bfloat16"]
    assert "note:" not in said


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_on_a_cpu_is_noted(dtype: str, tmp_path: Path) -> None:
    what = experiment(ModelSource(dtype=dtype, device="cpu"))
    _, said = go(what, tmp_path)
    note = f"note: model.dtype={dtype} is 7 to 40 times slower than float32 on a CPU"
    assert said.count(note) == 1
    assert "note:" not in go(what, tmp_path)[1]  # there is nothing left to wait for
    plan = io.StringIO()
    show_plan([what, what], 30, Console(file=plan))
    assert plan.getvalue().count(note) == 1


def test_weights_that_are_drawn_on_another_kind_of_device_are_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 1)
    assert RandomModel(device="cuda").fingerprint() != RandomModel(device="cpu").fingerprint()
    assert RandomModel(device="cuda:0").fingerprint() == RandomModel(device="cuda").fingerprint()


# T and the context


@pytest.fixture
def short(tmp_path: Path) -> ModelSource:
    """A model with a context of 200 tokens."""
    return ModelSource(path=str(copied(tmp_path / "short", max_position_embeddings=200)), layout="plain", device="cpu")


@pytest.mark.parametrize("overlong", ["refuse", "cut"])
@pytest.mark.parametrize("most", [200, 201, 9000])
def test_more_to_write_than_the_context_holds_is_refused(
    most: int, overlong: str, short: ModelSource, tmp_path: Path
) -> None:
    what = experiment(ModelSource(path=short.path, layout="plain", device="cpu", overlong=overlong), most)
    message = f"task.max_new_tokens={most}: must be below 200, the model's context in tokens"
    with pytest.raises(ConfigError) as refused:
        go(what, tmp_path / "out")
    assert str(refused.value).startswith(message)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError) as refused:
        show_plan([what], 30, Console(file=io.StringIO()))
    assert str(refused.value).startswith(message)
    said = io.StringIO()
    show_plan([what, experiment(short)], 30, Console(file=said, width=400))
    assert message in said.getvalue()


def test_a_prompt_that_exactly_fits_beside_t_runs_and_one_token_more_does_not(
    short: ModelSource, tmp_path: Path
) -> None:
    tokens = len(models.load(short).tokenizer(experiment(short).task.samples()[0].prompt).input_ids)
    folder, _ = go(experiment(short, 200 - tokens), tmp_path / "out")
    assert records.read(folder)[0]["prompt_tokens"] == tokens
    with pytest.raises(ConfigError, match=rf"its prompt of {tokens} tokens does not fit .* leaves {tokens - 1};"):
        go(experiment(short, 200 - tokens + 1), tmp_path / "more")
    assert not (tmp_path / "more").exists()


@pytest.mark.skipif(importlib.util.find_spec("peft") is not None, reason="peft is installed here")
def test_an_adapter_is_never_left_out_in_silence(tmp_path: Path) -> None:
    folder = copied(tmp_path / "model")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(EMBEDDED)}))
    with pytest.raises(ScopeError, match=r"holds an adapter, which needs peft: pip install peft$"):
        models.load(ModelSource(path=str(folder), device="cpu"))


# in a sweep


def swept(*jobs: str, launcher: str = "basic") -> Sweep:
    made = []
    for job in jobs:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", job.split(), return_hydra_config=True)
        with open_dict(cfg):  # the launcher's own package need not be installed
            cfg.hydra.runtime.choices["hydra/launcher"] = launcher
        made.append((tuple(job.split()), cfg))
    return Sweep.check(made)


def test_a_sweep_skips_what_is_impossible_here_and_runs_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    sweep = swept("model.device=cpu", "model.device=cuda", "attention=flash_attention_2 model.dtype=bfloat16")
    assert sweep.jobs == (("model.device=cpu",),)
    assert [overrides[0] for overrides, _ in sweep.skipped] == ["model.device=cuda", "attention=flash_attention_2"]
    assert sweep.skipped[0][1].startswith("model.device=cuda: this machine has no cuda device")
    with pytest.raises(ConfigError, match=r"^no job of this sweep can run: model\.device=cuda: this machine has no"):
        swept("model.device=cuda", "model.device=cuda:1")


def test_a_plan_and_a_cluster_need_no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    assert len(swept("model.device=cuda plan=true").jobs) == 1
    for launcher in ("submitit_slurm", "ray"):
        assert len(swept("model.device=cuda", launcher=launcher).jobs) == 1
    for launcher in ("basic", "joblib", "submitit_local"):
        with pytest.raises(ConfigError, match=r"model\.device=cuda"):
            swept("model.device=cuda", launcher=launcher)


def test_what_ran_here_is_not_taken_for_what_will_run_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dtype=auto a node with a GPU computes in another precision: another run."""
    gpus(monkeypatch, 0)
    small = f"output={tmp_path} task.questions=2 task.max_new_tokens=4 task.prompts=1"
    for dtype, found in (("auto", False), ("float32", True)):
        words = f"{small} model.dtype={dtype}"
        (job,) = swept(words).built
        run(job.experiment, NoTracking(), job.output, Console(file=io.StringIO()))
        assert swept(words).finished() != [None]
        assert (swept(words, launcher="submitit_slurm").finished() != [None]) == found
