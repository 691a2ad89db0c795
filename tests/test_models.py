"""Loading a model, and what is said where it cannot be. Oracles: the errors that the hub's client and transformers are
documented to raise (the client is replaced: no test asks a network), and a model's files, changed byte by byte."""

import importlib.util
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
import torch
from golden import composed
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoTokenizer
from transformers.utils import logging

from scope.cache.backends import implementation
from scope.generation import models, places
from scope.generation.models import EMBEDDED, ModelSource, RandomModel, load
from scope.util.errors import ConfigError, ScopeError, SettingError

CONF = Path(__file__).parents[1] / "conf" / "model"
HUB_ID = "someone/a-model-that-nobody-has"


@pytest.fixture(autouse=True)
def nothing_loaded() -> Iterator[None]:
    models.load.cache_clear()
    places._commit.cache_clear()
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    models.load.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model, to be spoilt."""
    return Path(shutil.copytree(EMBEDDED, tmp_path / "model"))


def refusal(source: ModelSource) -> str:
    with pytest.raises(ScopeError) as refused:
        models.load(source)
    message = str(refused.value)
    assert "\n" not in message
    return message


def spoilt(folder: Path, file: str, change: Callable[[bytes], bytes]) -> None:
    path = folder / file
    path.write_bytes(change(path.read_bytes()))


def with_setting(**values: object) -> Callable[[bytes], bytes]:
    return lambda text: json.dumps(json.loads(text) | values).encode()


# folders

SPOILT: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "config that is not JSON": ("config.json", lambda _: b"{nope"),
    "config that is a list": ("config.json", lambda _: b"[1]"),
    "config of nothing": ("config.json", lambda _: b"{}"),
    "config of an unknown kind": ("config.json", with_setting(model_type="nonesuch")),
    "config of another size": ("config.json", with_setting(hidden_size=64)),
    "weights cut short": ("model.safetensors", lambda weights: weights[: len(weights) // 2]),
    "weights of nothing": ("model.safetensors", lambda _: b""),
    "tokenizer that is not JSON": ("tokenizer.json", lambda _: b"{"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_folder_is_one_line(case: str, folder: Path) -> None:
    file, change = SPOILT[case]
    spoilt(folder, file, change)
    assert refusal(ModelSource(path=str(folder))).startswith(f"model.path={folder}: cannot be loaded: ")


@pytest.mark.parametrize(
    ("file", "why"), [("config.json", "no config.json"), ("model.safetensors", "cannot be loaded")]
)
def test_a_folder_that_lacks_a_file_is_one_line(file: str, why: str, folder: Path) -> None:
    (folder / file).unlink()
    message = refusal(ModelSource(path=str(folder)))
    assert message.startswith(f"model.path={folder}: ")
    assert why in message


def test_a_folder_that_lacks_its_tokenizer_says_so(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    message = refusal(ModelSource(path=str(folder)))
    assert message.startswith(f"model.path={folder}: cannot be loaded: ")
    assert not message.rstrip().endswith(":")  # the reason goes on


@pytest.mark.parametrize("name", ["nothing/here/at all", "./missing", "/missing/folder"])
def test_a_folder_that_is_not_there_is_one_line(
    name: str, hub: Callable[[type[Exception]], list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = hub(OSError)
    assert refusal(ModelSource(path=name)).startswith(f"model.path={name}: there is no such folder")
    assert not asked


def test_a_copy_of_the_embedded_model_loads_and_runs(folder: Path) -> None:
    loaded = models.load(ModelSource(path=str(folder), dtype="float32", device="cpu"))
    assert loaded.model.config._attn_implementation == implementation("sdpa")
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert loaded.tokenizer.padding_side == "left"


# the hub


def hub_error(kind: type[Exception]) -> Exception:
    request = httpx.Request("GET", f"https://hub.example/api/models/{HUB_ID}/auth-check")
    if issubclass(kind, httpx.RequestError):
        return kind("two lines\nof trouble", request=request)
    if kind is OSError:
        return kind("[Errno 101] unreachable")
    return kind("two lines\nof trouble", response=httpx.Response(403, request=request))  # type: ignore[call-arg]


OLD, NEW = "1" * 40, "2" * 40  # commits


def answering(monkeypatch: pytest.MonkeyPatch, commit: str) -> None:
    """Have the hub say that a branch stands at that commit."""
    monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", lambda *_, **__: None)
    info = huggingface_hub.ModelInfo(id=HUB_ID, sha=commit)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)


HUB = [
    (GatedRepoError, "is gated", "hf auth login"),
    (RepositoryNotFoundError, "is not on the hub", "hf auth login"),
    (httpx.ConnectError, "cannot be reached", f"hf download {HUB_ID}"),
    (httpx.ReadTimeout, "cannot be reached", f"hf download {HUB_ID}"),
    (OSError, "cannot be reached", f"hf download {HUB_ID}"),
]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Exception]], list[str]]:
    """Have the hub answer every question about a model by that error; -> what it was asked."""

    def answer(kind: type[Exception]) -> list[str]:
        asked: list[str] = []

        def auth_check(_self: object, repo: str, *_: object, **__: object) -> None:
            asked.append(repo)
            raise hub_error(kind)

        monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", auth_check)
        return asked

    return answer


@pytest.mark.parametrize(("kind", "why", "advice"), HUB)
def test_what_the_hub_refuses_is_one_line_with_a_way_out(
    kind: type[Exception], why: str, advice: str, hub: Callable[[type[Exception]], list[str]]
) -> None:
    asked = hub(kind)
    message = refusal(ModelSource(path=HUB_ID))
    assert message.startswith(f"model.path={HUB_ID}: ")
    assert why in message
    assert advice in message
    assert asked == [HUB_ID]  # once: no retries that a user would wait for


@pytest.mark.parametrize("kind", [GatedRepoError, httpx.ConnectError, None])
def test_files_come_from_the_disk_where_the_hub_does_not_answer(
    kind: type[Exception] | None, hub: Callable[[type[Exception]], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: f"/snapshots/{OLD}/config.json")
    if kind is None:
        answering(monkeypatch, NEW)
    else:
        hub(kind)
    given: list[dict[str, Any]] = []

    def from_pretrained(_name: str, **settings: Any) -> None:
        given.append(settings)
        raise OSError("enough seen")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    assert refusal(ModelSource(path=HUB_ID, revision="v2")).endswith("cannot be loaded: enough seen")
    assert given[0]["local_files_only"] == (kind is not None)
    assert given[0]["revision"] == (NEW if kind is None else OLD)  # the commit, and not the name of a branch


# settings


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed here")
def test_flash_attention_that_is_absent_names_its_install_line() -> None:
    message = refusal(ModelSource(attention="flash_attention_2"))
    assert message.startswith("attention=flash_attention_2 ")
    assert "pip install -e '.[flash]'" in message


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is not None, reason="accelerate is installed here")
def test_a_device_map_without_accelerate_is_one_line() -> None:
    message = refusal(ModelSource(device_map="auto"))
    assert message == "model.device_map=auto: needs accelerate: pip install -e '.[accelerate]'"


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "int8"},
        {"attention": "flex"},
        {"threads": 0},
        {"threads": 1.5},
        {"threads": 10**30},
        {"device": "abacus"},
        {"device": "meta"},
        {"device": 0},
        {"device": None},
        {"device_map": "meta"},
        {"device_map": 1},
        {"device_map": {"lm_head": "cpu"}},
        {"path": 5},
        {"path": ""},
        {"path": "a\0b"},
        {"revision": 123},
        {"revision": 10**40},
        {"revision": ""},
        {"revision": ["main"]},
        {"template": ["x"]},
        {"template": "x"},
        {"template": {"x": {"y": 1}}},
        {"template": {"x": float("nan")}},
        {"template": {"x": [[1]]}},
        {"template": {"not a name": 1}},
        {"template": {3: 1}},
        {"template": {"tokenize": True}},
        {"template": {"chat_template": "{{ 1 }}"}},
        {"template": {"strftime_now": "x"}},
        {"template": {"x": 1}, "layout": "plain"},
        {"template_date": "26 Jul 2024"},
        {"template_date": "2024-02-30"},
        {"template_date": 20240726},
        {"template_date": "20240726"},
        {"template_date": "2024-07-26", "layout": "paper"},
        {"thinking": "<think>"},
        {"thinking": ["<think>"]},
        {"thinking": ["<think>", ""]},
        {"thinking": ["a", "a"]},
        {"thinking": ["a", 1]},
        {"thinking": True},
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        ModelSource(**settings)


def test_threads_are_torchs() -> None:
    before = torch.get_num_threads()
    models.load(ModelSource(device="cpu"))
    assert torch.get_num_threads() == before
    models.load(ModelSource(device="cpu", threads=before + 1))
    assert torch.get_num_threads() == before + 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_model_runs_as_asked(dtype: str, attention: str) -> None:
    model = models.load(ModelSource(device="cpu", dtype=dtype, attention=attention)).model
    assert model.dtype == getattr(torch, dtype)
    assert model.config._attn_implementation == implementation(attention)


@pytest.mark.parametrize("name", [path.stem for path in sorted(CONF.glob("*.yaml"))])
def test_every_model_composes(name: str) -> None:
    source = composed(f"model={name}", *(["model.path=some/where"] if name == "hf" else [])).model
    if name == "embedded":
        assert source == ModelSource(dtype="float32", threads=1, layout="plain")
        return
    if name == "random":
        assert source == RandomModel(dtype="float32", layout="plain")
        return
    assert source == ModelSource(path=source.path, dtype="auto")
    assert name == "hf" or source.path == name or re.fullmatch(r"[\w.-]+/[\w.-]+", source.path)


def test_the_papers_models_and_a_laptops_are_there() -> None:
    paths = {composed(f"model={path.stem}").model.path for path in CONF.glob("*.yaml") if path.stem != "hf"}
    assert paths == {
        "embedded",
        "random",
        "smollm2",
        "gemma3_270m",
        "meta-llama/Llama-3.1-8B-Instruct",
        "mistralai/Mistral-7B-Instruct-v0.3",
        "Qwen/Qwen3-8B",
        "Qwen/Qwen2.5-7B-Instruct",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    }


def test_a_model_of_ones_own_needs_its_path() -> None:
    with pytest.raises(ConfigError, match=r"^model\.path: must be given$"):
        composed("model=hf")


# fingerprints


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder of a model with 5 MiB of weights."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * (5 << 12))
    return folder


def print_of(folder: Path) -> str:
    return ModelSource(path=str(folder)).fingerprint()


@pytest.mark.parametrize("at", [0, 1000, 900_000, -1000, -1])
def test_a_fingerprint_tells_a_weight_apart(at: int, weights: Path, folder: Path) -> None:
    for place in (weights, folder):
        before = print_of(place)

        def flipped(data: bytes) -> bytes:
            changed = bytearray(data)
            changed[at] ^= 1
            return bytes(changed)

        spoilt(place, "model.safetensors", flipped)
        assert print_of(place) != before
        spoilt(place, "model.safetensors", flipped)
        assert print_of(place) == before


def test_a_fingerprint_is_the_contents_and_not_the_place(weights: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(weights, tmp_path / "elsewhere"))
    assert print_of(elsewhere) == print_of(weights)
    spoilt(elsewhere, "model.safetensors", lambda data: data + b"\0")
    assert print_of(elsewhere) != print_of(weights)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.model", "pytorch_model.bin"])
def test_a_fingerprint_is_of_all_that_changes_an_answer(file: str, weights: Path) -> None:
    (weights / file).write_text("one")
    before = print_of(weights)
    (weights / file).write_text("two")
    assert print_of(weights) != before


def test_a_hub_ids_fingerprint_is_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, OLD)
    assert ModelSource(path=HUB_ID).fingerprint() == OLD
    answering(monkeypatch, NEW)
    assert ModelSource(path=HUB_ID).fingerprint() == OLD  # what this process loads
    places._commit.cache_clear()  # another process
    assert ModelSource(path=HUB_ID).fingerprint() == NEW


def test_a_branch_that_moved_is_another_run_without_a_network_too(
    tmp_path: Path, hub: Callable[[type[Exception]], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the client lays its cache out: refs/<branch> names the folder below snapshots/."""
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub(OSError)
    cache = tmp_path / f"models--{HUB_ID.replace('/', '--')}"
    (cache / "refs").mkdir(parents=True)
    for commit in (OLD, NEW):
        shutil.copytree(EMBEDDED, cache / "snapshots" / commit)
        spoilt(cache / "snapshots" / commit, "config.json", with_setting(max_position_embeddings=int(commit[0]) * 1000))
        (cache / "refs" / "main").write_text(commit)
        places._commit.cache_clear()
        assert ModelSource(path=HUB_ID).fingerprint() == commit
        assert ModelSource(path=HUB_ID, revision=OLD).fingerprint() == OLD
    for revision, context in ((None, 2000), (OLD, 1000)):  # what is hashed is what is loaded
        source = ModelSource(path=HUB_ID, revision=revision, device="cpu")
        assert models.load(source).model.config.max_position_embeddings == context


