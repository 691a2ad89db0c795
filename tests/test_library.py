"""scope as a library: no Hydra, transformers' own `generate` over a stock-loaded model with a compressed cache.

Oracles: scope's engine (its own oracles are in test_generate.py and test_policies.py) token for token; transformers
without our cache, bit for bit or token for token, where nothing is to be evicted.
"""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from helpers.pairs import DECODING, PREFILL
from helpers.quick import every
from tiny_models import FAMILIES, WORDS, generate, random_prompts, tiny
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TextIteratorStreamer,
    TextStreamer,
)

import scope
from scope.cache import CompressedCache
from scope.decoding import DecodingStrategy, Recent, Slide
from scope.generation.models import EMBEDDED, ModelSource, load
from scope.generation.rows import Prompt
from scope.policy.attention import Attention
from scope.prefill import PrefillMethod, SnapKV
from scope.tasks import Arithmetic
from scope.util.errors import ScopeError

ROOT = Path(__file__).parents[1]
TOKENS = 40
TIGHT: tuple[PrefillMethod, DecodingStrategy] = (SnapKV(48, 8), Slide(16, 8))
LOOSE: tuple[PrefillMethod, DecodingStrategy] = (SnapKV(4000, 8), Slide(4000, 8))


def stock() -> PreTrainedModel:
    """Loaded as anyone would; double precision, so that no two tokens are too close to call."""
    model = AutoModelForCausalLM.from_pretrained(str(EMBEDDED), dtype=torch.float64)
    assert model.config._attn_implementation == "sdpa"
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(str(EMBEDDED), padding_side="left")


def texts() -> list[str]:
    """Three prompts of different lengths."""
    return [Arithmetic(questions=n, prompts=1).samples()[0].prompt for n in (6, 4, 9)]


def encoded(tokenizer: PreTrainedTokenizerBase, some: Sequence[str]) -> dict[str, Tensor]:
    batch = tokenizer(list(some), return_tensors="pt", padding=True)
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def compressed(
    model: PreTrainedModel, pair: tuple[PrefillMethod, DecodingStrategy] = TIGHT, **more: Any
) -> CompressedCache:
    return CompressedCache(model.config, prefill=pair[0], decoding=pair[1], **more)


def written(model: PreTrainedModel, inputs: dict[str, Tensor], cache: CompressedCache | None, **settings: Any) -> list:
    settings = {"max_new_tokens": TOKENS, "do_sample": False, **settings}
    if cache is not None:
        settings["past_key_values"] = cache
    return model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :].tolist()


def engines(tokenizer: PreTrainedTokenizerBase, some: Sequence[str], **more: Any) -> list[list[int]]:
    """What scope's engine writes with the tight pair."""
    model = load(ModelSource(device="cpu")).model
    double = copy.deepcopy(model).double()
    prompts = [Prompt(f"p{i}", tuple(tokenizer(text).input_ids)) for i, text in enumerate(some)]
    return [list(row.tokens) for row in generate(double, tokenizer, prompts, *TIGHT, TOKENS, **more)]


