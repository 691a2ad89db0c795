"""What a configuration from a stranger cannot do: run code, or switch on what would run it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import SMALLEST
from helpers.quick import every

from scope.cli.run import cli
from scope.cli.trust import permitted, require_permission
from scope.generation.models import EMBEDDED
from scope.util.errors import ConfigError

ROOT = Path(__file__).parents[1]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """main.py in this process -> exit code, stdout, stderr."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("SCOPE_TRUST_REMOTE_CODE", "SCOPE_ALLOW_PICKLES", "SCOPE_TRUST_HYDRA"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        own = [] if any(word.startswith("output=") for word in words) else [f"output={work / 'outputs'}"]
        monkeypatch.setattr(sys, "argv", [str(ROOT / "main.py"), *words, *own])
        try:
            code = cli()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capfd.readouterr()

    return run


def model_with_code(folder: Path, mark: Path) -> Path:
    """The embedded model's weights under a configuration class of their own, whose module leaves a mark."""
    folder.mkdir()
    for file in EMBEDDED.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "stranger", "auto_map": {"AutoConfig": "stranger.Stranger"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "stranger.py").write_text(
        "from pathlib import Path\nfrom transformers import LlamaConfig\n"
        f"Path({str(mark)!r}).touch()\n\n\nclass Stranger(LlamaConfig):\n    model_type = 'stranger'\n"
    )
    return folder


