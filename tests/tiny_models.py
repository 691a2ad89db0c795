"""Tiny random models, prompts, strategies and an observer for the tests. No oracle here, and no test.

The same family and seed give the same weights whatever the attention and the dtype, so that a model with scope's
attention and a stock one can be compared. Matrices are multiplied by 4: attention is then sharp enough for evictions
to change what is written.
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from scope import decoding
from scope.cache import CompressedCache, Policy
from scope.cache.backends import implementation
from scope.decoding import DecodingStrategy
from scope.generation import stream
from scope.generation.options import Hooks, Options
from scope.generation.rows import Generated, Prompt
from scope.generation.sampling import Sampling
from scope.policy.query_statistics import QueryStatistics
from scope.prefill import PrefillMethod

LAYERS, HEADS, GROUP, DIM, VOCABULARY = 3, 2, 2, 16, 97
SCOPE = implementation("sdpa")
FAMILIES = ("llama", "mistral", "mistral_sliding", "qwen2", "qwen3", "gemma3", "phi3")
SLIDING_WINDOW = 17


def generate(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    prefill: PrefillMethod,
    strategy: DecodingStrategy,
    tokens: int,
    sampling: Sampling | None = None,
    **settings: Any,
) -> list[Generated]:
    """`scope.generation.stream.generate`, with the fields of Policy, Hooks and Options given one by one."""
    parts = {
        kind: {field.name: settings.pop(field.name) for field in fields(kind) if field.name in settings}
        for kind in (Policy, Hooks, Options)
    }
    assert not settings, f"no such setting: {settings}"
    options = Options(**parts[Options], hooks=Hooks(**parts[Hooks]))
    return stream.generate(
        model, tokenizer, prompts, Policy(prefill, strategy, **parts[Policy]), tokens, sampling, options
    )


Positions = list[list[list[int]]]  # [row][head]: positions of the tokens in one layer's slots, ascending
Step = list[Positions]  # [layer][row][head]


def _config(family: str) -> PretrainedConfig:
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS * GROUP,
        "num_key_value_heads": HEADS,
        "head_dim": DIM,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
    }
    if family == "llama":
        return LlamaConfig(**sizes)
    if family == "qwen2":
        return Qwen2Config(**{name: size for name, size in sizes.items() if name != "head_dim"})
    if family == "qwen3":
        return Qwen3Config(**sizes)
    if family == "gemma3":  # sliding and full layers in turn
        kinds = [("sliding_attention", "full_attention")[layer % 2] for layer in range(LAYERS)]
        return Gemma3TextConfig(**sizes, sliding_window=SLIDING_WINDOW, layer_types=kinds)
    if family == "phi3":
        return Phi3Config(**{name: size for name, size in sizes.items() if name != "head_dim"})
    return MistralConfig(**sizes, sliding_window={"mistral": None, "mistral_sliding": SLIDING_WINDOW}[family])


def tiny(family: str = "llama", attention: str = SCOPE, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """One of FAMILIES, seeded; `attention` is SCOPE or a name that transformers knows. Shared: leave it as it is."""
    return _made(family, attention, dtype)


@cache
@torch.inference_mode(False)  # it is shared: its weights must serve outside of that mode too
def _made(family: str, attention: str, dtype: torch.dtype) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(_config(family), attn_implementation=attention)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.mul_(4)
            elif name.endswith("bias"):
                weight.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
            else:  # norms: all ones as they come, which would hide a norm that is left out
                weight.copy_(torch.linspace(0.5, 1.5, len(weight)))
        table = model.get_input_embeddings().weight
        table[0] = table[1:].mean(0) * 3  # the padding token's zeros would tie every score where it is written
    return cast(PreTrainedModel, model.to(dtype).eval())


class _Words:
    """As much of a tokenizer as generating needs: a token's text is its number."""

    pad_token_id = 0

    def decode(self, tokens: Iterable[int], **_: object) -> str:
        return " ".join(map(str, tokens))


WORDS = cast(Tokenizer, _Words())


def random_prompts(*lengths: int, seed: int = 1) -> list[Prompt]:
    """Named p0, p1, ...; a prompt depends on its place and the seed, not on the others."""
    prompts = []
    for i, length in enumerate(lengths):
        lots = torch.Generator().manual_seed(1000 * seed + i)
        prompts.append(Prompt(f"p{i}", tuple(torch.randint(3, VOCABULARY, (length,), generator=lots).tolist())))
    return prompts


def strategies(budget: int, recent: int, tokens: int) -> dict[str, DecodingStrategy]:
    """Every decoding strategy under the name of its YAML."""
    return {
        "none": decoding.KeepAll(),
        "slide": decoding.Slide(budget, recent),
        "adaptive": decoding.Adaptive(budget, recent, tokens=tokens),
        "discontinuous": decoding.Discontinuous(budget, recent, tokens=tokens),
        "h2o": decoding.H2O(budget, recent),
        "streamingllm": decoding.StreamingLLM(budget, recent),
        "pyramidinfer": decoding.PyramidInfer(budget, recent),
        "recent": decoding.Recent(budget, recent),
        "random": decoding.Random(budget, recent),
    }


def made_up_statistics() -> QueryStatistics:
    """Query statistics of the tiny models' shape, drawn at random."""
    lots = torch.Generator().manual_seed(5)
    means = torch.randn(LAYERS, HEADS * GROUP, DIM, generator=lots)
    return QueryStatistics(means, 2 + torch.rand(LAYERS, HEADS * GROUP, DIM // 2, generator=lots))


class Trace:
    """An observer for `generate`: what is in every slot after the prefill (first) and after each decode step."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def __call__(self, cache: CompressedCache) -> None:
        self.steps.append([stored(cache, layer) for layer in range(len(cache.layers))])

    def of_row(self, row: int, steps: int) -> list[list[list[list[int]]]]:
        """[time][layer][head] of one row, up to `steps` decode steps after the prefill."""
        return [[layer[row] for layer in step] for step in self.steps[: steps + 1]]


def stored(cache: CompressedCache, layer: int) -> Positions:
    rows: Sequence[Sequence[Sequence[int]]] = cache.positions(layer).tolist()
    return [[sorted(position for position in head if position >= 0) for head in row] for row in rows]
