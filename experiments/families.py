"""Which families of models work: `python -m experiments.families` writes `scope/cache/families.md`.

Each family is a model of four layers with random weights, in float32, over a ragged batch that is padded on the left.
It works if all of these hold:

- with the full budget it writes what transformers' own `generate` writes with its `DynamicCache`: equal tokens, and
  logits that differ by rounding only. The bytes that we call the full cache's are those that its tensors take;
- with small budgets, in two policies, the storage in place keeps and writes what its plain twin does, the logits are
  not those of the full cache, and no more bytes are allocated than were predicted;
- a continuation that is known, all at once, gives the logits of its tokens one by one;
- if scope knows how the model rotates, keys that are turned back are those before the rotation.

A family works in part if something else refuses it, and is refused if the cache does. The reason is the message.
"""

import argparse
import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from scope import decoding, prefill
from scope.cache import CompressedCache, Layout, Policy, sizes
from scope.cache.rotary import rotary_of
from scope.cache.storage import StorageFactory
from scope.cache.twin import Concatenated
from scope.generation.replay import reference
from scope.policy.attention import Attention
from scope.util.errors import ScopeError

PAGE = Path(__file__).parents[1] / "scope" / "cache" / "families.md"
LAYERS, WINDOW, LENGTHS, TOKENS = 4, 13, (24, 9, 17), 16
SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
SLIDING = {"sliding_window": WINDOW}
MIXED = {**SLIDING, "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2)}
HEAD = {"head_dim": 8}
ALONE = {"num_key_value_heads": 4}  # a key and a value for each query head
MIXTURE = {"num_local_experts": 2, "num_experts_per_tok": 1}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
LATENT = {
    **ROUTED,
    **ALONE,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
GEMMA_3N = {
    **HEAD,
    **MIXED,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 60,
    "laurel_rank": 4,
    "activation_sparsity_pattern": [0.0] * LAYERS,
}
GEMMA_4 = {
    **HEAD,
    **MIXED,
    "global_head_dim": 16,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 60,
}
POLICIES = (
    Policy(prefill.SnapKV(5, 2), decoding.H2O(4, 2)),
    Policy(prefill.H2O(5, 2), decoding.Slide(4, 2), granularity="query_head"),
)


@dataclass(frozen=True)
class Family:
    """A family of models: transformers' class of its configuration, and settings beside SIZES."""

    config: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    special: str = ""  # what its attention has that Llama's has not


FAMILIES = {
    "Llama 2, 3": Family("LlamaConfig"),
    "Llama 4": Family(
        "Llama4TextConfig",
        {**MIXTURE, **HEAD, "intermediate_size_mlp": 32, "attention_chunk_size": WINDOW},
        "chunks; layers without positions; queries scaled by position",
    ),
    "gpt-oss": Family("GptOssConfig", {**MIXTURE, **HEAD, **MIXED}, "sinks; sliding windows in some layers"),
    "Gemma": Family("GemmaConfig", HEAD),
    "Gemma 2": Family(
        "Gemma2Config",
        {**HEAD, **SLIDING, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
        "soft caps; sliding windows in some layers",
    ),
    "Gemma 3": Family("Gemma3TextConfig", {**HEAD, **MIXED}, "sliding windows in some layers"),
    "Gemma 3n, nothing shared": Family("Gemma3nTextConfig", {**GEMMA_3N, "num_kv_shared_layers": 0}, "as Gemma 3"),
    "Gemma 3n": Family("Gemma3nTextConfig", {**GEMMA_3N, "num_kv_shared_layers": 2}, "layers share keys and values"),
    "Gemma 4, nothing shared": Family("Gemma4TextConfig", {**GEMMA_4, "num_kv_shared_layers": 0}, "head dims by layer"),
    "Gemma 4": Family("Gemma4TextConfig", {**GEMMA_4, "num_kv_shared_layers": 2}, "layers share keys and values"),
    "Mistral": Family("MistralConfig", SLIDING, "sliding windows"),
    "Ministral": Family("MinistralConfig", HEAD),
    "Mixtral": Family("MixtralConfig", MIXTURE),
    "Qwen2": Family("Qwen2Config"),
    "Qwen3": Family("Qwen3Config", HEAD, "norms of queries and keys"),
    "Qwen3-MoE": Family("Qwen3MoeConfig", {**EXPERTS, **HEAD, "moe_intermediate_size": 16}, "as Qwen3"),
    "Qwen3-Next": Family(
        "Qwen3NextConfig",
        {**EXPERTS, **HEAD, **LINEAR, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
        "linear attention in some layers",
    ),
    "Qwen3.5": Family("Qwen3_5TextConfig", {**HEAD, **LINEAR}, "linear attention in some layers"),
    "GLM": Family("GlmConfig", HEAD, "a part of each head is rotated"),
    "GLM-4": Family("Glm4Config", HEAD, "a part of each head is rotated"),
    "GLM-4.5": Family("Glm4MoeConfig", {**ROUTED, **HEAD}, "a part of each head is rotated"),
    "Phi": Family("PhiConfig", special="a part of each head is rotated"),
    "Phi-3, Phi-4": Family("Phi3Config", SLIDING, "sliding windows"),
    "Phi-3.5-MoE": Family("PhimoeConfig", MIXTURE),
    "SmolLM3": Family("SmolLM3Config", {"no_rope_layers": [1, 1, 1, 0]}, "layers without positions"),
    "OLMo 2": Family("Olmo2Config", special="norms of queries and keys"),
    "OLMo 3": Family("Olmo3Config", MIXED, "sliding windows in some layers"),
    "OLMoE": Family("OlmoeConfig", EXPERTS, "norms of queries and keys"),
    "Granite": Family("GraniteConfig", {"attention_multiplier": 0.3, "logits_scaling": 2.0}, "scaled logits"),
    "Granite 4": Family(
        "GraniteMoeHybridConfig",
        {
            **MIXTURE,
            "layer_types": ["mamba", "attention"] * (LAYERS // 2),
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
        },
        "state space in some layers",
    ),
    "Cohere": Family("CohereConfig", special="scaled logits; neighbours are rotated"),
    "Cohere 2": Family("Cohere2Config", MIXED, "sliding windows; layers without positions"),
    "DeepSeek-V2": Family("DeepseekV2Config", LATENT, "latents (MLA)"),
    "DeepSeek-V3, R1": Family("DeepseekV3Config", LATENT, "latents (MLA)"),
    "DeepSeek-V3.2": Family("DeepseekV32Config", LATENT, "latents (MLA), of which an index chooses"),
    "EXAONE 4": Family("Exaone4Config", {**HEAD, **MIXED}, "sliding windows; layers without positions"),
    "ERNIE 4.5": Family("Ernie4_5Config", HEAD),
    "Seed-OSS": Family("SeedOssConfig", HEAD),
    "Nemotron": Family("NemotronConfig", special="a part of each head is rotated"),
    "MiniMax-M2": Family("MiniMaxM2Config", {**MIXTURE, **HEAD}, "norms of queries and keys"),
    "StarCoder 2": Family("Starcoder2Config", SLIDING, "sliding windows"),
    "StableLM": Family("StableLmConfig", special="a part of each head is rotated"),
    "GPT-2": Family("GPT2Config", {**ALONE, "n_embd": 32, "n_layer": LAYERS, "n_head": 4}, "positions are added"),
    "GPT-NeoX, Pythia": Family("GPTNeoXConfig", ALONE, "a part of each head is rotated"),
    "BLOOM": Family("BloomConfig", {**ALONE, "n_layer": LAYERS, "n_head": 4}, "a bias by distance (ALiBi)"),
    "Falcon-H1": Family(
        "FalconH1Config",
        {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
        "attention and state space in each layer",
    ),
    "LFM2": Family("Lfm2Config", {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)}, "convolutions"),
}


@dataclass(frozen=True)
class Found:
    """What was found. backend: transformers' own choice for this model, which is also what the cache runs."""

    verdict: str
    reason: str
    backend: str


def made(family: Family) -> PreTrainedModel:
    """A model of the family, seeded. Matrices are 4 times as large: attention is then sharp enough for evictions to
    change what is written."""
    config = getattr(transformers, family.config)(**copy.deepcopy({**SIZES, **family.settings}))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval().float()
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.mul_(4)
            elif name.endswith("sinks"):
                weight.normal_()
    return model


def batch() -> tuple[Tensor, Tensor]:
    """Token ids and mask, padded on the left."""
    ids = torch.randint(
        3, SIZES["vocab_size"], (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(1)
    )
    column = torch.arange(max(LENGTHS))
    mask = (column >= max(LENGTHS) - torch.tensor(LENGTHS)[:, None]).long()
    return ids * mask, mask


@torch.no_grad()
def check(family: Family) -> Found:
    """What holds for a family. Raises AssertionError where a model that is not refused gets something wrong."""
    model = made(family)
    backend = model.config._attn_implementation
    whole = DynamicCache(config=model.config)
    stock = written(model, whole)
    try:
        cache = CompressedCache(model.config)
        ours = written(model, cache)
    except ScopeError as error:
        return Found("refused", str(error), backend)
    assert torch.equal(ours[0], stock[0]), "other tokens"
    torch.testing.assert_close(ours[1], stock[1], atol=1e-4, rtol=1e-4)
    fed = max(LENGTHS) + TOKENS - 1
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in whole.layers)
    assert cache.full_bytes(fed) * len(LENGTHS) == held, "other bytes"
    for policy in POLICIES:
        _check_small(model, policy, ours[1])
        _check_known(model, policy)
    reasons = _refused_elsewhere(model)
    return Found("works in part" if reasons else "works", "; ".join(reasons), backend)


def written(model: PreTrainedModel, cache: Any) -> tuple[Tensor, Tensor]:
    """What transformers' `generate` writes: tokens [B, T], and logits [B, T, V]."""
    ids, mask = batch()
    out: Any = model.generate(
        ids,
        attention_mask=mask,
        past_key_values=cache,
        max_new_tokens=TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return out.sequences[:, ids.shape[1] :], torch.stack(out.logits, 1)


def _check_small(model: PreTrainedModel, policy: Policy, full: Tensor) -> None:
    """full [B, T, V]: the logits with the full cache."""
    told = []
    storages: Sequence[StorageFactory | None] = (None, Concatenated)
    for storage in storages:
        cache = CompressedCache.of(model.config, policy, Layout(TOKENS, storage))
        tokens, logits = written(model, cache)
        positions = [cache.positions(layer).sort(-1).values.tolist() for layer in range(LAYERS)]
        held = [[[[p for p in head if p >= 0] for head in row] for row in layer] for layer in positions]
        told.append((tokens.tolist(), held, logits))
        if storage is None:
            predicted = len(LENGTHS) * sizes.cache_bytes(model.config, policy, "float32", max(LENGTHS), TOKENS)
            room = sum(len(LENGTHS) * cache.slot_bytes(layer) for layer in range(LAYERS))  # for the last token
            assert cache.nbytes <= predicted + room, "more bytes than predicted"
    assert told[0][:2] == told[1][:2], "not what the twin keeps or writes"
    torch.testing.assert_close(told[0][2], told[1][2], atol=1e-4, rtol=1e-4)
    assert float((told[0][2] - full).abs().max()) > 1e-2, "nothing was evicted that counts"


def _check_known(model: PreTrainedModel, policy: Policy) -> None:
    """A continuation all at once, against one token after the other."""
    ids, mask = batch()
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    coming = ids[:, -8:].flip(-1).clamp(min=3)
    at = places[:, -1:] + 1 + torch.arange(coming.shape[1])
    both = []
    for known in (True, False):
        cache = CompressedCache.of(model.config, policy)
        model(ids, attention_mask=mask, position_ids=places, past_key_values=cache)
        if known:
            cache.force(coming.shape[1])
            both.append(model(coming, position_ids=at, past_key_values=cache).logits)
            continue
        steps = [
            model(coming[:, t : t + 1], position_ids=at[:, t : t + 1], past_key_values=cache).logits
            for t in range(coming.shape[1])
        ]
        both.append(torch.cat(steps, 1))
    torch.testing.assert_close(both[0], both[1], atol=1e-4, rtol=1e-4)


def _check_rotary(model: PreTrainedModel) -> None:
    """If all tokens of a prompt are alike, so are their keys before the rotation, in every layer."""
    rotaries = [rotary_of(model.config, layer, "") for layer in range(LAYERS)]
    seen: list[Attention] = []
    cache = CompressedCache.of(model.config, Policy(), watch=seen.append)
    model(torch.full((1, 20), 7), past_key_values=cache)
    for rotary, attention in zip(rotaries, seen, strict=True):
        back = rotary.turned(attention.keys, -attention.positions)
        torch.testing.assert_close(back, back[:, :, :1].expand_as(back), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(attention.keys, back, atol=1e-2), "nothing was rotated"


def _refused_elsewhere(model: PreTrainedModel) -> list[str]:
    reasons = []
    try:
        _check_rotary(model)
    except ScopeError:
        reasons.append("no `triattention` and no `expected_attention`: how it rotates is not known")
    try:
        reference(model, [[3, 4, 5]], [[6, 7]])
    except ScopeError as error:
        reasons.append(f"no replay: {str(error).partition(': ')[2]}")
    return reasons


def row(name: str, found: Found) -> str:
    """A family's line in the page's table."""
    return line([name, FAMILIES[name].special, found.verdict, found.backend, found.reason])


def line(cells: Sequence[str]) -> str:
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"


def page(found: Mapping[str, Found]) -> str:
    """The page. Its table is held by tests/test_families.py."""
    head = ["family", "its attention, beside Llama's", "found", "backend", "why not, or what does not"]
    counts = Counter(one.verdict for one in found.values())
    told = f"{counts['works']} work, {counts['works in part']} work in part, {counts['refused']} are refused"
    table = "\n".join([line(head), line(["---"] * len(head)), *[row(name, one) for name, one in found.items()]])
    return f"""# Which families of models work

Made by `python -m experiments.families` with transformers {transformers.__version__}: {told}. A test holds the table.

{table}

- Each is a tiny model with random weights in float32, read in a ragged batch that is padded on the left. The checks are
  in the head of `experiments/families.py`: equal to transformers' own `generate`, equal to the plain twin, bytes, and a
  continuation that is known.
- "backend" is transformers' own choice for the model. `sdpa` knows no soft caps and no sinks: load such a model with
  `attention=eager`. Steps run scope's own attention, in plain torch if a layer has soft caps or sinks.
- Layers with chunks store what transformers' own cache stores, the last tokens of one chunk's length. A step sees those
  of its own chunk.
- All scores that look at attention use the layer's soft cap, sinks and chunks. With sinks, a slot's probability is what
  the sink leaves. A press of kvpress computes attention itself, and knows of neither.
- A model with layers that store no keys and values (linear attention, state space, convolutions, latents) is refused,
  also where other layers store some.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="FAMILY", nargs="+", choices=FAMILIES, help="these; nothing is written")
    only = parser.parse_args().only
    found = {}
    for name in only or FAMILIES:
        found[name] = check(FAMILIES[name])
        print(f"{name}: {found[name].verdict} {found[name].reason}", flush=True)
    if not only:
        PAGE.write_text(page(found))


if __name__ == "__main__":
    main()
