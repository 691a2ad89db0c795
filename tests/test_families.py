"""Every prefill method with every decoding strategy on the tiny families; and which other families work.

Oracle: the numbers of slots that METHODS.md's tables give (spelt out in `test_cache.counts`), and what no family may
break: positions that exist, once each, the newest always there, and the prompt where it is protected. The full cache
and rows run alone are compared with transformers in test_generate.py. Those of the other families are in
`experiments.families`."""

import pytest
import torch
import transformers
from helpers.pairs import DECODING, PREFILL, RECENT, WHOLE, counts
from helpers.quick import every, later
from tiny_models import FAMILIES, HEADS, LAYERS, SLIDING_WINDOW, WORDS, Trace, generate, random_prompts, tiny
from transformers import AutoModelForCausalLM, Gemma2Config, GptOssConfig, PretrainedConfig

from experiments import families
from scope.cache import CompressedCache
from scope.decoding import Slide
from scope.util.errors import ScopeError

SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}

LENGTHS = (21, 9)  # over the budget, where the pyramid is clipped; under it
TOKENS = 20
VARIED = ("llama", "mistral_sliding", "gemma3")  # no layer slides, all do, some do


def watched(family: str, method: str, strategy: str) -> Trace:
    trace, model = Trace(), tiny(family, dtype=torch.float32)
    rows = generate(model, WORDS, random_prompts(*LENGTHS), PREFILL[method], DECODING[strategy], TOKENS, observe=trace)
    assert [len(row.tokens) for row in rows] == [TOKENS] * len(LENGTHS)
    return trace


# Families differ in how they score and in what slides: two methods that score are run on all, the others on three.
EVERYWHERE = [
    pytest.param(family, method, marks=() if family in VARIED or method in ("h2o", "snapkv") else pytest.mark.slow)
    for family in FAMILIES
    for method in PREFILL
]


@pytest.mark.parametrize(("family", "method"), every(6, EVERYWHERE))
def test_every_pair_holds_its_budget(family: str, method: str) -> None:
    sliding = {"mistral_sliding": range(LAYERS), "gemma3": range(0, LAYERS, 2)}.get(family, ())
    for strategy in DECODING:
        seen = watched(family, method, strategy).steps
        assert len(seen) == TOKENS  # the prefill, and a step for each token but the last
        for layer in range(LAYERS):
            reach = SLIDING_WINDOW - 1 if layer in sliding else 10**9
            for row, prompt in enumerate(LENGTHS):
                expected = counts(method, strategy, layer, prompt, reach)
                for head in range(HEADS):
                    where = f"{strategy} layer {layer} row {row} head {head}"
                    times = [step[layer][row][head] for step in seen]
                    assert [len(held) for held in times] == expected[:TOKENS], where
                    start = times[0]
                    for t, held in enumerate(times[1:]):
                        length = prompt + t + 1  # of the text so far
                        assert len(set(held)) == len(held), where
                        assert held[0] >= 0, where
                        assert held[-1] == length - 1, where
                        assert set(range(max(prompt, length - RECENT), length)) <= set(held), where
                        if strategy not in WHOLE:
                            assert {p for p in start if p >= length - reach} <= set(held), where
                            assert held[: len(start)] == start or layer in sliding, where


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Gemma2Config(attn_logit_softcapping=2.0, **SMALL), "soft-capped logits"),
        (GptOssConfig(num_local_experts=2, num_experts_per_tok=1, **SMALL), "sinks"),
    ],
    ids=["gemma2", "gpt_oss"],
)
def test_attention_that_the_backend_would_get_wrong_is_refused(config: PretrainedConfig, said: str) -> None:
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.config._attn_implementation = "sdpa"  # transformers refuses that when it loads the model

    def run() -> None:
        cache = CompressedCache(model.config, decoding=Slide(8, 4))
        model(torch.tensor([[1, 2, 3, 4, 5, 6]]), past_key_values=cache, use_cache=True)

    with torch.no_grad(), pytest.raises(ScopeError, match=said):
        run()


MADE_WITH = f"transformers {transformers.__version__}:"
QUICK = ("Llama 4", "gpt-oss", "Gemma 2", "DeepSeek-V3, R1", "Qwen3-Next")


@pytest.mark.skipif(
    f"transformers {transformers.__version__}:" not in families.PAGE.read_text(), reason="another version"
)
@pytest.mark.parametrize("name", [name if name in QUICK else later(name) for name in families.FAMILIES])
def test_the_page_says_what_is_found_of_a_family(name: str) -> None:
    lines = families.PAGE.read_text().splitlines()
    assert lines.count(families.row(name, families.check(families.FAMILIES[name]))) == 1


def test_the_page_has_these_families_and_no_others() -> None:
    lines = [line for line in families.PAGE.read_text().splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0][2:] for line in lines[2:]] == list(families.FAMILIES)