def test_a_revision_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, OLD)

    def model_info(*_: object, **__: object) -> None:
        request = httpx.Request("GET", "https://hub.example")
        raise RevisionNotFoundError("none", response=httpx.Response(404, request=request))

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    assert refusal(ModelSource(path=HUB_ID, revision="v9")).startswith("model.revision=v9: ")
    assert refusal(ModelSource(revision="v9")).startswith("model.revision=v9: must be null")


def test_the_last_model_stays_loaded() -> None:
    first = models.load(ModelSource(device="cpu"))
    assert models.load(ModelSource(device="cpu")) is first
    assert models.load(ModelSource(device="cpu", dtype="bfloat16")) is not first


def test_a_random_model_has_the_shape_that_was_asked_for_and_weights_of_its_seed() -> None:
    source = RandomModel(num_hidden_layers=2, hidden_size=64, intermediate_size=96)
    loaded, again = load(source), source.weights("scope_sdpa")
    config = loaded.model.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (2, 64, 96)
    assert config.num_attention_heads == 8  # the preset's
    assert torch.equal(loaded.model.lm_head.weight, again.lm_head.weight)
    other = RandomModel(num_hidden_layers=2, hidden_size=64, intermediate_size=96, seed=1)
    assert not torch.equal(loaded.model.lm_head.weight, other.weights("scope_sdpa").lm_head.weight)
    assert len({source.fingerprint(), other.fingerprint(), RandomModel().fingerprint()}) == 3


