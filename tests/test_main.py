"""The command line as a user meets it, in a folder of its own: mostly in this process, which saves the imports."""

import errno
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers.command import ROOT, SMALL, Scope, in_a_process, runs
from helpers.quick import every, slow

from scope.cli import run as command
from scope.util.errors import BugError


def test_help_names_every_group_in_a_line(scope: Scope) -> None:
    said = scope("--help").out
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()} - {"hydra"}
    for group in (*groups, "hydra/launcher", "hydra/sweeper"):
        assert re.search(rf"^  {group} +\w+", said, re.M), group
    for words in ("plan=true", "limit=2", "sampling.samples=4"):
        assert words in said
    for group in ("method", "decoding", "task"):
        options = ", ".join(sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml")))
        assert f"{group}: {options}" in said
    assert re.search(r"method: .*\bknorm, .*\bstreamingllm, tova\b", said)


def test_four_jobs_a_table_and_a_second_time_nothing_to_do(scope: Scope, tmp_path: Path) -> None:
    command = ["-m", "method=snapkv,h2o", "decoding=slide,adaptive", "name=four", *SMALL]
    first = scope(*command)
    assert len(runs(tmp_path)) == 4
    for name in ("table.csv", "table.md", "table.tex"):
        assert (tmp_path / "outputs" / "four" / name).stat().st_size > 100
        assert f"four/{name}" in first.out
    for words in ("snapkv", "h2o", "adaptive", "95% interval"):
        assert words in first.out
    assert "Traceback" not in first.err
    before = {run: (run / "records.jsonl").read_bytes() for run in runs(tmp_path)}
    again = scope(*command)
    assert again.out.count("finished already") == 4
    assert {run: (run / "records.jsonl").read_bytes() for run in runs(tmp_path)} == before


def test_a_run_alone_writes_config_manifest_and_records(scope: Scope, tmp_path: Path) -> None:
    scope(*SMALL)
    (run,) = runs(tmp_path)
    assert sorted(path.name for path in run.iterdir()) == [".lock", "config.yaml", "manifest.json", "records.jsonl"]
    assert "budget: 40" in (run / "config.yaml").read_text()  # resolved
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]  # nothing elsewhere


