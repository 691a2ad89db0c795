"""Processors of a generation config. Oracle: transformers' own `generate` on a stock copy, each prompt alone."""

import copy
import io
import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny_models import SCOPE, VOCABULARY, WORDS, generate, random_prompts, tiny
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import WatermarkingConfig

from scope import decoding, prefill
from scope.cache import CompressedCache
from scope.generation.engine import Engine
from scope.generation.models import EMBEDDED, ModelSource
from scope.generation.processors import APPLIED, REFUSED, WHEN_SAMPLING, asked_for, described
from scope.generation.rows import Prompt
from scope.generation.sampling import Sampling
from scope.runs.experiment import Experiment
from scope.runs.run import run
from scope.runs.tracking import NoTracking
from scope.tasks import Arithmetic
from scope.util.errors import ConfigError, SettingError

FULL = (prefill.Full(), decoding.KeepAll())
TOKENS, LENGTHS = 24, (30, 9, 21)
PROMPTS = random_prompts(*LENGTHS)
MODEL = Sampling(processors="model")


def model_asking(attention: str = SCOPE, **asked: Any) -> PreTrainedModel:
    """A copy whose generation config asks for this."""
    model = copy.copy(tiny("llama", attention, torch.float32))
    model.generation_config = GenerationConfig(**{"pad_token_id": 0, "bos_token_id": 1, **asked})
    return model


def stock(prompts: Sequence[Prompt] = PROMPTS, tokens: int = TOKENS, **asked: Any) -> list[list[int]]:
    """What transformers writes with its full cache, each prompt alone, up to the end of sequence."""
    model = model_asking("sdpa", **asked)
    rows = []
    for prompt in prompts:
        ids = torch.tensor([prompt.tokens])
        out = model.generate(ids, max_new_tokens=tokens, do_sample=False, temperature=None, top_p=None, top_k=None)
        rows.append(out[0, len(prompt.tokens) :].tolist())
    return rows


def ours(sampling: Sampling = MODEL, batch_size: int | None = None, engine: str = "eager", **asked: Any) -> list[Any]:
    model = model_asking(**asked)
    return generate(model, WORDS, PROMPTS, *FULL, TOKENS, sampling, batch_size=batch_size, engine=engine)


GREEDY = stock()
FIRST = GREEDY[0]
COMMON = [token for row in GREEDY for token in row[:3]]  # tokens that the model does like
ASKED: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 3.0},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 3.0},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[FIRST[0]], FIRST[2:4]], "eos_token_id": 2},
    "bad_words_ids_without_eos": {"bad_words_ids": [[token] for token in COMMON]},
    "sequence_bias": {"sequence_bias": [[[FIRST[0]], -50.0], [[5, 6], 50.0], [[7], 3.0]]},
    "min_length": {"min_length": 33, "eos_token_id": COMMON},
    "min_new_tokens": {"min_new_tokens": 7, "eos_token_id": COMMON},
    "forced_bos_token_id": {"forced_bos_token_id": 7},
    "forced_eos_token_id": {"forced_eos_token_id": 11, "eos_token_id": 11},
    "forced_eos_of_several": {"forced_eos_token_id": [11, 12], "eos_token_id": [11, 12]},
    "suppress_tokens": {"suppress_tokens": COMMON},
    "begin_suppress_tokens": {"begin_suppress_tokens": COMMON},
    "exponential_decay": {"exponential_decay_length_penalty": (3, 1.6), "eos_token_id": [90, 91]},
    "remove_invalid_values": {"remove_invalid_values": True, "repetition_penalty": 2.0},
    "renormalize_logits": {"renormalize_logits": True, "repetition_penalty": 2.0},
    "watermarking": {"watermarking_config": WatermarkingConfig(greenlist_ratio=0.3, bias=6.0)},
    "all_together": {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": COMMON[:2],
        "begin_suppress_tokens": COMMON[2:5],
        "min_new_tokens": 5,
        "bad_words_ids": [[COMMON[5]]],
        "eos_token_id": [90, 91, COMMON[6]],
    },
}


@pytest.mark.parametrize("name", ASKED)
def test_a_batch_writes_what_generate_writes_for_each_prompt_alone(name: str) -> None:
    rows = ours(**ASKED[name])
    assert [list(row.tokens) for row in rows] == stock(**ASKED[name])
    if name not in ("forced_bos_token_id", "encoder_repetition_penalty"):
        assert [list(row.tokens) for row in rows] != GREEDY  # it does something