def test_a_random_model_refuses_what_cannot_be() -> None:
    for wrong in ({"preset": "huge"}, {"hidden_size": 500}, {"num_key_value_heads": 3}, {"num_hidden_layers": 0}):
        with pytest.raises(SettingError):
            RandomModel(**wrong)  # type: ignore[arg-type]


def test_weights_load_without_bars_and_the_users_own_setting_stays(capfd: pytest.CaptureFixture[str]) -> None:
    for drawn in (True, False):
        (logging.enable_progress_bar if drawn else logging.disable_progress_bar)()
        ModelSource(str(EMBEDDED)).weights("sdpa")
        assert logging.is_progress_bar_enabled() == drawn
    logging.enable_progress_bar()
    assert "Loading weights" not in capfd.readouterr().err


def test_bytes_that_a_step_reads_are_those_of_the_weights_it_multiplies_by() -> None:
    """Of a tied embedding all is read, since it is the output layer too; of another one a row a token."""
    tied = load(ModelSource(path="embedded", device="cpu", dtype="float32")).model
    whole = sum(weight.nbytes for weight in tied.parameters())
    apart = RandomModel(device="cpu").weights("sdpa")
    rest = sum(weight.nbytes for name, weight in apart.named_parameters() if "embed_tokens" not in name)
    assert tied.config.tie_word_embeddings
    assert models.bytes_read(tied.config, "float32") == whole
    assert models.bytes_read(apart.config, "bfloat16") == rest // 2