REFUSED = {
    "method=snapkb": "method=snapkb: must be one of distinct, entropy, full, h2o, .*; did you mean method=snapkv\\?",
    "method.windw=3": "method.windw: no such key; did you mean method.window\\?",
    "budget.window=abc": "budget.window=abc: must be a whole number of at least 1",
    "budget.recent=500": "budget.recent=500: must be at most the decoding budget, 36",
    "budget.prefill=1.5": "budget.prefill=1.5: must be a number of slots .*",
    "method.kernel=4": "method.kernel=4: must be odd, .*",
    "task.questions=100": "task.questions=100: must be a whole number from 1 to 58",
    "model=smolm2": "model=smolm2: must be one of {models}; did you mean model=smollm2\\?",
    "model.dtype=int8": "model.dtype=int8: must be one of auto, float32, bfloat16, float16",
    "model.device=toaster": "model.device=toaster: must be auto or a torch device .*",
    "model.device=meta": "model.device=meta: must be auto or a torch device .*",
    "model.device=cpu:5": "model.device=cpu:5: this machine has only cpu:0",
    "model.device=hpu": "model.device=hpu: this machine has no hpu device that torch can use",
    "-m model.device=hpu,cpu:5 seed=1,2": "no job of this sweep can run: model.device=hpu: this machine has no hpu .*",
    "model.device_map=3": "model.device_map=3: must be null, auto, balanced, .*",
    "model.revision=123": "model.revision=123: must be null, or a branch, a tag or a commit as text .*",
    "model.revision=v2": "model.revision=v2: must be null: model.path=.*embedded is on this disk",
    "model.threads=99999999999999999999999": "model.threads=9+: must be a whole number of at most 1024",
    "model.template.enable_thinking=false": "model.template.enable_thinking=false: must be left out with "
    "model.layout=plain, which uses no chat template",
    "model.layout=auto model.template.x={y:1}": "model.template.x={'y': 1}: must be text, a number, .*",
    "model.layout=auto model.template.tokenize=1": "model.template.tokenize=1: must be an argument of the chat .*",
    "model.layout=auto model.template=3": "model.template=3: must be arguments of the chat template, .*",
    "model.layout=auto model.template.x=1": "model.template.x=1: the tokenizer has no chat template that could take it",
    "model.template_date=today": "model.template_date=today: must be null or a day such as 2024-07-26",
    "model.thinking=[a]": "model.thinking=.'a'.: must be null or two texts, .*",
    "model.tempate.x=1": "model.tempate.x: no such key; .*",
    "task.max_new_tokens=2048": "task.max_new_tokens=2048: must be below 2048, the model's context in tokens, .*",
    "task.max_new_tokens=9000 plan=true": "task.max_new_tokens=9000: must be below 2048, .*",
    "sampling=greed": "sampling=greed: must be one of .*; did you mean sampling=greedy\\?",
    "sampling.temprature=1": "sampling.temprature: no such key; did you mean sampling.temperature\\?",
    "model=hf": "model.path: must be given",
    "engine.batch_size=0": "engine.batch_size=0: must be a whole number of at least 1",
    "sampling.temperature=-1": "sampling.temperature=-1: must be a number from 0 to 100",
    "name=../elsewhere": "name=../elsewhere: must be a plain folder name .*",
    "tracking=wandb tracking.mode=on": "tracking.mode=on: must be one of offline, online, disabled",
    "method=h2o,snapkv": "method=h2o,snapkv: several values are a sweep: add -m",
    "method": "method: cannot be read; write key=value, .*",
    "experiment=demo": "experiment=demo: is a sweep: add -m",
    "method=h2o method.kernel=5": "method.kernel: no such key; the keys of method are budget, window, votes, "
    "block, heads, least",
    "-m method=snapkv,h2o method.kernel=5": "method.kernel: another option taken here has no such key",
    "task=gsm8k_4k task.ordr=length": "task.ordr: no such key; did you mean task.order\\?",
    "task=csqa_4k task.prompt=3": "task.prompt: no such key; the keys of task are name, hub, columns, form, .*",
    "-m task=en_sum,gsm8k_4k task.promt_tokens=9": "task.promt_tokens: no such key; did you mean task.prompt_tokens\\?",
    "-m experiment=en_sum task.templat=x": "task.templat: no such key; did you mean task.template\\?",
    "decoding=none decoding.budget=3": "decoding.budget: decoding=none has no settings; decoding=accumulated_h2o, "
    "adaptive, ams and \\d+ more have budget",
    "tracking.mode=offline": "tracking.mode: tracking=none has no settings; tracking=wandb has mode",
    "tracking.spare=1": "tracking.spare: tracking=none has no settings",
    "+tracking.mode=offline": "tracking.mode: no such setting of scope.NoTracking; it has none",
    "metod.window=3": "metod.window: no such key; did you mean method.window\\?",
    "decoding=none decodng.budget=3": "decodng.budget: no such key; --help lists them",
    "fidelity.votes=foo": "fidelity.votes=foo: must be one of sum, mean, released",
    "fidelity.capped=foo": "fidelity.capped=foo: must be true or false",
    "method=full budget.prefill=1.5": "budget.prefill=1.5: must be a number of slots .*",
    "decoding=none budget.recent=0": r"budget\.recent=0: must be a number of slots \(.*\), or a share of D \(.*\)",
    "hydra/launcher=joblib": "hydra/launcher=joblib: is for a sweep: add -m",
    "decoding=null": "a group takes the name of an option, not null; .*",
    "method={a:1}": "method: takes the name of an option, not a value; --help lists them",
    "output=null": "output=null: must be a folder",
    "-m output={}": "output={}: must be a folder",
    "model.path=null": "model.path=null: must be a hub id, a folder, a GGUF file, or embedded",
    "~name": "name: must be given",
    "~sampling": "sampling: must be given",
    "~budget.prefill": "method.budget: interpolation key 'budget.prefill' not found",
    "+method.spare=1": "method.spare: no such setting of scope.prefill.SnapKV; it has budget, window, .*",
    "model._target_=os.system": "model._target_=os.system: must be a settings class of scope; .*",
    "~model._target_": "model: must be an option of the group, or have a _target_, .*",
    "+spare=1": "spare: no such key; the keys are attention, .*",
    "attention=flash": "attention=flash: must be one of sdpa, eager, flash_attention_2",
    "-m experiment=search": "hydra.sweeper.direction: is for a sweeper that searches: add hydra/sweeper=optuna",
    "task.prompts=1 task.questions=8 budget.bytes=1000": "budget.bytes=1000: must be at least 299520 for a prompt .*",
    "task.prompts=1 task.questions=8 budget.bytes=299519": "budget.bytes=299519: must be at least 299520 for .*",
    "task.prompts=1 task.questions=8 budget.bytes=1000 plan=true": "budget.bytes=1000: must be at least 299520 .*",
    "task.prompts=1 task.questions=8 budget.total=194": "budget.total=194: must be at least 195 slots for a prompt of "
    "227 tokens: what stays of it, and D of at least budget.recent, have to fit",
    "task.prompts=1 task.questions=8 budget.total=194 plan=true": "budget.total=194: must be at least 195 slots .*",
    "task.prompts=1 task.questions=8 task.max_new_tokens=10 budget.total=0.8262": "budget.total=0.8262: must be at "
    "least 0.8263 for a prompt of 227 tokens: .*",
    "budget.total=1.5": r"budget.total=1.5: must be a number of slots \(.*\), or a share of the full cache \(.*\)",
    "budget.total=300 budget.bytes=3000000": "budget.total=300: must be null where the bytes are bounded",
    "task.prompts=1 task.questions=8 budget.window=170": "budget.window=170: must be smaller than the prefill budget, "
    "170: 0.75 of a prompt of 227 tokens",
    "task.prompts=1 method=streamingllm method.window=999": "method.window=999: must be smaller than .*",
    "-m experiment=demo --cfg job": "-m, --cfg and --info exclude each other: drop -m to look at one configuration",
    "-m method=h2o,snapkb": "method=snapkb: must be one of .*",
    "-m budget.decode=0,128": "budget.decode=0: must be a whole number of at least 1",
    "-m budget.recent=200,300": "no job of this sweep can run: budget.recent=200: must be at most .*",
    # flags
    "--resolve": "--resolve: is for --cfg or --help",
    "--package=task": "--package=task: is for --cfg",
    "--shell-completion": "--shell-completion: must be followed by install=bash, .*",
    "--experimental-rerun=x.pickle": "--experimental-rerun: no run leaves what it needs; .*",
    "--config-name=nope": "Cannot find primary config 'nope'. .*",
    "--config-dir=nowhere": "Additional config directory '.*/nowhere' not found",
    "hydra.searchpath=[nowhere]": "hydra.searchpath: nowhere: there is no such folder",
    "-m hydra.searchpath=[nowhere]": "hydra.searchpath: nowhere: there is no such folder",
    # groups and what they make
    "-m budget=null,x": "a group takes the name of an option, not null; .*",
    "experiment=../x": "experiment=../x: must be one of demo, .*",
    "experiment=/etc/passwd": "experiment=/etc/passwd: must be one of demo, .*",
    "+method@foo=snapkv": "foo: no such key; the keys are .*",
    "tracking._target_=scope.prefill.SnapKV": "tracking._target_=scope.prefill.SnapKV: is no Tracker; .*",
    "tracking._target_=scope.policy.plan.Plan": "tracking._target_=scope.policy.plan.Plan: is no Tracker; .*",
    "-m tracking._target_=scope.tasks.Hub": "tracking._target_=scope.tasks.Hub: is no Tracker; .*",
    "method._target_=scope.decoding.Slide": "method._target_=scope.decoding.Slide: is no PrefillMethod; .*",
    "decoding._target_=scope.prefill.SnapKV": "decoding._target_=scope.prefill.SnapKV: is no DecodingStrategy; .*",
    "engine._target_=scope.NoTracking": "engine._target_=scope.NoTracking: is no Engine; .*",
    "+trace._target_=scope.NoTracking": "trace._target_=scope.NoTracking: is no Trace; .*",
    "task=en_sum task.hub._target_=scope.Engine": "task.hub.columns: no such setting of scope.Engine; .*",
    # values of another type than the field's
    "task=gsm8k_4k task.source=nan": "task.source=nan: must be a text or null",
    "task=gsm8k_4k task.source=inf": "task.source=inf: must be a text or null",
    "task=gsm8k_4k task.source=[1]": "task.source=\\[1\\]: must be a text or null",
    "task=gsm8k_4k task.source={}": "task.source={}: must be a text or null",
    "task=gsm8k_4k task.source=true": "task.source=true: must be a text or null",
    "-m task=gsm8k_4k task.source=1,2": "task.source=1: must be a text or null",
    "task=en_sum task.template=nan": "task.template=nan: must be a text or null",
    "task=gsm8k_4k task.hub.split=3": "task.hub.split=3: must be a text",
    "task=mmlu_4k task.subjects=[1]": "task.subjects=\\[1\\]: must be a list, each a text or null",
    "task=gsm8k_4k task.columns=3": "task.columns=3: must be a mapping",
    "model.revision=12": "model.revision=12: must be null, or a branch, a tag or a commit as text .*",
    "tracking=wandb tracking.project=[1]": "tracking.project=\\[1\\]: must be a text",
    "tracking=wandb tracking.init_timeout_seconds=x": "tracking.init_timeout_seconds=x: must be a number",
    "limit=true": "limit=true: must be a whole number of at least 1",
    "name=null": "name=null: must be a plain folder name .*",
    "seed=1e400": "seed=inf: must be a whole number of at least 0",
    "records.wait_seconds=1e400": "records.wait_seconds=inf: must be a number of at least 0",
    f"sampling.seed={2**63}": f"sampling.seed={2**63}: must be a whole number of at most {2**63 - 1}",
    "task.prompts=1000000000": "task.prompts=1000000000: must be a whole number of at most .*",
    # what is not there, or cannot be made
    "task=gsm8k_4k task.source=/dev/null": "task.source=/dev/null: is neither a file nor a folder",
    "task=gsm8k_4k task.source=''": "task.source=: must be a file or a folder",
    f"task=gsm8k_4k task.source={'a' * 300}": "task.source=a*: File name too long",
    "task=gsm8k_4k task.source='~nobody-of-that-name/x'": "task.source=~nobody-of-that-name/x: Could not determine .*",
    "task=en_sum task.template=/dev/zero": "task.template=/dev/zero: must be a file",
    "model.path=nowhere/at/all": "model.path=nowhere/at/all: there is no such folder, .*",
    "output=/dev/null": "/dev/null/default: cannot be made: /dev/null is not a folder",
    "hydra.run.dir=/dev/null/x": "/dev/null/x: Not a directory",
    # the sweep itself
    "-m hydra.sweeper.pairs=[method]": "hydra.sweeper.pairs: method: must be a line of key=value, .*",
    "-m hydra.sweeper.pairs=[1]": "hydra.sweeper.pairs: 1: must be a line of key=value, .*",
    "-m hydra.sweeper.pairs=['']": "hydra.sweeper.pairs: : must be a line of key=value, .*",
    "-m hydra.sweeper.pairs=['~method']": "hydra.sweeper.pairs: ~method: must be a line of key=value, .*",
    "-m hydra.sweeper.pairs=['method=nope']": "method=nope: must be one of .*",
    "-m hydra.sweeper.max_batch_size=0": "hydra.sweeper.max_batch_size=0: must be null or at least 1",
    "-m hydra.sweeper.max_batch_size=-1": "hydra.sweeper.max_batch_size=-1: must be null or at least 1",
    "hydra.launcher._target_=x -m": ".*RuntimeError: Invalid plugin 'x': .*; HYDRA_FULL_ERROR=1 shows the traceback",
}


