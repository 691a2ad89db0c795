"""kvpress scorers as prefill methods, on a stand-in for the package with the same interface: a base class of scorers,
presses of each kind, and an import that wraps transformers' attention functions. `experiments/kvpress_oracle.py`
compares with kvpress itself. Oracles: what a forward pre-hook of our own sees of a stock model; the press, called by
hand on each row without its padding."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers.command import Scope
from tiny_models import DIM, FAMILIES, HEADS, LAYERS, WORDS, generate, random_prompts, tiny
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from scope.cache.inputs import layer_inputs, taken
from scope.decoding import KeepAll
from scope.generation.rows import pad_left
from scope.policy.attention import Attention, LayerInputs
from scope.policy.plan import View
from scope.policy.rule import Rule
from scope.prefill import KVPress
from scope.prefill.kvpress import load
from scope.util.errors import ScopeError, SettingError

STAND_IN = """
from dataclasses import dataclass
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

for name, function in ALL_ATTENTION_FUNCTIONS.items():
    ALL_ATTENTION_FUNCTIONS[name] = lambda *given, wrapped=function, **more: wrapped(*given, **more)

SEEN = []

class BasePress:
    def post_init_from_model(self, model): pass
    def compress(self, *given): raise NotImplementedError
    def forward_hook(self, *given): self.compress(*given)
    def __call__(self, model): raise NotImplementedError

@dataclass
class ScorerPress(BasePress):
    compression_ratio: float = 0.0
    def score(self, module, hidden_states, keys, values, attentions, kwargs): raise NotImplementedError
    def compress(self, *given): raise AssertionError("only score is to be called")

@dataclass
class MixedPress(ScorerPress):
    weight: float = 1.0
    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        SEEN.append((self.compression_ratio, hidden_states, keys, values, attentions, kwargs))
        assert keys.shape[2] > 50, "too short for me"
        cos, sin = kwargs["position_embeddings"]
        turned = (keys * cos[:, None] + values * sin[:, None]).sum(-1)
        told = hidden_states.float() @ module.q_proj.weight.float().T
        return turned + self.weight * told.mean(-1)[:, None] + module.rotary_emb.inv_freq.sum()

@dataclass
class DrawingPress(ScorerPress):
    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        return torch.rand(keys.shape[:3])

@dataclass
class ObservedAttentionPress(ScorerPress):
    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        return attentions.sum(2).view(*keys.shape[:2], -1, keys.shape[2]).mean(2)

@dataclass
class TurningPress(ScorerPress):
    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        cos, sin = module.rotary_emb(hidden_states, torch.arange(keys.shape[2])[None])
        return (keys * cos[:, None]).sum(-1)

class MergingPress(BasePress):
    def forward_hook(self, *given): pass

@dataclass
class PyramidPress(ScorerPress):
    def score(self, *given): return given[2].sum(-1)
    def compress(self, *given): pass

@dataclass
class LearnedPress(ScorerPress):
    def post_init_from_model(self, model): pass

__all__ = ["BasePress", "ScorerPress", "MixedPress", "DrawingPress", "ObservedAttentionPress", "MergingPress",
           "PyramidPress", "LearnedPress", "TurningPress"]
"""
C, LENGTHS = 20, (51, 64, 12)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "kvpress.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "kvpress", raising=False)
    yield load()
    sys.modules.pop("kvpress", None)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kvpress", None)


def test_importing_it_leaves_transformers_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def local(*given: Any, **more: Any) -> None:
        """Somebody's own, which hides the registered one."""

    registered = ALL_ATTENTION_FUNCTIONS["sdpa"]
    ALL_ATTENTION_FUNCTIONS["flex_attention"] = local
    try:
        before = dict(ALL_ATTENTION_FUNCTIONS.items())
        (tmp_path / "kvpress.py").write_text(STAND_IN)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "kvpress", raising=False)
        load()
        assert dict(ALL_ATTENTION_FUNCTIONS.items()) == before
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is registered
        monkeypatch.setitem(type(ALL_ATTENTION_FUNCTIONS)._global_mapping, "sdpa", local)
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is local  # and what is registered from now on is not hidden
    finally:
        del ALL_ATTENTION_FUNCTIONS["flex_attention"]
        sys.modules.pop("kvpress", None)


