"""The figures of a GPU, on a Llama of 8 billion random weights in bfloat16."""

from collections.abc import Callable
from typing import Any

import torch

from experiments.benchmarks.steps import ours, peers, theirs
from experiments.benchmarks.timing import PeakMemory, Target, in_turns, milliseconds
from scope import decoding, prefill, sizes
from scope.attention import implementation
from scope.cache import CompressedCache
from scope.engine import rows_that_fit, synchronised
from scope.models import RandomModel

C, WINDOW, D, RECENT = 2048, 8, 512, 256
SOURCE = RandomModel(preset="llama3_8b", dtype="bfloat16", device="cuda")
Found = tuple[list[Target], dict[str, Any]]


def _cache(model: Any, tokens: int) -> CompressedCache:
    return CompressedCache(
        model.config, prefill.SnapKV(C, WINDOW), decoding.Slide(D, RECENT), tokens=tokens, whole=True
    )


def decode_step(steps: int) -> Found:
    """Batch 1: slide as CUDA graphs and eagerly, the same size without eviction, transformers' full cache."""
    model = SOURCE.weights(implementation("sdpa"), True)
    tokens = D + steps + 1
    still = CompressedCache(model.config, tokens=tokens, whole=True)
    kinds = {
        "snapkv + slide": ours(model, _cache(model, tokens), 2 * C, "graph"),
        "snapkv + slide, eager": ours(model, _cache(model, tokens), 2 * C),
        "same size, nothing evicted": ours(model, still, C + D + 1 - tokens, "graph"),
    } | peers(lambda: SOURCE.weights("sdpa", True), 2 * C, C, WINDOW, D)
    in_turns(kinds, D, model.device)  # until it evicts
    ms = milliseconds(in_turns(kinds, steps, model.device), 32)
    own = ms["snapkv + slide"]
    return [
        Target("tokens/s at batch 1", 1000 / own, 220, at_most=False),
        Target("step / same size, nothing evicted", own / ms["same size, nothing evicted"], 1.05),
    ], {"ms_per_step": ms}


def batches(steps: int) -> Found:
    """Batch 32 against the full cache at 8K and 16K, and the largest batches that fit."""
    model = SOURCE.weights(implementation("sdpa"), True)
    stock = SOURCE.weights("sdpa", True) if torch.cuda.mem_get_info()[0] > 60 * 2**30 else model
    batch, tokens = 32, D + steps + 1
    speeds: dict[str, float] = {}

    def speed(name: str, step: Callable[[], object], first: int = 0) -> None:
        for _ in range(first):
            step()
        speeds[name] = batch * 1000 / milliseconds(in_turns({"": step}, steps, model.device), steps // 4)[""]
        torch.cuda.empty_cache()

    speed("snapkv + slide", ours(model, _cache(model, tokens), C + 64, "graph", batch), D)
    for length in (8192, 16384):
        speed(f"full, {length}", theirs(stock, length - steps, batch))
    config, prompt = model.config, 8192 - D
    kept, full = (
        sizes.cache_bytes(config, *policies, "kv_head", "bfloat16", prompt, D)
        for policies in (
            (prefill.SnapKV(C, WINDOW), decoding.Slide(D, RECENT)),
            (prefill.Full(), decoding.KeepAll()),
        )
    )
    rows = {name: rows_that_fit(size, 0, model.device) for name, size in (("slide", kept), ("full", full))}
    own = speeds["snapkv + slide"]
    return [
        Target("tokens/s at batch 32", own, 3700, at_most=False),
        Target("tokens/s / full cache at 8K", own / speeds["full, 8192"], 1.7, at_most=False),
        Target("tokens/s / full cache at 16K", own / speeds["full, 16384"], 2.8, at_most=False),
        Target("largest batch / full cache's at 8K", rows["slide"] / rows["full"], 3.0, at_most=False),
    ], {"tokens_per_second": speeds, "rows_that_fit": rows}


def prefills(prompt: int) -> Found:
    """h2o's scores of a long prompt."""
    model = SOURCE.weights(implementation("sdpa"), True)
    ids = torch.randint(model.config.vocab_size, (1, prompt), device=model.device)
    seconds, memory = {}, {}
    methods = {"full": prefill.Full(), "snapkv": prefill.SnapKV(C, WINDOW), "h2o": prefill.H2O(C, WINDOW)}
    for name, method in 2 * [*methods.items()]:  # the first round warms up
        with torch.inference_mode(), PeakMemory(model.device) as peak:
            began = synchronised(model.device)
            cache = CompressedCache(model.config, method, decoding.Slide(D, RECENT))
            model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            seconds[name], memory[name] = synchronised(model.device) - began, peak.bytes
    return [
        Target(f"prefill of {prompt} tokens with h2o / without", seconds["h2o"] / seconds["full"], 2.0),
    ], {"seconds": seconds, "peak_bytes": memory}
