"""A cache in a file goes on as it would have. Oracle: the cache that was saved, going on in memory."""

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from helpers.caches import KINDS, SLIDE, SNAPKV, Kind
from helpers.quick import every, later
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import LAYERS, made_up_statistics, stored, tiny

import scope
from scope import decoding
from scope.cache import CompressedCache, Policy
from scope.decoding import Slide
from scope.util.errors import ScopeError


@pytest.mark.parametrize("name", every(2, KINDS))
@pytest.mark.parametrize("before", [0, later(4), 11])
@torch.no_grad()
def test_a_loaded_cache_decodes_as_the_saved_one(name: str, before: int, tmp_path: Path) -> None:
    kind, file = KINDS[name], tmp_path / "cache.safetensors"
    model = tiny(kind.family)
    cache, logits = kind.read()
    _, logits = kind.greedy(cache, logits, before)
    cache.save(file, model)
    loaded = CompressedCache.load(file, model)
    assert loaded.policy == kind.policy
    assert loaded.summary() == cache.summary()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert kind.greedy(loaded, logits, 14)[0] == kind.greedy(cache, logits, 14)[0]
    for layer in range(LAYERS):
        assert stored(loaded, layer) == stored(cache, layer)
    assert loaded.summary() == cache.summary()
    assert [loaded.trace(row, before + 14) for row in range(3)] == [cache.trace(row, before + 14) for row in range(3)]


@torch.no_grad()
def test_a_prompt_is_saved_and_answered_later_by_several_rows(tmp_path: Path) -> None:
    kind, file = KINDS["int4"], tmp_path / "prompt.safetensors"
    cache, logits = kind.read()
    cache.save(str(file), tiny())
    forked = CompressedCache.load(str(file), tiny()).fork([1, 1, 0])
    tokens, _ = kind.greedy(forked, logits[[1, 1, 0]], 12)
    expected, _ = kind.greedy(cache, logits, 12)
    assert tokens == [[row[1], row[1], row[0]] for row in expected]


@torch.no_grad()
def test_a_stock_model_goes_on_in_transformers_own_generate(tmp_path: Path) -> None:
    kind, ids = KINDS["slots"], torch.tensor([[*range(3, 33)]])
    cache = kind.empty()
    some = tiny().generate(ids, past_key_values=cache, max_new_tokens=5, do_sample=False)
    cache.save(tmp_path / "cache", tiny())
    stock = copy.deepcopy(tiny("llama", "sdpa"))
    loaded = CompressedCache.load(tmp_path / "cache", stock)
    ways = [
        model.generate(some, past_key_values=each, max_new_tokens=9, do_sample=False)
        for model, each in ((stock, loaded), (tiny(), cache))
    ]
    assert ways[0].tolist() == ways[1].tolist()


def saved(folder: Path, kind: Kind = KINDS["slots"]) -> Path:
    cache, _ = kind.read()
    cache.save(folder / "cache.safetensors", tiny(kind.family))
    return folder / "cache.safetensors"


@torch.no_grad()
def test_another_model_is_refused_in_one_line(tmp_path: Path) -> None:
    file = saved(tmp_path)
    trained = copy.deepcopy(tiny())
    for weight in trained.parameters():
        weight.mul_(1.001)
    turned = copy.deepcopy(tiny())
    turned.config.rope_parameters = {"rope_theta": 7.0, "rope_type": "default"}
    for model, told in (
        (trained, r"weights=\w{40}: must be \w{40} to go on here"),
        (turned, r"config\.rope_parameters=.*10000\.0.*: must be .*7\.0"),
        (tiny("qwen3"), r"config\.\w+=.*: must be"),
        (tiny(dtype=torch.float32), "dtype=float64: must be float32 to go on here"),
    ):
        with pytest.raises(ScopeError, match=told) as caught:
            CompressedCache.load(file, model)
        assert str(caught.value).startswith(f"{file}: ")
        assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Mine(Slide):
    """A strategy that is not scope's own."""


@torch.no_grad()
def test_the_policy_is_checked_and_made_anew_where_it_can_be(tmp_path: Path) -> None:
    file, policy = saved(tmp_path), KINDS["slots"].policy
    assert CompressedCache.load(file, tiny(), policy).policy == policy
    with pytest.raises(ScopeError, match=r"policy\.precision=float: must be int8"):
        CompressedCache.load(file, tiny(), replace(policy, precision="int8"))
    with pytest.raises(ScopeError, match=r"policy\.decoding=.*'budget': 8.*: must be .*'budget': 9"):
        CompressedCache.load(file, tiny(), replace(policy, decoding=Slide(9, 4)))
    for strategy in (Mine(8, 4), decoding.TriAttention(8, 4, statistics=made_up_statistics())):
        own = Kind(Policy(SNAPKV, strategy))
        file = saved(tmp_path, own)
        with pytest.raises(ScopeError, match=r"policy=.*: must be given, as load\(file, model, policy=\.\.\.\)"):
            CompressedCache.load(file, tiny())
        loaded, (cache, logits) = CompressedCache.load(file, tiny(), own.policy), own.read()
        assert own.greedy(loaded, logits, 12)[0] == own.greedy(cache, logits, 12)[0]


@torch.no_grad()
def test_another_version_a_damaged_file_and_another_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path)
    with monkeypatch.context() as changed:
        changed.setattr(scope, "__version__", "9.9")
        with pytest.raises(ScopeError, match=rf"scope={scope.__version__.replace('9.9', '.*')}: must be 9\.9"):
            CompressedCache.load(file, tiny())
    whole = file.read_bytes()
    for at in (len(whole) - 3, len(whole) // 2):  # a bit of the tensors, or of the state
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ScopeError, match="damaged"):
            CompressedCache.load(file, tiny())
    file.write_bytes(whole[:-10])
    with pytest.raises(ScopeError, match="damaged"):
        CompressedCache.load(file, tiny())
    save_file({"weight": torch.zeros(2)}, file)
    with pytest.raises(ScopeError, match="is no cache that was saved"):
        CompressedCache.load(file, tiny())
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(ScopeError, match=place.name):
            CompressedCache.load(place, tiny())


@torch.no_grad()
def test_what_cannot_be_saved_says_so(tmp_path: Path) -> None:
    with pytest.raises(ScopeError, match="the prompts go through the cache first"):
        KINDS["slots"].empty().save(tmp_path / "cache", tiny())
    cache, _ = KINDS["slots"].read()
    with pytest.raises(ScopeError, match="No such file or directory"):
        cache.save(tmp_path / "none" / "cache", tiny())


@torch.no_grad()
def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    with safe_open(saved(tmp_path), "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    assert facts["scope"] == scope.__version__
    assert facts["policy"]["decoding"] == {"type": "scope.decoding.slide.Slide"} | vars(SLIDE)
    assert (facts["config"]["model_type"], facts["dtype"]) == ("llama", "float64")