def test_without_the_package_it_says_how_to_install_it(absent: None) -> None:
    with pytest.raises(ScopeError, match=r"^kvpress is not installed: pip install .*kvpress==") as refused:
        KVPress(C, press="KnormPress")
    assert "\n" not in str(refused.value)


def test_on_the_command_line_too(scope: Scope, absent: None) -> None:
    said = scope("method=kvpress", "method.press=KnormPress", code=2)
    assert said.err.count("\n") == 1
    assert "pip install" in said.err


def test_a_press_has_to_be_named(scope: Scope, package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    said = scope("method=kvpress", code=2)
    named = "method.press=null: must be the name of a press, such as ExpectedAttentionPress"
    assert said.err == f"error: {named}\n"
    monkeypatch.setitem(sys.modules, "kvpress", None)
    said = scope("method=kvpress", code=2)
    assert said.err.startswith(f"error: {named}; and kvpress is not installed: pip install ")
    assert said.err.count("\n") == 1


def test_settings_reach_the_press_from_the_command_line(scope: Scope, package: ModuleType) -> None:
    said = scope("method=kvpress", "method.press=MixedPress", "method.args={wait: 2}", code=2)
    assert said.err == "error: method.args={'wait': 2}: must be settings of MixedPress: weight\n"
    said = scope("method=kvpress", "method.press=MixedPress", "method.args=5", code=2)
    assert said.err == "error: method.args=5: must be a mapping of settings: weight\n"
    said = scope("method=kvpress", "method.press=MixedPress", "method.args={weight: 2}", "plan=true")
    assert "kvpress" in said.out


@pytest.mark.parametrize("press", ["MergingPress", "PyramidPress", "LearnedPress", "ScorerPress", "Nothing", "torch"])
def test_what_does_more_than_score_is_refused_with_those_that_work(press: str, package: ModuleType) -> None:
    working = "DrawingPress, MixedPress, ObservedAttentionPress, TurningPress"
    with pytest.raises(SettingError, match=f"^KVPress.press={press}: must be a press that only scores: {working}$"):
        KVPress(C, press=press)


def test_the_ratio_is_the_budgets(package: ModuleType) -> None:
    with pytest.raises(SettingError, match="must be settings of MixedPress: weight"):
        KVPress(C, press="MixedPress", args={"compression_ratio": 0.5})


def noted(family: str, chunk: int | None = None) -> tuple[list[LayerInputs | None], list[dict[str, Any]], Attention]:
    """A stock model over a ragged batch: what was noted in each layer, what a hook of ours saw, and a layer of it."""
    model = tiny(family, "sdpa")
    seen: list[dict[str, Any]] = []
    attentions = [layer.self_attn for layer in model.model.layers]
    hooks = [
        m.register_forward_pre_hook(lambda m, a, k: seen.append({"m": m} | k), with_kwargs=True) for m in attentions
    ]
    ids, real, positions = pad_left(random_prompts(*LENGTHS), 0, torch.device("cpu"))
    cache = DynamicCache()
    with torch.inference_mode(), layer_inputs(model):
        for start in range(0, ids.shape[1], chunk or ids.shape[1]):
            stop = start + (chunk or ids.shape[1])
            model(
                ids[:, start:stop],
                attention_mask=real[:, :stop].long(),
                position_ids=positions[:, start:stop],
                past_key_values=cache,
            )
        found = [taken(m) for m in attentions]
        model(ids[:, -1:], past_key_values=cache)  # a decode step
        assert [taken(m) for m in attentions] == [None] * LAYERS
    for hook in hooks:
        hook.remove()
    columns, lots = torch.where(real, positions, -1).int(), torch.Generator().manual_seed(0)
    attention = Attention(
        queries=torch.randn(len(LENGTHS), 2 * HEADS, ids.shape[1], DIM, generator=lots, dtype=torch.float64),
        keys=cache.layers[1].keys[:, :, :-1],
        values=cache.layers[1].values[:, :, :-1],
        positions=columns[:, None].expand(-1, HEADS, -1),
        query_positions=columns,
        rule=Rule(0.3),
        layer=1,
        inputs=found[1],
    )
    return found, seen, attention


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_noted_is_what_each_layer_was_given(family: str) -> None:
    model = tiny(family, "sdpa")
    state = list(model.state_dict())
    found, seen, _ = noted(family)
    for layer in range(LAYERS):
        noted_here, given = found[layer], seen[layer]
        assert noted_here is not None
        assert noted_here.module is given["m"] is model.model.layers[layer].self_attn
        assert torch.equal(noted_here.hidden_states, given["hidden_states"])
        assert all(map(torch.equal, noted_here.position_embeddings, given["position_embeddings"]))
        module = model.model.layers[layer].self_attn
        assert not hasattr(module, "rotary_emb")  # nothing stays behind
        assert not any("scope" in name for name in module.__dict__)
    assert list(model.state_dict()) == state


def test_a_prompt_in_chunks_is_noted_whole() -> None:
    whole, _, _ = noted("llama")
    chunked, _, _ = noted("llama", chunk=25)
    for one, other in zip(whole, chunked, strict=True):
        assert one is not None
        assert other is not None
        real = torch.arange(max(LENGTHS)) >= max(LENGTHS) - torch.tensor(LENGTHS)[:, None]  # padding sees other things
        torch.testing.assert_close(one.hidden_states[real], other.hidden_states[real])
        assert all(map(torch.equal, one.position_embeddings, other.position_embeddings))


def test_each_row_is_scored_alone_without_its_padding(package: ModuleType) -> None:
    _, _, attention = noted("llama")
    package.SEEN.clear()
    with torch.inference_mode(), layer_inputs(tiny("llama", "sdpa")):
        found = KVPress(C, press="MixedPress", args={"weight": 0.5}).score(attention)
    assert found.shape == attention.positions.shape
    longest = max(LENGTHS)
    assert len(package.SEEN) == 2  # the third is within the budget, and too short for the press
    press = package.MixedPress(weight=0.5)
    for row, (ratio, hidden, keys, values, weights, more) in enumerate(list(package.SEEN)):
        length = LENGTHS[row]
        assert int((1 - ratio) * length) == C
        assert (hidden.shape[:2], keys.shape, values.shape) == ((1, length), (1, HEADS, length, DIM), keys.shape)
        assert weights is None
        first = longest - length
        inputs = attention.inputs
        assert inputs is not None
        assert torch.equal(hidden[0], inputs.hidden_states[row, first:])
        assert torch.equal(keys[0], attention.keys[row, :, first:])
        assert torch.equal(values[0], attention.values[row, :, first:])
        for given, whole in zip(more["position_embeddings"], inputs.position_embeddings, strict=True):
            assert torch.equal(given[0], whole[row, first:])
        with torch.inference_mode(), layer_inputs(tiny("llama", "sdpa")):
            expected = press.score(inputs.module, hidden, keys, values, None, more)[0]
        assert torch.equal(found[row, :, first:], expected.float())
        assert found[row, :, :first].eq(0).all()


def test_a_model_run_without_them_is_told(package: ModuleType) -> None:
    _, _, attention = noted("llama")
    with pytest.raises(ScopeError, match=r"MixedPress needs what layers are given: .*layer_inputs"):
        KVPress(C, press="MixedPress").score(replace(attention, inputs=None))


def test_a_press_that_reads_weights_gets_the_prompts(package: ModuleType) -> None:
    _, _, attention = noted("llama")
    found = KVPress(C, press="ObservedAttentionPress").score(attention)
    for row, length in enumerate(LENGTHS[:2]):
        first = max(LENGTHS) - length
        for head in range(HEADS):
            total = torch.zeros(length, dtype=torch.float64)
            for query_head in (2 * head, 2 * head + 1):
                for q in range(length):
                    keys = attention.keys[row, head, first : first + q + 1].double()
                    weights = (keys @ attention.queries[row, query_head, first + q].double() * 0.3).softmax(0)
                    total[: q + 1] += weights / 2
            torch.testing.assert_close(found[row, head, first:].double(), total, atol=1e-5, rtol=1e-5)


def test_lots_depend_on_seed_and_layer_and_not_on_the_batch(package: ModuleType) -> None:
    _, _, attention = noted("llama")
    before = torch.random.get_rng_state()
    drawn = KVPress(C, press="DrawingPress", seed=5).score(attention)
    assert torch.equal(drawn, KVPress(C, press="DrawingPress", seed=5).score(attention))
    assert not torch.equal(drawn, KVPress(C, press="DrawingPress", seed=6).score(attention))
    assert not torch.equal(drawn, KVPress(C, press="DrawingPress", seed=5).score(replace(attention, layer=2)))
    inputs = attention.inputs
    assert inputs is not None
    one = replace(
        attention,
        queries=attention.queries[:1],
        keys=attention.keys[:1],
        values=attention.values[:1],
        positions=attention.positions[:1],
        query_positions=attention.query_positions[:1],
        inputs=replace(inputs, hidden_states=inputs.hidden_states[:1]),
    )
    assert torch.equal(KVPress(C, press="DrawingPress", seed=5).score(one), drawn[:1])
    assert torch.equal(before, torch.random.get_rng_state())


def test_heads_that_are_copies_get_one_score(package: ModuleType) -> None:
    _, _, attention = noted("llama")
    press = KVPress(C, press="ObservedAttentionPress")
    copied = replace(
        attention,
        keys=attention.keys.repeat_interleave(2, 1),
        values=attention.values.repeat_interleave(2, 1),
        positions=attention.positions.repeat_interleave(2, 1),
    )
    found = press.score(copied)
    torch.testing.assert_close(found, press.score(attention).repeat_interleave(2, 1))


def test_what_the_press_refuses_is_said_in_one_line(package: ModuleType) -> None:
    _, _, attention = noted("llama")
    attention = replace(attention, query_positions=attention.query_positions[2:].clone())
    with layer_inputs(tiny("llama", "sdpa")), pytest.raises(ScopeError) as refused:
        KVPress(4, press="MixedPress").score(attention)
    assert str(refused.value) == "MixedPress on a prompt of 12 tokens: too short for me"


@pytest.mark.parametrize(("prompt", "kept"), [(51, C), (21, C), (20, None), (3, None)])
def test_the_budget_is_a_count(prompt: int, kept: int | None, package: ModuleType) -> None:
    plan = KVPress(C, press="MixedPress").plan(View(layer=0, layers=1, prompt=prompt, stored=prompt))
    assert (plan and (plan.head, plan.best, plan.tail)) == (kept and (0, kept, 0))


def test_a_press_that_fails_at_a_model_is_refused_with_both_names(package: ModuleType) -> None:
    """As kvpress's ExpectedAttentionPress at Gemma3, whose rotary embedding wants to know the kind of layer."""
    method = KVPress(10, press="TurningPress")
    assert generate(tiny("llama"), WORDS, random_prompts(30), method, KeepAll(), 2)
    with pytest.raises(ScopeError, match=r"^TurningPress cannot serve Gemma3Attention: \w+Error: ") as refused:
        generate(tiny("gemma3"), WORDS, random_prompts(30), method, KeepAll(), 2)
    assert "\n" not in str(refused.value)


def test_out_of_memory_is_no_fault_of_the_press(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(*_: object) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(package.TurningPress, "score", score)
    with pytest.raises(torch.OutOfMemoryError):
        generate(tiny("llama"), WORDS, random_prompts(30), KVPress(10, press="TurningPress"), KeepAll(), 2)


def test_a_run_with_such_a_press_leaves_nothing_behind(
    scope: Scope, package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(self: object, module: torch.nn.Module, *_: object) -> None:
        raise KeyError("layer_type")

    monkeypatch.setattr(package.TurningPress, "score", score)
    output = tmp_path / "made"
    said = scope("method=kvpress", "method.press=TurningPress", f"output={output}", code=2)
    assert said.err.startswith("error: method=kvpress: TurningPress cannot serve Qwen3Attention: KeyError: ")
    assert said.err.count("\n") == 1
    assert not list(output.rglob("*.jsonl"))
    assert not list(output.rglob("manifest*"))