def until_eos(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    end = tokenizer.eos_token_id
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


# the tokens of our engine


@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 3)], ids=["alone", "left-padded"])
@pytest.mark.slow
def test_greedy_writes_what_the_engine_writes(
    rows: slice, granularity: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    model, some = stock(), texts()[rows]
    cache = compressed(model, granularity=granularity)
    tokens = written(model, encoded(tokenizer, some), cache)
    expected = engines(tokenizer, some, granularity=granularity)
    assert [until_eos(row, tokenizer) for row in tokens] == expected
    assert expected != written(stock(), encoded(tokenizer, some), None)  # compression does show
    assert cache.positions(0).shape[1] == (8 if granularity == "query_head" else 2)
    assert len(expected[0]) == TOKENS  # did not end before
    assert cache.slots(0, TOKENS - 1) == [48 + 16] * 3


@pytest.mark.parametrize("family", every(3, FAMILIES))
@pytest.mark.parametrize(("method", "strategy"), [("snapkv", "slide"), ("pyramidkv", "discontinuous"), ("h2o", "h2o")])
def test_every_family_is_driven_by_transformers(family: str, method: str, strategy: str) -> None:
    """A stock model of each family, adopted when the cache is made for it."""
    model = copy.deepcopy(tiny(family, "sdpa"))
    pair, prompts, tokens = (PREFILL[method], DECODING[strategy]), random_prompts(30, 9, 21), 24
    longest = max(len(prompt.tokens) for prompt in prompts)
    padding = [longest - len(prompt.tokens) for prompt in prompts]
    inputs = {
        "input_ids": torch.tensor([[0] * n + list(p.tokens) for n, p in zip(padding, prompts, strict=True)]),
        "attention_mask": torch.tensor([[0] * n + [1] * (longest - n) for n in padding]),
    }
    expected = [list(row.tokens) for row in generate(tiny(family), WORDS, prompts, *pair, tokens)]
    assert written(model, inputs, compressed(model, pair), max_new_tokens=tokens) == expected
    free = written(copy.deepcopy(tiny(family, "sdpa")), inputs, None, max_new_tokens=tokens)
    assert (free == expected) == (family == "mistral_sliding" and method != "pyramidkv")  # C + D hold its windows


@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 3)], ids=["alone", "left-padded"])
def test_sampling_draws_as_transformers_does_while_nothing_is_evicted(
    rows: slice, tokenizer: PreTrainedTokenizerBase
) -> None:
    inputs, hot = encoded(tokenizer, texts()[rows]), {"do_sample": True, "temperature": 6.0, "top_k": 40}
    plain, ours = stock(), stock()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = written(plain, inputs, None, **hot)
        torch.manual_seed(3)
        assert written(ours, inputs, compressed(ours, LOOSE), **hot) == expected
        torch.manual_seed(4)
        assert written(ours, inputs, compressed(ours, LOOSE), **hot) != expected
        torch.manual_seed(3)
        cache = compressed(ours)
        drawn = written(ours, inputs, cache, num_return_sequences=2, **hot)
    assert drawn[0] != drawn[1]
    assert len(drawn) == 2 * len(inputs["input_ids"])
    assert all(n <= 48 + 16 for row in range(len(drawn)) for n in cache.slots(row, 1))