@pytest.mark.parametrize("arguments", every(6, REFUSED))
def test_bad_input_is_one_line_and_leaves_nothing(scope: Scope, tmp_path: Path, arguments: str) -> None:
    done = scope(*arguments.split(), code=2)
    models = ", ".join(sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")))
    expected = REFUSED[arguments].replace("{models}", re.escape(models))
    assert re.fullmatch(rf"error: {expected}\n", done.err), done.err
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [[], ["-m"]])
@pytest.mark.parametrize("digits", [slow(400), slow(4200), slow(5000), 50_000])
def test_a_number_of_any_length_is_refused_in_a_short_line(scope: Scope, mode: list[str], digits: int) -> None:
    for key in ("seed", "task.max_new_tokens", "budget.prefill", "records.wait_seconds", "limit"):
        said = scope(*mode, f"{key}={'9' * digits}", "plan=true", code=2).err
        assert re.match(rf"error: {key}=9+", said)
        assert (said.count("\n"), len(said) < 400) == (1, True)


def test_what_a_message_repeats_is_readable_and_holds_no_secret(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    said = scope("model.path='\x1b[31mred\x07 \u202eabc'", code=2).err
    assert said.startswith("error: model.path=\\x1b[31mred\\x07 \\u202eabc: there is no such folder")
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret_value")
    for words in (["model.dtype=hf_very_secret_value"], ["method=hf_very_secret_value"], ["hf_very_secret_value"]):
        said = scope(*words, code=2).err
        assert "***" in said
        assert "very_secret" not in said


YAML = {
    "a tab": b"a:\n\t- 1\n",
    "a tag": b"a: !nope 1\n",
    "python": b"_target_: !!python/name:os.system\n",
    "latin": "a: été\n".encode("latin-1"),
    "utf-16": "a: 1\n".encode("utf-16"),
    "a number": b"3\n",
    "twice": b"a: 1\na: 2\n",
    "itself": b"defaults:\n  - broken\n",
    "in a circle": b"defaults:\n  - other\n",
    "loop": b"a: &x\n  b: *x\n",
    "digits": b"a: " + b"9" * 5000 + b"\n",
    "alias": b"a: *x\n",
    "unclosed": b"a: [1, 2\n",
    "documents": b"a: 1\n---\nb: 2\n",
    "brackets": b"a: " + b"[" * 1000 + b"\n",
}


@pytest.mark.parametrize("mode", [[], ["-m"], slow(["--cfg=job"])])
@pytest.mark.parametrize("text", every(4, YAML))
def test_a_preset_that_cannot_be_read_is_named(scope: Scope, tmp_path: Path, text: str, mode: list[str]) -> None:
    group = tmp_path / "conf" / "method"
    group.mkdir(parents=True)
    (group / "broken.yaml").write_bytes(YAML[text])
    (group / "other.yaml").write_bytes(b"defaults:\n  - broken\n")
    done = scope(*mode, f"hydra.searchpath=[{tmp_path / 'conf'}]", "method=broken", code=2)
    assert re.fullmatch(r"error: method/(broken|other)\.yaml: .*\n", done.err), done.err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("text", every(4, ["- 1\n- 2\n", "hello\n", "", "# nothing\n", "1: 2\n"]))
def test_a_preset_that_is_no_mapping_is_no_option(scope: Scope, tmp_path: Path, text: str) -> None:
    group = tmp_path / "conf" / "method"
    group.mkdir(parents=True)
    (group / "broken.yaml").write_text(text)
    for mode in ([], ["-m"]):
        done = scope(*mode, f"hydra.searchpath=[{tmp_path / 'conf'}]", "method=broken", code=2)
        assert re.fullmatch(r"error: method: must be an option of the group, .*\n", done.err), done.err


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm", "ray"])
def test_a_launcher_that_is_not_installed_names_what_brings_it(scope: Scope, launcher: str) -> None:
    if importlib.util.find_spec(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher"):
        pytest.skip("it is installed")
    extra = "ray" if launcher == "ray" else "launchers"
    said = scope("-m", f"hydra/launcher={launcher}", code=2).err
    assert said == f"error: hydra/launcher={launcher}: its plugin is not installed: pip install -e '.[{extra}]'\n"


def test_a_sweeper_that_is_not_installed_names_what_brings_it(scope: Scope) -> None:
    if importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper"):
        pytest.skip("it is installed")
    said = scope("-m", "hydra/sweeper=optuna", code=2).err
    assert said == "error: hydra/sweeper=optuna: its plugin is not installed: pip install -e '.[launchers]'\n"


def test_what_is_not_there_is_refused_before_anything_ran(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set, a backend, a model: alone and in a sweep of nothing else."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    pytest.importorskip("datasets")
    if importlib.util.find_spec("flash_attn") is None:
        assert "pip install -e '.[flash]'" in scope("attention=flash_attention_2", code=2).err
        assert "pip install -e '.[flash]'" in scope("-m", "attention=flash_attention_2", code=2).err
    assert scope("task=gsm8k_4k", code=2).err.startswith("error: openai/gsm8k: not built here and cannot be downloaded")
    assert "REFUSED snapkv + slide: openai/gsm8k" in scope("-m", "task=gsm8k_4k", code=2).out
    assert "model.path=some/model: the hub cannot be reached" in scope("model=hf", "model.path=some/model", code=2).err


def test_a_sweep_whose_folder_cannot_be_made_is_refused(scope: Scope, tmp_path: Path) -> None:
    refused = "cannot be made: /dev/null is not a folder"
    assert scope("-m", "output=/dev/null/x", code=2).err == f"error: /dev/null/x/default: {refused}\n"
    assert scope("-m", "hydra.sweep.dir=/dev/null/x", code=2).err == f"error: /dev/null/x: {refused}\n"
    (tmp_path / "file").touch()
    refused = f"cannot be made: {tmp_path / 'file'} is not a folder"
    both = scope("-m", f"output={tmp_path / 'fine'},{tmp_path / 'file'}", code=2)
    assert both.err == f"error: {tmp_path / 'file' / 'default'}: {refused}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_special_file_is_no_data_set(scope: Scope, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")  # opening it would wait for ever
    (tmp_path / "binary.jsonl").write_bytes(bytes(range(256)) * 40)
    for name, why in (("rows.jsonl", "is neither a file nor a folder"), ("binary.jsonl", "cannot be read: ")):
        assert why in scope("task=gsm8k_4k", f"task.source={tmp_path / name}", code=2).err
    os.mkfifo(tmp_path / "template.txt")
    assert "must be a file" in scope("task=en_sum", f"task.template={tmp_path / 'template.txt'}", code=2).err


def test_a_fault_of_our_own_is_told_from_a_request_that_cannot_be(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("layer")

    monkeypatch.setattr("scope.runs.prepare.encode_all", broken)
    said = scope(*SMALL, code=70).err
    assert said == "error: this is a bug in SCOPE: KeyError: 'layer'; HYDRA_FULL_ERROR=1 shows the traceback\n"
    swept = scope("-m", *SMALL, code=70)
    assert "FAILED snapkv + slide: this is a bug in SCOPE: KeyError: 'layer'" in swept.out
    assert "Traceback" not in swept.out + swept.err
    monkeypatch.setattr(command, "TRACEBACKS", True)
    with pytest.raises(BugError):
        scope(*SMALL)


@pytest.mark.parametrize(
    ("words", "kind"),
    [("limit=0", "ConfigError"), ("method=nope", "MissingConfigException"), ("--resolve", "ValueError")],
)
@pytest.mark.slow
def test_a_user_who_asks_for_tracebacks_gets_them(tmp_path: Path, words: str, kind: str) -> None:
    done = in_a_process(tmp_path, words, HYDRA_FULL_ERROR="1")
    assert "Traceback" in done.stderr
    assert kind in done.stderr


def test_a_finished_sweep_whose_tables_cannot_be_written_says_so(
    scope: Scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["-m", "method=snapkv,full", "name=four", *SMALL]
    scope(*command)
    table = tmp_path / "outputs" / "four" / "table.csv"
    before = table.read_text()
    opened = Path.open

    def read_only(path: Path, mode: str = "r", *more: object, **others: object) -> object:
        if "w" in mode:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, mode, *more, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", read_only)
    done = scope(*command, code=1)
    why = "Read-only file system: the tables are not written; the records are whole"
    assert done.err == f"error: {table}: {why}\n"
    assert done.out.count("finished already") == 2
    assert "95% interval" in done.out
    monkeypatch.undo()
    assert table.read_text() == before


@pytest.mark.parametrize("words", ["--version", "--cfg=job"])  # less and more than is written at a time
def test_stdout_that_cannot_be_written_is_a_failure(tmp_path: Path, words: str) -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, str(ROOT / "main.py"), words]
        done = subprocess.run(command, cwd=tmp_path, env=buffered, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"error: (standard output: )?No space left on device\n", done.stderr)


@pytest.mark.slow
def test_a_folder_of_any_name_is_printed(scope: Scope, tmp_path: Path) -> None:
    """Also one that no text can hold: a byte that is no UTF-8."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    done = in_a_process(tmp_path, f"output='{folder}'", *SMALL, "task.prompts=1")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "written: " in done.stdout


@pytest.mark.slow
def test_a_setting_that_nothing_uses_is_noted(scope: Scope) -> None:
    note = "note: budget.prefill=0.5 changes nothing: none of the options taken uses it\n"
    assert scope("method=full", "budget.prefill=0.5", "plan=true").out.startswith(note)
    assert "note:" not in scope("method=snapkv", "budget.prefill=0.5", "plan=true").out
    assert scope("-m", "method=full", "budget.prefill=0.5", "decoding=h2o,slide", "plan=true").out.count(note) == 1
    assert "note:" not in scope("-m", "method=full,snapkv", "budget.prefill=0.5", "plan=true").out
    assert "note: fidelity.votes=mean changes nothing" in scope("fidelity.votes=mean", "plan=true").out
    assert "note:" not in scope("fidelity=released", "fidelity.granularity=kv_head", "plan=true").out


@pytest.mark.slow
def test_arguments_of_a_chat_template_need_no_plus(scope: Scope, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(ROOT / "scope" / "embedded", model)
    (model / "chat_template.jinja").write_text("{{ messages[0]['content'] }}{% if quiet %} 7{% endif %}")
    some = ("model=hf", f"model.path={model}", "name=chat", *SMALL[:-1])
    done = scope(*some, "model.template.quiet=true", "model.template.words=[a,b]")
    assert "note: model.template.words=['a', 'b'] changes nothing: the chat template has no such argument\n" in done.out
    (folder,) = runs(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["settings"]["model"]["template"] == {"quiet": True, "words": ["a", "b"]}
    assert manifest["settings"]["model"]["thinking"] == ["<think>", "</think>"]
    scope("-m", *some, "model.template.quiet=true,false", "+model.template.more=1")
    assert len(runs(tmp_path)) == 3


def test_a_models_preset_advises_and_the_user_decides(scope: Scope) -> None:
    def sampling(*words: str) -> list[float]:
        text = scope(*words, "--cfg", "job", "--package", "sampling").out
        found = yaml.safe_load("\n".join(line for line in text.splitlines() if not line.startswith("#")))
        return [found[key] for key in ("temperature", "top_p", "top_k")]

    assert sampling("model=llama3.1_8b") == [0, 1, 0]
    assert sampling("model=qwen3_8b") == [0.6, 0.95, 20]
    assert sampling("model=deepseek_r1_llama_8b") == [0.6, 0.95, 0]
    assert sampling("model=qwen3_8b", "sampling=qwen3", "model.template.enable_thinking=false") == [0.7, 0.8, 20]
    assert sampling("model=qwen3_8b", "sampling=greedy") == [0, 1, 0]
    assert sampling("sampling.temperature=0", "model=qwen3_8b") == [0, 0.95, 20]


def test_the_bytes_that_a_refusal_names_are_enough(scope: Scope, tmp_path: Path) -> None:
    scope("task.prompts=1", "task.questions=8", "task.max_new_tokens=60", "budget.bytes=299520")
    (run,) = runs(tmp_path)
    (line,) = [json.loads(line) for line in (run / "records.jsonl").open()]
    assert line["cache_bytes"] <= 299520


def test_a_plan_shows_the_total_in_the_place_of_d(scope: Scope) -> None:
    done = scope("-m", "budget.total=0.7,300", "task.prompts=1", "task.questions=8", "plan=true")
    assert re.findall(r"^snapkv +(total \S+) ", done.out, re.M) == ["total 0.7", "total 300"]
    assert "budget.total" not in done.err


def test_an_impossible_pair_in_a_sweep_is_skipped_with_its_reason(scope: Scope, tmp_path: Path) -> None:
    done = scope("-m", "budget.recent=16,99", "name=pairs", *SMALL[:-1])
    assert len(runs(tmp_path)) == 1
    assert re.search(
        r"skipped .*budget.recent=99.*: budget.recent=99: must be at most the decoding budget, 32", done.out
    )


def test_a_job_that_fails_does_not_stop_the_sweep(scope: Scope, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    done = scope("-m", f"model.path={nowhere},embedded", "name=some", *SMALL, code=1)
    assert len(runs(tmp_path)) == 1
    assert f"REFUSED snapkv + slide (model.path={nowhere}): model.path={nowhere}: there is no such folder" in done.out
    assert re.search(rf"repeat it alone: python main.py .*model.path={nowhere}", done.out)
    assert "1 of 2 runs refused" in done.err
    assert "Traceback" not in done.err


def test_a_bound_that_is_too_small_for_every_prompt_is_refused_not_failed(scope: Scope, tmp_path: Path) -> None:
    bounds = ["task.prompts=1", "task.questions=4", "budget.prefill=0.5", "budget.recent=4"]
    small = r"budget\.total=9: must be at least \d+ slots for a prompt of \d+ tokens: .*\n"
    assert re.fullmatch(f"error: {small}", scope("budget.total=9", *bounds, code=2).err)
    swept = scope("-m", "budget.total=9", *bounds, code=2)
    assert re.search(rf"^REFUSED snapkv \+ slide: {small}", swept.out, re.M)
    assert swept.err == "error: 1 of 1 runs refused, with the reason above\n"
    assert "FAILED" not in swept.out
    assert runs(tmp_path) == []


def test_the_line_that_repeats_a_job_of_an_experiment_runs(scope: Scope, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    paired = ["experiment=grid", "method=full", "decoding=slide", f"model.path={nowhere}", *SMALL[:-1]]
    line = r"^  repeat it alone: python main.py (.*)$"
    (repeated,) = re.findall(line, scope("-m", *paired, code=2).out, re.M)
    done = scope(*shlex.split(repeated), code=2)
    assert re.findall(line, done.out, re.M) == [repeated]
    assert "1 of 1 runs refused" in done.err


@pytest.mark.parametrize("bound", ["budget.bytes=400000", "budget.total=0.9"])
def test_a_bound_says_what_d_is(bound: str, scope: Scope, tmp_path: Path) -> None:
    """Whatever is given of it: also below the slots that always stay. It tells no run from another."""
    small = ["task.prompts=1", "task.questions=8", "task.max_new_tokens=60", bound, "budget.recent=40"]
    scope(*small)
    again = scope(*small, "budget.decode=64")
    assert len(runs(tmp_path)) == 1
    assert "note: budget.decode=64 changes nothing" in again.out


@pytest.mark.slow
def test_lines_of_a_sweep_say_what_differs_and_nothing_else(scope: Scope) -> None:
    command = ["-m", "method=snapkv,full", "budget.decode=32,400", "budget.recent=16,40", "name=bd", *SMALL[:-2]]
    command += ["task.prompts=1", "task.max_new_tokens=12"]
    ran, again = scope(*command), scope(*command)
    for said in (ran, again):
        lines = re.findall(r"^(\w+ \+ slide.*?):", said.out, re.M)
        pairs = ("32 {}16", "400 {}16", "400 {}40")
        settings = [f"(budget.decode={pair.format('budget.recent=')})" for pair in pairs]
        assert sorted(lines) == sorted(f"{m} + slide {setting}" for m in ("snapkv", "full") for setting in settings)
    alone = scope("-m", "budget.decode=40", "name=one", *SMALL[:-2])
    assert "\nsnapkv + slide: " in alone.out


def test_a_search_says_what_it_found_and_where(scope: Scope, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    command = ["hydra/sweeper=optuna", "experiment=search", "hydra.sweeper.n_trials=2", *SMALL[:3]]
    said = scope("-m", *command).out
    found = tmp_path / "outputs" / "search" / "optimization_results.yaml"
    assert re.search(r"^best: budget.prefill=0\.\d+ budget.decode=\d+: [\d.]+% of the answers right", said, re.M)
    assert said.endswith(f"written: {found}\n")
    assert len(re.findall(r"^snapkv \+ slide \(budget.prefill=0\.\d+ budget.decode=\d+ task", said, re.M)) == 2


def test_a_search_for_accuracy_alone(scope: Scope) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = [
        "hydra/sweeper=optuna",
        "experiment=search",
        "hydra.sweeper.n_trials=1",
        "hydra.sweeper.direction=maximize",
    ]
    said = scope("-m", *search, *SMALL[:3]).out
    assert re.search(r"^best: budget.prefill=0\.\d+ budget.decode=\d+: [\d.]+% of the answers right$", said, re.M)


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(scope: Scope, tmp_path: Path) -> None:
    arguments = [
        "-m",
        "method=snapkv,full",
        "decoding=slide",
        "name=killed",
        "engine.batch_size=1",
        *SMALL,
        "task.prompts=6",
    ]
    command = [sys.executable, str(ROOT / "main.py"), f"output={tmp_path / 'outputs'}", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        lines = [line for path in tmp_path.glob("outputs/killed/*/records.jsonl") for line in path.open()]
        if len(lines) >= 2:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.read_text() for path in tmp_path.glob("outputs/killed/*/records.jsonl")}
    assert sum(text.count("\n") for text in before.values()) < 12  # it was killed on the way
    scope(*arguments)
    for run in runs(tmp_path):
        text = (run / "records.jsonl").read_text()
        assert text.startswith(before.get(run / "records.jsonl", "").rpartition("\n")[0])
        names = [json.loads(line)["sample"] for line in text.splitlines()]
        assert sorted(names) == [f"arithmetic-4-0-{i}" for i in range(6)]


def test_a_new_method_is_one_class_and_one_yaml(scope: Scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.py").write_text(
        '''"""A policy that is no part of the project."""
from dataclasses import dataclass
from scope.policy.plan import Plan
from scope.prefill.budget import Windowed

@dataclass(frozen=True)
class Oldest(Windowed):
    def plan(self, view):
        slots = self.slots(view.prompt)
        return None if view.prompt <= slots else Plan(head=slots - self.window, best=0, tail=self.window)
'''
    )
    group = tmp_path / "conf" / "method"
    group.mkdir(parents=True)
    (group / "oldest.yaml").write_text("_target_: toy.Oldest\nbudget: ${budget.prefill}\nwindow: ${budget.window}\n")
    monkeypatch.syspath_prepend(str(tmp_path))  # as PYTHONPATH does
    command = [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "method=oldest", *SMALL]
    assert "method._target_=toy.Oldest: must be a settings class of scope; " in scope(*command, code=2).err
    monkeypatch.setenv("SCOPE_ALLOW", "toy")
    scope(*command)
    monkeypatch.delitem(sys.modules, "toy")
    (run,) = runs(tmp_path)
    lines = [json.loads(line) for line in (run / "records.jsonl").open()]
    assert all(line["prefill_kept"] == [40, 40, 40] for line in lines)


@pytest.mark.slow
def test_wandb_offline_from_the_command_line(tmp_path: Path) -> None:
    done = in_a_process(tmp_path, "tracking=wandb", *SMALL)
    assert done.returncode == 0, done.stderr
    (run,) = runs(tmp_path)
    assert list(run.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.mark.slow
def test_the_library_imports_no_package_that_it_can_do_without() -> None:
    """In one process, that of the fewest packages first."""
    code = "import sys"
    parts = {
        "scope.generation.stream, scope.generation.models, scope.cache": ("pydantic", "platformdirs", "rich"),
        "scope.runs.run": (),
    }
    for modules, more in parts.items():
        code += f"\nimport {modules}\nprint({ {'hydra', 'omegaconf', 'wandb', *more} } & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "set()"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("script") is None, reason="script(1) is not there to make a terminal")
def test_a_terminal_sees_progress(tmp_path: Path) -> None:
    inner = f"{sys.executable} {ROOT / 'main.py'} output={tmp_path / 'outputs'} {' '.join(SMALL)}"
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["script", "-qec", inner, "/dev/null"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert "samples" in done.stdout
    assert "tokens/s" in done.stdout