def preset(folder: Path, path: str, text: str) -> str:
    """Write a stranger's YAML; -> the word that adds its folder to the search path."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return f"hydra.searchpath=[file://{folder}]"


@pytest.mark.slow
def test_a_preset_cannot_have_the_code_of_a_model_run(tmp_path: Path, command: Command) -> None:
    mark = tmp_path / "mark"
    model = model_with_code(tmp_path / "model", mark)
    asks = f"# @package _global_\nmodel:\n  path: {model}\n  trust_remote_code: true\n"
    search = preset(tmp_path / "conf", "experiment/nice.yaml", asks)
    for more in ([], ["plan=true"], ["-m", "seed=1,2"], ["-m", "seed=1,2", "plan=true"]):
        code, out, err = command(*more, search, "experiment=nice", *SMALLEST)
        assert code == 2, (more, out, err)
        assert err.startswith("error: model.trust_remote_code=true: runs code that comes with the model")
        assert f"{tmp_path / 'conf' / 'experiment' / 'nice.yaml'} asks for it" in err
        assert "type model.trust_remote_code=true or set SCOPE_TRUST_REMOTE_CODE=1" in err
        assert err.count("\n") == 1
        assert not mark.exists()
    assert not list((tmp_path / "work").iterdir())
    code, _, err = command(search, "experiment=nice", "plan=true", "model.trust_remote_code=true", *SMALLEST)
    assert mark.exists(), err  # the user said so


OPTION = "_target_: scope.ModelSource\npath: embedded\nattention: ${attention}\n"
FILES = {
    "an option of a group": ("model/nice.yaml", OPTION + "trust_remote_code: true\n", ["model=nice"]),
    "pickles": ("model/nice.yaml", OPTION + "safetensors_only: false\n", ["model=nice"]),
    "by reference": ("model/nice.yaml", OPTION + "trust_remote_code: ${oc.decode:'true'}\n", ["model=nice"]),
    "by another key": ("model/nice.yaml", OPTION + "trust_remote_code: ${plan}\n", ["model=nice", "plan=true"]),
    "of another group": ("trace/nice.yaml", "# @package model\nsafetensors_only: false\n", ["trace=nice"]),
    "a sweep's parameters": (
        "experiment/nice.yaml",
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      model.trust_remote_code: 'true'\n",
        ["-m", "experiment=nice"],
    ),
    "a sweep's pairs": (
        "experiment/nice.yaml",
        "# @package _global_\nhydra:\n  sweeper:\n    pairs: ['seed=1 model.safetensors_only=false']\n",
        ["-m", "experiment=nice"],
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_no_file_switches_anything_on(case: str, tmp_path: Path, command: Command) -> None:
    path, text, words = FILES[case]
    code, out, err = command(*words, preset(tmp_path / "conf", path, text), *SMALLEST)
    assert code == 2, (out, err)
    name = "safetensors_only=false" if "safetensors_only" in text else "trust_remote_code=true"
    assert err.startswith(f"error: model.{name}: ")
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize("where", ["--config-dir", "--config-path"])
def test_nor_does_a_whole_configuration(where: str, tmp_path: Path, command: Command) -> None:
    text = "defaults: [config, _self_]\nmodel:\n  trust_remote_code: true\n"
    if where == "--config-path":  # the project's own is then found by its search path only
        text += f"hydra:\n  searchpath: [file://{ROOT / 'conf'}]\n"
    preset(tmp_path / "conf", "mine.yaml", text)
    code, out, err = command(where, str(tmp_path / "conf"), "--config-name", "mine", *SMALLEST)
    assert code == 2, (out, err)
    assert err.startswith("error: model.trust_remote_code=true: "), err
    assert f"{tmp_path / 'conf' / 'mine.yaml'} asks for it" in err


@pytest.mark.parametrize(
    "words",
    [
        ["model.trust_remote_code=true", "model.safetensors_only=False"],
        ["++model.trust_remote_code=True", "+model.safetensors_only=false"],
        ["-m", "model.trust_remote_code=false,true", "model.safetensors_only='false'"],
    ],
)
def test_what_was_typed_counts_until_the_command_ends(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCOPE_TRUST_REMOTE_CODE", raising=False)
    monkeypatch.setenv("SCOPE_ALLOW_PICKLES", "0")
    with permitted(words):
        require_permission("model.trust_remote_code", "trust_remote_code", True)
        require_permission("model.safetensors_only", "safetensors_only", False)
        script = "import os; print(os.environ['SCOPE_TRUST_REMOTE_CODE'], os.environ['SCOPE_ALLOW_PICKLES'])"
        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert told.stdout.split() == ["1", "1"]  # as the processes of a launcher have it
    assert "SCOPE_TRUST_REMOTE_CODE" not in os.environ
    assert os.environ["SCOPE_ALLOW_PICKLES"] == "0"
    with pytest.raises(ConfigError, match="trust_remote_code=true"):
        require_permission("model.trust_remote_code", "trust_remote_code", True)


@pytest.mark.parametrize(
    "words",
    [
        ["model.trust_remote_code=false"],
        ["model.trust_remote_code"],
        ["name=trust_remote_code=true"],
        ["seed=1", "experiment=trust_remote_code"],
        ["model.safetensors_only=true"],
    ],
)
def test_other_words_permit_nothing(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SCOPE_TRUST_REMOTE_CODE", "SCOPE_ALLOW_PICKLES"):
        monkeypatch.delenv(name, raising=False)
    with permitted(words):
        for key, value in (("trust_remote_code", True), ("safetensors_only", False)):
            with pytest.raises(ConfigError, match=key):
                require_permission(f"model.{key}", key, value)


def test_the_environment_permits(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    search = preset(tmp_path / "conf", *FILES["an option of a group"][:2])
    monkeypatch.setenv("SCOPE_TRUST_REMOTE_CODE", "1")
    code, _, err = command(search, "model=nice", "plan=true", *SMALLEST)
    assert code == 0, err


def test_in_a_sweep_the_command_line_counts(tmp_path: Path, command: Command) -> None:
    code, _, err = command("-m", "seed=1,2", "model.trust_remote_code=true", "model.safetensors_only=false", *SMALLEST)
    assert code == 0, err
    assert len(list(tmp_path.glob("work/outputs/*/*/records.jsonl"))) == 2


# --- what stands under `hydra:` -------------------------------------------------------------------------------------

CALLS = {
    "callbacks.evil": "{_target_: os.system, command: 'touch MARK'}",
    "callbacks.best": "{_target_: os.system, command: 'touch MARK'}",
    "callbacks.path": "{_target_: pathlib.Path, _args_: [MARK]}",
    "job.env_set": "{SCOPE_TRUST_REMOTE_CODE: '1'}",
    "job.env_set.PATH": "/nowhere",
    "job.env_copy": "[HOME]",
    "job.chdir": "true",
    "job_logging": "{version: 1, root: {handlers: [f]}, handlers: {f: {class: logging.FileHandler, filename: MARK}}}",
    "hydra_logging": "{version: 1, root: {handlers: [f]}, handlers: {f: {class: logging.FileHandler, filename: MARK}}}",
    "run.dir": "MARK",
    "sweep.dir": "MARK",
    "output_subdir": "MARK",
    "launcher._target_": "os.system",
    "launcher": "{setup: [touch MARK]}",
    "sweeper._target_": "os.system",
    "sweeper.storage": "sqlite:///MARK",
    "sweeper.params": "{hydra.job.env_set.A: '1'}",
    "verbose": "true",
}


@pytest.mark.parametrize("more", [(), ("-m", "experiment=nice,nice")])  # of all jobs, and of each
@pytest.mark.parametrize("key", every(6, CALLS))
def test_a_file_sets_nothing_that_hydra_calls(
    key: str, more: tuple[str, ...], tmp_path: Path, command: Command
) -> None:
    mark = tmp_path / "mark"
    text = f"{key}: {CALLS[key]}".replace("MARK", str(mark))
    *above, last = key.split(".")
    value = text.partition(": ")[2]
    lines = ["# @package _global_", "hydra:"] + [f"{'  ' * n}{name}:" for n, name in enumerate(above, 1)]
    lines.append(f"{'  ' * (len(above) + 1)}{last}: {value}")
    search = preset(tmp_path / "conf", "experiment/nice.yaml", "\n".join(lines) + "\n")
    words = more if any("nice" in word for word in more) else (*more, "experiment=nice")
    code, out, err = command(*words, search, "plan=true", *SMALLEST)
    assert code == 2, (out, err)
    refused = r"hydra\.\S+=.*: a configuration file asks for this|In 'experiment/nice'|hydra.sweeper.storage: |Key 's"
    assert re.match(f"error: ({refused})", err), err
    assert err.count("\n") == 1
    assert not mark.exists()
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["+hydra.job.env_set.SPARE=1"],
        ["hydra/job_logging=disabled"],
        ["hydra.verbose=true", "hydra.run.dir=."],
        ["-m", "seed=1,2", "hydra.sweep.dir=sweep"],
        ["-m", "experiment=demo", "method=full", "decoding=none"],
    ],
)
def test_what_is_typed_of_hydra_is_done(words: list[str], command: Command) -> None:
    code, _, err = command(*words, "plan=true", *SMALLEST)
    assert code == 0, err


def test_files_that_are_ones_own_may_call(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# @package _global_\nhydra:\n  callbacks:\n    mine: {_target_: hydra.experimental.callback.Callback}\n"
    search = preset(tmp_path / "conf", "experiment/nice.yaml", text)
    code, _, err = command(search, "experiment=nice", "plan=true", *SMALLEST)
    assert (code, "SCOPE_TRUST_HYDRA=1" in err) == (2, True)
    monkeypatch.setenv("SCOPE_TRUST_HYDRA", "1")
    code, _, err = command(search, "experiment=nice", "plan=true", *SMALLEST)
    assert code == 0, err


def test_a_file_does_not_choose_the_launcher(tmp_path: Path, command: Command) -> None:
    basic = "_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher\n"
    preset(tmp_path / "conf", "hydra/launcher/nice.yaml", basic)
    text = "# @package _global_\ndefaults:\n  - override /hydra/launcher: nice\n"
    search = preset(tmp_path / "conf", "experiment/nice.yaml", text)
    code, _, err = command("-m", search, "experiment=nice", "plan=true", "seed=1,2", *SMALLEST)
    assert (code, err.partition(":")[2].partition(":")[0]) == (2, " hydra/launcher=nice"), err
    code, _, err = command("-m", search, "experiment=nice", "hydra/launcher=nice", "plan=true", "seed=1,2", *SMALLEST)
    assert code == 0, err


@pytest.mark.parametrize("key", ["name", "output", "tracking.project", "tracking.entity"])
def test_a_secret_is_no_name(key: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset can read the environment; what it reads must not name a folder, or a place in W&B."""
    monkeypatch.setenv("MY_PAT", "unheard-of-value")
    code, _, err = command("tracking=wandb", "plan=true", *SMALLEST, f"{key}=x-${{oc.env:MY_PAT}}")
    assert code == 2
    assert err == f"error: {key}: holds a secret, and would be read by everybody: take another name\n"