def test_streamers_tell_the_same(tokenizer: PreTrainedTokenizerBase, capsys: pytest.CaptureFixture[str]) -> None:
    some = texts()[:1]
    text = tokenizer.decode(engines(tokenizer, some)[0], skip_special_tokens=True)
    model = stock()
    written(
        model,
        encoded(tokenizer, some),
        compressed(model),
        streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
    )
    assert capsys.readouterr().out.strip() == text.strip() != ""

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    given = (model, encoded(tokenizer, some), compressed(model))
    thread = Thread(target=written, args=given, kwargs={"streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces).strip() == text.strip()
    assert len(pieces) > 5


def test_going_on_is_one_generation(tokenizer: PreTrainedTokenizerBase) -> None:
    """The tokens so far, and nothing new: the cache goes on where it was."""
    model, inputs = stock(), encoded(tokenizer, texts()[:1])
    once = written(model, inputs, compressed(model))
    cache = compressed(model)
    half = model.generate(**inputs, past_key_values=cache, max_new_tokens=TOKENS // 2, do_sample=False)
    whole = model.generate(half, past_key_values=cache, max_new_tokens=TOKENS // 2, do_sample=False)
    assert whole[:, inputs["input_ids"].shape[1] :].tolist() == once


# what eviction cannot support


def after_a_prompt(act: Callable[[CompressedCache], object]) -> Callable[[PreTrainedModel, dict[str, Tensor]], None]:
    def run(model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
        cache = compressed(model)
        written(model, inputs, cache, max_new_tokens=3)
        act(cache)

    return run


def assisted(model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    written(model, inputs, compressed(model), assistant_model=stock())


def used(length: int) -> Callable[[PreTrainedModel, dict[str, Tensor]], Any]:
    """Another prompt, so much shorter than what the cache has seen. If it is longer, its end is taken for a turn."""

    def run(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Any:
        cache = compressed(model)
        so_far = written(model, inputs, cache, max_new_tokens=4)
        seen = inputs["input_ids"].shape[1] + len(so_far[0]) - 1
        other = torch.full((1, seen + length), 5)
        return written(model, {"input_ids": other, "attention_mask": torch.ones_like(other)}, cache)

    return run


def of_another(layers: int) -> Callable[[PreTrainedModel, dict[str, Tensor]], Any]:
    """A cache that was made for a model of so many layers."""

    def run(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Any:
        config = copy.deepcopy(model.config)
        config.num_hidden_layers, config.layer_types = layers, ["full_attention"] * layers
        adopted = CompressedCache(model.config)
        assert len(adopted.layers) == 3
        return written(model, inputs, CompressedCache(config))

    return run


def made_with(**arguments: Any) -> Callable[[PreTrainedModel, dict[str, Tensor]], Any]:
    return lambda model, _: CompressedCache(**({"config": model.config} | arguments))


REFUSED: dict[str, tuple[Callable[[PreTrainedModel, dict[str, Tensor]], Any], str]] = {
    "beams": (lambda model, inputs: written(model, inputs, compressed(model), num_beams=2), "beam search"),
    "prompt lookup": (
        lambda model, inputs: written(model, inputs, compressed(model), prompt_lookup_num_tokens=3),
        "assisted decoding",
    ),
    "assistant": (assisted, "assisted decoding"),
    "prefill in chunks": (
        lambda model, inputs: written(model, inputs, compressed(model), prefill_chunk_size=16),
        "chunk",
    ),
    "crop": (after_a_prompt(lambda cache: cache.crop(-1)), "rolled back"),
    "use_cache": (lambda model, inputs: written(model, inputs, compressed(model), use_cache=False), "use_cache=False"),
    "used, shorter by one": (used(-1), "make a new cache"),
    "used, a few tokens": (used(-40), "make a new cache"),
    "used, as long": (used(0), "make a new cache"),
    "fewer layers": (of_another(2), "made for a model of 2 layers"),
    "more layers": (of_another(5), "made for a model of 5 layers, and this one has 3"),
    "the model itself": (lambda model, _: CompressedCache(model), "model.config"),
    "no configuration": (made_with(config=None), "model.config"),
    "a folder": (made_with(config="meta-llama/Llama-3.1-8B"), "model.config"),
    "a method's name": (made_with(prefill="snapkv"), r"prefill=snapkv: must be .*mean scope\.prefill\.SnapKV\("),
    "a name with an underscore": (made_with(prefill="r_kv"), r"mean scope\.prefill\.RKV\("),
    "a method's class": (made_with(prefill=SnapKV), r"prefill=SnapKV: must be .*mean scope\.prefill\.SnapKV\("),
    "a strategy's name": (made_with(decoding="slide"), r"decoding=slide: must be .*mean scope\.decoding\.Slide\("),
    "a name that is none": (made_with(decoding="quick"), r"decoding=quick: must be an object [^;]*$"),
    "a method as strategy": (made_with(decoding=SnapKV(48, 8)), "decoding=SnapKV"),
    "a strategy as method": (made_with(prefill=Slide(16, 8)), "prefill=Slide"),
    "nothing that decides": (made_with(prefill=0), "prefill=int"),
    "reset": (after_a_prompt(lambda cache: cache.reset()), "new one"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_line(case: str, tokenizer: PreTrainedTokenizerBase) -> None:
    ask, why = REFUSED[case]
    with pytest.raises(ScopeError, match=why) as refused:
        ask(stock(), encoded(tokenizer, texts()[:1]))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_cache_that_failed_says_so(layer: int, tokenizer: PreTrainedTokenizerBase) -> None:
    model, inputs = stock(), encoded(tokenizer, texts()[:2])
    whole = torch.ones_like(inputs["attention_mask"])
    whole[:, 1] = 0
    hole = inputs | {"attention_mask": whole}
    again = "this cache has failed before: make a new one"
    cache = compressed(model)
    with pytest.raises(ScopeError, match="hole"):
        written(model, hole, cache)
    with pytest.raises(ScopeError, match=f"^{again}$"):
        written(model, inputs, cache)

    class Fails(SnapKV):
        def score(self, attention: Attention) -> Tensor:
            if attention.layer == layer:
                raise RuntimeError("out of memory")
            return super().score(attention)

    cache = compressed(model, (Fails(48, 8), TIGHT[1]))
    with pytest.raises(RuntimeError, match="memory"):
        written(model, inputs, cache)
    with pytest.raises(ScopeError, match=f"^{again}$"):
        written(model, inputs, cache)
    alone = {name: tensor[:, -1:] for name, tensor in inputs.items()}
    with pytest.raises(ScopeError, match=f"^{again}$"):  # and one token is no step either
        written(model, alone, cache)


def test_a_cache_of_another_configuration_says_so(tokenizer: PreTrainedTokenizerBase) -> None:
    """The model keeps transformers' own attention, and the cache is never asked what stays."""
    model, other, inputs = stock(), stock(), encoded(tokenizer, texts()[:1])
    with pytest.raises(ScopeError, match=r"^the model does not run scope's attention: make the cache from its own"):
        written(model, inputs, compressed(other))
    cache = compressed(model)
    model.set_attn_implementation("sdpa")
    with pytest.raises(ScopeError, match="after any set_attn_implementation"):
        written(model, inputs, cache)


# a batch and its mask


def test_where_transformers_finds_the_padding_no_mask_is_needed(tokenizer: PreTrainedTokenizerBase) -> None:
    """It does where the padding is not the end of sequence. Where it is, nobody can tell: the READMEs say so."""
    model, inputs = stock(), encoded(tokenizer, texts())
    assert (inputs["attention_mask"] == 0).any()
    expected = written(model, inputs, compressed(model))
    ids = {"input_ids": inputs["input_ids"]}
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert written(model, ids, compressed(model)) == expected


def test_going_on_with_the_written_tokens_and_their_mask(tokenizer: PreTrainedTokenizerBase) -> None:
    """All tokens so far, with the prompt's mask and a 1 for each new one: the generation goes on. Fewer: refused."""
    model, inputs = stock(), encoded(tokenizer, texts())
    once = written(model, inputs, compressed(model))
    cache, length = compressed(model), inputs["input_ids"].shape[1]
    half = model.generate(**inputs, past_key_values=cache, max_new_tokens=TOKENS // 2, do_sample=False)
    more = half.new_ones(half.shape[0], half.shape[1] - length)
    mask = torch.cat([inputs["attention_mask"], more], 1)
    given = {"input_ids": half, "attention_mask": mask}
    assert [row[TOKENS // 2 :] for row in once] == written(model, given, cache, max_new_tokens=TOKENS // 2)
    question = {name: torch.cat([tensor, tensor[:, -3:]], 1) for name, tensor in given.items()}
    with pytest.raises(ScopeError, match="make a new cache"):
        written(model, question, cache)


# what a cache says of itself


def test_what_a_cache_holds_is_known_after_the_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    model, inputs = stock(), encoded(tokenizer, texts()[:2])
    cache = compressed(model)
    for unknown in (lambda: cache.nbytes, lambda: cache.full_bytes(9), lambda: cache.positions(0)):
        with pytest.raises(ScopeError, match="after the first call of the model"):
            unknown()
    written(model, inputs, cache)
    width = model.config.head_dim * model.config.num_key_value_heads * 3 * 8  # of one token: layers, bytes of a double
    assert cache.full_bytes(100) == 100 * 2 * width


def test_recent_that_is_all_of_d_leaves_nothing_to_choose(tokenizer: PreTrainedTokenizerBase) -> None:
    some = texts()[:2]
    inputs = encoded(tokenizer, some)
    model = stock()
    both = [written(model, inputs, compressed(model, (TIGHT[0], s))) for s in (Slide(16, 16), Recent(16, 16))]
    assert both[0] == both[1] != written(model, inputs, compressed(model))


# scope's own generate


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text).input_ids)


def test_scopes_own_generate_takes_a_stock_model_and_any_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    some = texts()
    expected = engines(tokenizer, some)
    ids = [ids_of(tokenizer, text) for text in some]
    prompts = [scope.Prompt("p0", ids[0]), scope.Prompt("p1", torch.tensor(ids[1])), scope.Prompt("p2", tuple(ids[2]))]
    assert [prompt.tokens for prompt in prompts] == [tuple(row) for row in ids]
    assert scope.Prompt("p0", np.array(ids[0])) == prompts[0]
    rows = scope.generate(stock(), tokenizer, prompts, scope.Policy(*TIGHT), TOKENS)
    assert [list(row.tokens) for row in rows] == expected


NO_TOKENS: dict[str, tuple[Callable[[PreTrainedTokenizerBase], Any], str]] = {
    "a text": (lambda _: "hello", "Prompt.tokens='hello'"),
    "an encoding": (lambda tokenizer: tokenizer("hello"), "Prompt.tokens=BatchEncoding"),
    "a batch of one": (
        lambda tokenizer: tokenizer("hello", return_tensors="pt").input_ids,
        r"Prompt.tokens=Tensor \[1, ",
    ),
    "a list of lists": (lambda _: [[1, 2]], "Prompt.tokens=list"),
    "texts": (lambda _: ["1", "2"], "Prompt.tokens=list"),
    "fractions": (lambda _: torch.tensor([1.0, 2.0]), r"Prompt.tokens=Tensor \[2\]"),
    "a number": (lambda _: 5, "Prompt.tokens=int"),
    "one number": (lambda _: torch.tensor(5), r"Prompt.tokens=Tensor \[\]"),
    "below zero": (lambda _: [-1, 3], "Prompt.tokens=list"),
    "none": (lambda _: [], "Prompt.tokens=an empty list"),
    "bytes": (lambda _: b"hello", "Prompt.tokens=bytes"),
}


@pytest.mark.parametrize("case", NO_TOKENS)
def test_what_is_no_prompt_is_refused_with_the_cure(case: str, tokenizer: PreTrainedTokenizerBase) -> None:
    make, said = NO_TOKENS[case]
    cure = r": must be the tokens of one text, tokenizer\(text\)\.input_ids$"
    with pytest.raises(ScopeError, match=rf"^{said}.*{cure}"):
        scope.Prompt("a", make(tokenizer))


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("prompts", ["hello"], r"^prompts: hello is a str: must be a Prompt\(name, tokenizer\(text\)\.input_ids\)$"),
        ("prompts", [[1, 2]], r"^prompts: \[1, 2\] is a list: must be a Prompt\("),
        ("prompts", "hello", r"^prompts=hello: must be a list of Prompt\("),
        ("prompts", scope.Prompt("a", (1, 2)), r"^prompts=Prompt.*: must be a list of Prompt\("),
        ("prompts", None, r"^prompts=null: must be a list of Prompt\("),
        ("policy", SnapKV(48, 8), r"^policy=SnapKV.*: must be a Policy\(prefill, decoding\)$"),
        ("model", "loaded", r"^model=Loaded: must be a model of transformers, load\(\.\.\.\)\.model$"),
        ("model", str(EMBEDDED), r"^model=str: must be a model of transformers, as from from_pretrained$"),
    ],
)
def test_what_generate_cannot_take_is_one_line(
    argument: str, value: Any, said: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    given = {"model": stock(), "prompts": [], "policy": scope.Policy(*TIGHT)}
    given[argument] = load(ModelSource(device="cpu")) if value == "loaded" else value
    with pytest.raises(ScopeError, match=said) as refused:
        scope.generate(tokenizer=tokenizer, max_new_tokens=3, **given)
    assert "\n" not in str(refused.value)


# transformers stays as it is


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_adopted_model_without_our_cache_is_a_stock_one(attention: str, tokenizer: PreTrainedTokenizerBase) -> None:
    def logits_of(model: PreTrainedModel) -> list[Tensor]:
        """A padded prompt, then two steps over transformers' own cache."""
        cache, inputs = DynamicCache(config=model.config), encoded(tokenizer, texts())
        mask, out = inputs["attention_mask"], []
        ids = inputs["input_ids"]
        for _ in range(3):
            out.append(model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True).logits)
            ids = out[-1][:, -1:].argmax(-1)
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
        return out

    def fresh() -> PreTrainedModel:
        model = AutoModelForCausalLM.from_pretrained(str(EMBEDDED), dtype=torch.float32, attn_implementation=attention)
        return model.eval()

    plain, adopted = fresh(), fresh()
    written(adopted, encoded(tokenizer, texts()), compressed(adopted), max_new_tokens=3)
    assert adopted.config._attn_implementation == f"scope_{attention}"
    for ours, theirs in zip(logits_of(adopted), logits_of(plain), strict=True):
        assert torch.equal(ours, theirs)


IMPORTS = """
import json, sys
import transformers
from transformers import AutoModelForCausalLM, Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as masks
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as attentions
from transformers.models.gemma3 import modeling_gemma3
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen3 import modeling_qwen3

def look():
    owners = [Cache, DynamicCache, GenerationMixin, PreTrainedModel, AutoModelForCausalLM]
    for module in (modeling_gemma3, modeling_llama, modeling_mistral, modeling_qwen3):
        owners += [x for x in vars(module).values() if isinstance(x, type) and x.__module__ == module.__name__]
        owners.append(module)
    seen = {(id(o), name): id(x) for o in owners for name, x in vars(o).items() if callable(x)}
    tables = {f"{kind} {name}": id(table[name]) for kind, table in (("attention", attentions), ("mask", masks))
              for name in table.keys()}
    return seen, tables

before, tables = look()
there = set(sys.modules)  # some of transformers' versions import pandas, where scikit-learn is installed
import scope, scope.cache, scope.cache.seam, scope.decoding, scope.prefill
import scope.generation.models, scope.generation.stream
after, more = look()
print(json.dumps({
    "looked at": len(before),
    "changed": [name for key, x in before.items() if after.get(key) != x for name in [key[1]]],
    "added": len(set(after) - set(before)),
    "replaced": [name for name in tables if more[name] != tables[name]],
    "registered": sorted(set(more) - set(tables)),
    "imported": sorted({name.partition(".")[0] for name in set(sys.modules) - there}
                       & {"hydra", "omegaconf", "wandb", "pandas"}),
}))
"""


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it as a user would, in the repository's root."""
    settings = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_importing_scope_patches_nothing_and_needs_no_hydra() -> None:
    done = python(IMPORTS)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.pop("looked at") > 100
    names = ["scope_eager", "scope_fa2", "scope_sdpa"]
    assert said == {
        "changed": [],
        "added": 0,
        "replaced": [],
        "registered": [f"{kind} {name}" for kind in ("attention", "mask") for name in names],
        "imported": [],
    }