def test_by_default_nothing_is_applied() -> None:
    asked = ASKED["all_together"] | {"eos_token_id": None}
    assert [list(row.tokens) for row in ours(Sampling(), **asked)] == GREEDY


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_rows_that_come_later_get_processors_of_their_own(engine: str) -> None:
    rows = ours(batch_size=2, engine=engine, **ASKED["all_together"])
    assert [list(row.tokens) for row in rows] == stock(**ASKED["all_together"])


def test_the_library_way_agrees_with_the_engine() -> None:
    """`model.generate` with a compressed cache applies what the engine applies with processors=model."""
    asked, policies = ASKED["all_together"], (prefill.SnapKV(16, 4), decoding.Slide(10, 4))
    rows = generate(model_asking(**asked), WORDS, PROMPTS, *policies, TOKENS, MODEL)
    for prompt, row in zip(PROMPTS, rows, strict=True):
        model = model_asking(**asked)
        cache = CompressedCache(model.config, *policies)
        out = model.generate(torch.tensor([prompt.tokens]), past_key_values=cache, max_new_tokens=TOKENS)
        assert out[0, len(prompt.tokens) :].tolist() == list(row.tokens)


def test_our_min_new_tokens_goes_before_the_configs() -> None:
    asked = {"min_new_tokens": 2, "eos_token_id": COMMON}
    rows = ours(Sampling(processors="model", min_new_tokens=9), **asked)
    assert [list(row.tokens) for row in rows] == stock(**(asked | {"min_new_tokens": 9}))


@pytest.mark.parametrize("more", [{}, {"min_p": 0.2}, {"typical_p": 0.5, "epsilon_cutoff": 0.01}, {"eta_cutoff": 0.02}])
def test_draws_follow_the_chances_of_generate(more: dict[str, Any]) -> None:
    """The first token of many draws, against the scores that transformers samples from with our temperature."""
    asked = {"repetition_penalty": 1.5, "do_sample": True, "temperature": 0.1, "top_k": 2, **more}
    hot = {"temperature": 1.7, "top_k": 12, "top_p": 0.9}
    prompt = PROMPTS[1]
    out = model_asking("sdpa", **asked).generate(
        torch.tensor([prompt.tokens]), max_new_tokens=1, **hot, output_scores=True, return_dict_in_generate=True
    )
    chances = out.scores[0][0].softmax(-1)
    draws = [Prompt(str(n), prompt.tokens) for n in range(600)]
    rows = generate(model_asking(**asked), WORDS, draws, *FULL, 1, Sampling(processors="model", **hot))
    seen = torch.tensor([row.tokens[0] for row in rows]).bincount(minlength=VOCABULARY) / len(rows)
    assert set(seen.nonzero()[:, 0].tolist()) <= set(chances.nonzero()[:, 0].tolist())
    assert 0.5 * (seen - chances).abs().sum() < 0.12


def test_stop_strings_of_the_config_end_a_row() -> None:
    text = " ".join(map(str, GREEDY[0][4:6]))
    rows = ours(stop_strings=[text])
    assert rows[0].finish == "stop"
    assert rows[0].text == " ".join(map(str, GREEDY[0])).partition(text)[0]
    assert ours(Sampling(), stop_strings=[text])[0].finish == "length"


@pytest.mark.parametrize(
    "asked", [{"num_beams": 4}, {"guidance_scale": 1.5}, {"penalty_alpha": 0.6, "top_k": 4}, {"max_time": 1.0}]
)
def test_what_is_more_than_a_change_of_the_logits_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"processors=model: .* asks for {next(iter(asked))}=.*none leaves it out"):
        ours(**asked)
    assert [list(row.tokens) for row in ours(Sampling(), **asked)] == GREEDY


def test_what_a_config_asks_for_is_named() -> None:
    config = GenerationConfig(
        repetition_penalty=1.05, do_sample=True, temperature=0.7, min_p=0.1, suppress_tokens=[1] * 99
    )
    assert asked_for(config, sampled=False) == {"repetition_penalty": 1.05, "suppress_tokens": [1] * 99}
    assert asked_for(config, sampled=True).keys() == {"repetition_penalty", "suppress_tokens", "min_p"}
    said = described(config, sampled=False)
    assert (said["do_sample"], said["temperature"], said["repetition_penalty"]) == (True, 0.7, 1.05)
    assert len(str(said["suppress_tokens"])) <= 60
    assert asked_for(GenerationConfig(repetition_penalty=1.0, min_length=0, num_beams=1), sampled=True) == {}
    assert asked_for(None, sampled=True) == {}


