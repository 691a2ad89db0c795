"""The benchmarks' own tools: what they weigh and time is what they say, and what is out of range or memory is told."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import DIM, HEADS, LAYERS, random_prompts, tiny

from experiments.benchmarks import cpu, cuda, peers, picture, steps
from experiments.benchmarks.__main__ import main
from experiments.benchmarks.policies import methods, row_bytes, strategies
from experiments.benchmarks.timing import PeakMemory, Target, held_bytes, in_turns, unless_out_of_memory
from scope import prefill
from scope.cache import CompressedCache, Policy
from scope.cache.backends import implementation
from scope.decoding import SnapKVD
from scope.generation.models import RandomModel
from scope.generation.read import read

CPU = torch.device("cpu")
SMALL = RandomModel(hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, device="cpu")


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        (["--only", "decode_step", "--steps", "2048"], "--steps 2048: must be from 161 to 1152"),
        (["--steps", "0"], "--steps 0: must be from 161 to 1152"),
        (["--long", "3"], "--long 3: must be from 256 to 32768"),
        (["--prompt", "7"], "--prompt 7: must be from 1024 to 65536"),
    ],
)
def test_what_a_part_cannot_run_is_refused_with_its_range(
    given: list[str], allowed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *given])
    assert main() == 2
    assert capsys.readouterr().err == f"error: {allowed}\n"


def test_the_most_memory_is_told_to_the_byte() -> None:
    with PeakMemory(CPU) as peak:
        for _ in range(2):
            one = torch.zeros(1000)
            both = one + one
            del one, both
    assert peak.bytes == 8000


def test_scores_of_larger_blocks_pass_the_bound_on_their_memory() -> None:
    attention = cpu.random_attention(SMALL.config(), 2048)
    block = cpu.block_bytes(attention)
    assert cpu.score_bytes(prefill.H2O(512, 8), attention) <= 4 * block
    assert cpu.score_bytes(prefill.H2O(512, 8, block=2048), attention) > 4 * block
    assert cpu.score_bytes(prefill.Full(), attention) == 0


def test_what_a_cache_holds_is_more_than_keys_and_values_and_each_storage_counts_once() -> None:
    model = SMALL.weights(implementation("sdpa"))
    cache = CompressedCache(model.config, prefill.H2O(32, 8), SnapKVD(16, 8))
    steps.prefilled(model, cache, 64)
    holders = [holder for layer in cache._layers for holder in (layer.storage, layer.recent_queries)]
    holders += [states for layer in cache._layers for states in (layer.storage._keys, layer.storage._values)]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for holder in holders
        for tensor in vars(holder).values()
        if isinstance(tensor, torch.Tensor)
    }
    assert cache.nbytes < sum(storages.values()) <= held_bytes(cache) < 1.1 * sum(storages.values())
    assert held_bytes([cache, cache]) == held_bytes(cache)


@pytest.mark.parametrize("static", [None, 80])
def test_copies_of_a_row_that_went_through_in_pieces_are_rows(
    static: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SMALL.weights("sdpa")
    whole: Any = steps.theirs(model, 64, 1, static)
    monkeypatch.setattr(steps, "PIECE", 24)
    rows: Any = steps.theirs(model, 64, 3, static)

    for _ in range(4):
        assert rows().tolist() == 3 * whole().tolist()


def test_memory_that_does_not_suffice_costs_one_figure(capsys: pytest.CaptureFixture[str]) -> None:
    def make(rows: int) -> steps.Step:
        if rows > 1:
            raise torch.OutOfMemoryError
        return lambda: None

    found = steps.by_batch({"full": (make, 2)}, (1, 4), 3, CPU)
    assert found["full"][4] is None
    assert (found["full"][1] or {}).keys() == {"ms_per_step", "tokens_per_second"}
    assert capsys.readouterr().err == "full, batch 4: out of memory\n"
    with pytest.raises(RuntimeError, match="another"):
        unless_out_of_memory("", _fail)
    short = Target("tokens/s", None, 1.0)
    assert not short.reached
    assert "out of memory" in short.line()
    assert Target("to be known", 3.0).reached


def _fail() -> None:
    raise RuntimeError("another")


def test_as_many_steps_as_asked_for() -> None:
    assert [len(found) for found in in_turns({"a": int, "b": int}, 37, CPU).values()] == [37, 37]


def test_rows_that_fit_count_the_prompt_as_it_goes_through() -> None:
    config = cuda.LARGE.source.config()
    kept = row_bytes(config, "bfloat16", Policy(prefill.SnapKV(2048, 8), strategies(512, 256, 512)["slide"]), 7680, 512)
    full = row_bytes(config, "bfloat16", Policy(), 7680, 512)
    assert kept[0] < full[0]
    assert kept[1] == full[1] > 0


LITTLE = cuda.Sizes(SMALL, "eager", c=16, window=4, d=8, recent=4, batches=(1, 3), length=64, steps=16, prompt=64)


def test_the_set_for_a_gpu_runs_small_here() -> None:
    targets, figures = cuda.batches(LITTLE)
    assert all(target.measured for target in targets)
    assert figures["by_batch"].keys() >= {"snapkv + pyramidinfer", "full, ours", "full, transformers' StaticCache"}
    assert all(all(by_rows.values()) for by_rows in figures["by_batch"].values())
    targets, figures = cuda.prefills(LITTLE)
    assert all(target.measured for target in targets)
    assert figures["peak_bytes"].keys() == methods(16, 4).keys()


@pytest.mark.slow
def test_the_steps_by_batch_run_small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PROMPT": 64, "C": 32, "D": 16, "RECENT": 8, "BATCHES": (1, 2)}.items():
        monkeypatch.setattr(cpu, name, value)
    targets, figures = cpu.decode_batches()
    assert len(targets) == 3
    assert all(target.measured for target in targets)
    assert all(all(by_rows.values()) for by_rows in figures["by_batch"].values())


def test_a_gpu_without_room_for_a_full_cache_still_tells_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(cuda, "theirs", none)
    targets, figures = cuda.batches(LITTLE)
    assert [target.measured is None for target in targets] == [False, True, True, False]
    assert figures["by_batch"]["full, transformers' DynamicCache"] == {1: None, 3: None}


def test_every_prefill_method_of_the_library_is_measured() -> None:
    named = {type(method) for method in methods(512, 8).values()}
    others = {prefill.PrefillMethod, prefill.KVPress, prefill.Entropy}
    assert named == {getattr(prefill, name) for name in prefill.__all__} - others


def test_a_picture_of_some_parts_and_of_figures_that_are_missing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    by_batch = {"full, ours": {1: {"tokens_per_second": 3.0}, 4: None}}
    found = {
        "surroundings": {"processor": "p", "versions": {"torch": "2"}, "created": "2026-01-01T00"},
        "figures": {"batches": {"by_batch": by_batch}, "prefills": {"seconds": {"full": 1.0, "h2o": None}}},
    }
    picture.draw(found, tmp_path / "found.png")
    assert (tmp_path / "found.png").is_file()


def test_the_page_of_the_peers_is_made_of_their_results() -> None:
    results = peers.RESULTS / "peers.json"
    assert results.with_suffix(".md").read_text() == peers.page(json.loads(results.read_text()))


def test_peers_are_fed_the_full_caches_tokens_and_hold_what_their_tensors_take() -> None:
    """And full caches agree with the full cache; a cache of a quarter, on random weights, does not."""
    prompt, tokens = 128, 16
    stock, own = tiny("llama", "sdpa", torch.float32), tiny("llama", dtype=torch.float32)
    made = read(own, [row.tokens for row in random_prompts(prompt, prompt)])
    kinds = dict(peers.of_transformers(stock, made, tokens)) | dict(peers.of_scope(own, made, tokens))
    found = peers.compared(kinds, made.logits.argmax(-1), tokens)
    pair = 2 * 2 * HEADS * DIM * 4 * LAYERS  # bytes of a token in both rows: a key and a value in float32
    assert found[peers.FULL]["bytes"] == found["ours, full"]["bytes"] == pair * (prompt + tokens)
    assert found["transformers, StaticCache"]["bytes"] == pair * (prompt + tokens)
    assert found["ours, snapkv + slide, 1/4"]["bytes"] == pair * (prompt // 4 + tokens // 4 + 1)
    for name in (peers.FULL, "transformers, StaticCache", "ours, full"):
        assert found[name]["agreement"] == 1
    assert found["ours, snapkv + slide, 1/4"]["agreement"] < 1
    assert found[peers.FULL]["ratio"] == 1
