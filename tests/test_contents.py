"""What makes two model folders the same: every byte of every file that can change an answer. Oracles: files changed by
hand, and a reader that counts how often a file is opened."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scope.generation import contents, places
from scope.generation.contents import hash_folder
from scope.generation.models import ModelSource
from scope.util.errors import ScopeError

MANY = 5 << 20


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, an empty one."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: folder / name)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder as a model's is, with 5 MiB of weights that are an hour old."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(MANY))
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read to be hashed."""
    names: list[str] = []
    digest = contents.hashlib.file_digest

    def noting(stream: object, *arguments: object) -> object:
        names.append(Path(str(getattr(stream, "name", ""))).name)
        return digest(stream, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(contents.hashlib, "file_digest", noting)
    return names


def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a while had passed since the files were written."""
    now = time.time_ns
    monkeypatch.setattr(contents.time, "time_ns", lambda: now() + 10 * 10**9)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("at", [0, 1 << 20, MANY // 2, MANY - (1 << 20) - 1, MANY - 1])
def test_a_bit_anywhere_in_the_weights_is_another_model(model: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(monkeypatch)
    before = hash_folder(model)
    flip(model / "model.safetensors", at)
    assert hash_folder(model) != before
    flip(model / "model.safetensors", at)
    assert hash_folder(model) == before


@pytest.mark.parametrize(
    "file",
    [
        "tokenizer.json",
        "tokenizer.model",
        "vocab.json",
        "merges.txt",
        "qwen.tiktoken",
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
        "generation_config.json",
        "modeling_mine.py",
        "layers/attention.py",
        "license.py",
        "adapter_config.json",
        "adapter_model.safetensors",
        "model.safetensors.index.json",
        "model-00002-of-00002.safetensors",
        "pytorch_model.bin",
        "model.pt",
        "model.gguf",
        "weights.of_a_kind_to_come",
    ],
)
def test_every_file_that_can_change_an_answer_counts(model: Path, file: str) -> None:
    path = model / file
    path.parent.mkdir(exist_ok=True)
    seen = [hash_folder(model)]
    for text in ("{}", "{ }", ""):
        path.write_text(text)
        seen.append(hash_folder(model))
    path.rename(model / f"other{path.suffix}")
    seen.append(hash_folder(model))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    "file",
    ["README.md", "LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md", "figures/curve.png", ".gitattributes",
     ".git/HEAD", ".cache/huggingface/download/model.lock", "__pycache__/modeling.cpython-311.pyc"],
)  # fmt: skip
def test_what_cannot_change_an_answer_does_not_count(model: Path, file: str) -> None:
    before = hash_folder(model)
    (model / file).parent.mkdir(parents=True, exist_ok=True)
    (model / file).write_text("anything")
    assert hash_folder(model) == before


def test_links_are_followed_and_lead_no_one_round(model: Path, tmp_path: Path) -> None:
    """As in the hub's cache, where every file of a snapshot is a link to a blob."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in model.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert hash_folder(snapshot) == hash_folder(model)
    flip(model / "model.safetensors", 77)
    assert hash_folder(snapshot) == hash_folder(model)
    before = hash_folder(snapshot)
    code = tmp_path / "code"
    code.mkdir()
    (code / "modeling.py").write_text("a")
    (snapshot / "code").symlink_to(code, target_is_directory=True)
    (code / "back").symlink_to(snapshot, target_is_directory=True)
    with_code = hash_folder(snapshot)
    (code / "modeling.py").write_text("b")
    assert len({before, with_code, hash_folder(snapshot)}) == 3


def test_a_large_file_is_read_once(model: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settled(monkeypatch)
    first = hash_folder(model)
    assert "model.safetensors" in opened
    opened.clear()
    assert hash_folder(model) == first
    assert opened == ["config.json"]  # a small one is read faster than looked up
    elsewhere = Path(shutil.copytree(model, model.with_name("elsewhere")))
    assert hash_folder(elsewhere) == first  # the contents, and not the place


def test_a_file_that_was_just_written_is_not_remembered(model: Path, opened: list[str]) -> None:
    """It could be written again within the same tick of the clock."""
    hash_folder(model)
    opened.clear()
    hash_folder(model)
    assert "model.safetensors" in opened


REPLACED: dict[str, Callable[[Path], None]] = {
    "written in place": lambda path: flip(path, 3 << 20),
    "renamed over": lambda path: _renamed_over(path),
    "its folder exchanged": lambda path: _folder_exchanged(path.parent),
}


def _renamed_over(path: Path) -> None:
    other = path.with_name(".draft")
    shutil.copy2(path, other)
    flip(other, 3 << 20)
    other.replace(path)


def _folder_exchanged(folder: Path) -> None:
    other = Path(shutil.copytree(folder, folder.with_name("other")))
    flip(other / "model.safetensors", 3 << 20)
    shutil.copystat(folder / "model.safetensors", other / "model.safetensors")
    folder.rename(folder.with_name("old"))
    other.rename(folder)


@pytest.mark.parametrize("way", REPLACED)
def test_another_file_of_the_same_size_and_date_is_seen(model: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(monkeypatch)
    path = model / "model.safetensors"
    before, there = hash_folder(model), path.stat()
    REPLACED[way](path)
    os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (there.st_size, there.st_mtime_ns)
    assert hash_folder(model) != before


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda text: text[: len(text) // 2],
    "no JSON": lambda _: b"\xff{[",
    "another digit": lambda text: text.replace(b'"]', b'0"]') if b'0"]' not in text else text.replace(b'0"]', b'1"]'),
    "a list of nothing": lambda _: b"[]\n",
    "nested": lambda _: b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_damaged_memory_is_ignored_and_mended(
    model: Path, cache: Path, how: str, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(monkeypatch)
    first = hash_folder(model)
    (memory,) = [path for path in cache.rglob("*") if path.is_file()]
    memory.write_bytes(SPOILT[how](memory.read_bytes()))
    opened.clear()
    assert hash_folder(model) == first
    assert "model.safetensors" in opened
    opened.clear()
    assert hash_folder(model) == first
    assert "model.safetensors" not in opened


def test_a_cache_folder_that_cannot_be_made_costs_nothing_but_time(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(monkeypatch)
    with_cache = hash_folder(model)
    shutil.rmtree(cache)
    cache.write_text("a file where the folder should be")
    assert hash_folder(model) == with_cache


def test_a_file_that_cannot_be_read_is_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(model / "model.safetensors"))

    monkeypatch.setattr(contents.hashlib, "file_digest", refuse)
    with pytest.raises(ScopeError, match=r"model\.safetensors: cannot be read: Permission denied$"):
        hash_folder(model)


# in a model's fingerprint


def fingerprint(folder: Path, **settings: bool) -> str:
    return ModelSource(path=str(folder), **settings).fingerprint()  # type: ignore[arg-type]


def test_an_adapters_base_counts(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    (adapter / "adapter_model.safetensors").write_bytes(b"one")
    seen = [fingerprint(adapter)]
    flip(model / "model.safetensors", MANY // 2)
    seen.append(fingerprint(adapter))
    (adapter / "adapter_model.safetensors").write_bytes(b"two")
    seen.append(fingerprint(adapter))
    assert len({*seen, fingerprint(model)}) == 4


@pytest.mark.parametrize("config", [{}, {"base_model_name_or_path": None}, {"base_model_name_or_path": "SELF"}])
def test_an_adapter_without_a_base_is_one_line(tmp_path: Path, config: dict[str, object]) -> None:
    own = {"base_model_name_or_path": str(tmp_path)} if "SELF" in config.values() else config
    (tmp_path / "adapter_config.json").write_text(json.dumps(own))
    with pytest.raises(
        ScopeError, match=r"^model\.path=.*(names no base model|is an adapter too, and so on, 8 times)$"
    ):
        fingerprint(tmp_path)


def test_code_from_another_folder_counts_where_code_is_run(model: Path, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "modeling.py").write_text("one")
    (model / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": f"{code}--modeling.Mine"}}))
    trusted, plain = fingerprint(model, trust_remote_code=True), fingerprint(model)
    (code / "modeling.py").write_text("two")
    assert fingerprint(model, trust_remote_code=True) != trusted
    assert fingerprint(model) == plain


def test_code_from_the_hub_counts_by_its_commit(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_at(commit: str) -> None:
        monkeypatch.setattr(places, "_commit", lambda name, _: places.Place(name, commit, local=True))

    listed = {"AutoTokenizer": ["someone/code--tokens.Slow", None]}
    (model / "tokenizer_config.json").write_text(json.dumps({"auto_map": listed}))
    source = ModelSource(path=str(model), trust_remote_code=True)
    stand_at("a" * 40)
    before = source.fingerprint()
    assert source._files(source.place())["code_revision"] == "a" * 40  # what is hashed is what is run
    stand_at("b" * 40)
    assert source.fingerprint() != before