def test_no_field_of_a_generation_config_that_chooses_tokens_is_unknown() -> None:
    """A field that transformers adds has to be looked at here before it is passed over in silence."""
    known = {*APPLIED, *WHEN_SAMPLING, *REFUSED, "do_sample", "temperature", "top_k", "top_p"}
    lengths = {"max_length", "max_new_tokens", "early_stopping", "length_penalty", "num_return_sequences"}
    tokens = {"pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"}
    beams = {"diversity_penalty", "low_memory"}  # nothing without beams
    cache = {"use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size"}
    output = {name for name in vars(GenerationConfig()) if name.startswith(("output_", "return_", "_"))}
    speed = {  # the same tokens, sooner
        "compile_config",
        "disable_compile",
        "continuous_batching_config",
        "use_mtp",
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "assistant_early_exit",
        "assistant_lookbehind",
        "target_lookbehind",
        "assistant_ensemble_weight",
        "speculation_type",
    }
    other = {"transformers_version"}
    unknown = set(vars(GenerationConfig())) - known - lengths - tokens - beams - cache - output - speed - other
    assert not unknown


def test_nothing_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(**ASKED["all_together"], max_length=50, temperature=0.6, top_p=0.9)


def test_a_word_that_is_none_of_them_is_refused() -> None:
    with pytest.raises(SettingError, match="processors=all: must be one of none, model"):
        Sampling(processors="all")


# what a run says


def experiment(**changes: Any) -> Experiment:
    settings = {
        "model": ModelSource(),
        "method": prefill.SnapKV(40, 8),
        "decoding": decoding.Slide(32, 16),
        "task": Arithmetic(questions=4, max_new_tokens=12, prompts=2),
        "sampling": Sampling(),
        "labels": {"model": "embedded", "method": "snapkv", "decoding": "slide", "task": "arithmetic"},
        "engine": Engine(batch_size=2),
    }
    return Experiment(**(settings | changes))


def saved(folder: Path, **asked: Any) -> Path:
    """The embedded model with another generation config."""
    shutil.copytree(EMBEDDED, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "pad_token_id": 0, **asked}))
    return folder


def test_a_run_says_once_what_it_leaves_out_and_its_manifest_what_was_asked(tmp_path: Path) -> None:
    asked = {"repetition_penalty": 1.05, "do_sample": True, "temperature": 0.7}
    source = ModelSource(path=str(saved(tmp_path / "model", **asked)), threads=1)
    said = io.StringIO()
    what = experiment(model=source)
    folder = run(what, NoTracking(), tmp_path / "out", Console(file=said))
    assert said.getvalue().count("asks for repetition_penalty=1.05: not applied (sampling.processors=model") == 1
    assert (
        "in place of its do_sample=True, temperature=0.7, sampling.temperature, top_p and top_k count"
        in said.getvalue()
    )
    assert json.loads((folder / "manifest.json").read_text())["generation_config"] == asked

    quiet = io.StringIO()
    followed = replace(what, sampling=Sampling(processors="model"))
    other = run(followed, NoTracking(), tmp_path / "out", Console(file=quiet))
    assert "generation config" not in quiet.getvalue()
    assert other != folder  # another run: it may write other tokens
    assert json.loads((other / "manifest.json").read_text())["generation_config"] == asked


def test_a_run_that_goes_on_keeps_what_was_asked(tmp_path: Path) -> None:
    source = ModelSource(path=str(saved(tmp_path / "model", suppress_tokens=[5])), threads=1)
    what = experiment(model=source, limit=1)
    folder = run(what, NoTracking(), tmp_path / "out", Console(file=io.StringIO()))
    said = io.StringIO()
    assert run(replace(what, limit=2), NoTracking(), tmp_path / "out", Console(file=said)) == folder
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["samples"], manifest["generation_config"]) == (2, {"suppress_tokens": "[5]"})
    assert "asks for suppress_tokens=[5]: not applied" in said.getvalue()


def test_a_run_that_cannot_follow_the_config_writes_nothing(tmp_path: Path) -> None:
    source = ModelSource(path=str(saved(tmp_path / "model", num_beams=3)), threads=1)
    with pytest.raises(ConfigError, match="num_beams=3"):
        run(
            experiment(model=source, sampling=Sampling(processors="model")),
            NoTracking(),
            tmp_path / "out",
            Console(file=io.StringIO()),
        )
    assert not (tmp_path / "out").exists()


def test_the_embedded_model_asks_for_nothing(tmp_path: Path) -> None:
    said = io.StringIO()
    folder = run(experiment(limit=1), NoTracking(), tmp_path, Console(file=said))
    assert "generation config" not in said.getvalue()
    assert "generation_config" not in json.loads((folder / "manifest.json").read_text())
