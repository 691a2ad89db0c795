"""What is measured on a GPU, with a Llama of 8 billion random weights in bfloat16."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from experiments.benchmarks.policies import methods, row_bytes, strategies
from experiments.benchmarks.steps import Step, by_batch, ours, peers, theirs
from experiments.benchmarks.timing import PeakMemory, Target, in_turns, milliseconds, ratio, unless_out_of_memory
from scope import decoding, prefill
from scope.cache import CompressedCache, Layout, Policy
from scope.cache.backends import implementation
from scope.generation.clock import synchronised
from scope.generation.models import RandomModel
from scope.util.memory import free_memory, rows_that_fit


@dataclass(frozen=True)
class Sizes:
    """What is measured, and how large. c, d: the budgets, in slots. length: tokens of the full caches; some have twice
    as many. steps: of a comparison. prompt: tokens of the long prompt."""

    source: RandomModel
    engine: str = "graph"
    c: int = 2048
    window: int = 8
    d: int = 512
    recent: int = 256
    batches: tuple[int, ...] = (1, 8, 32)
    length: int = 8192
    steps: int = 512
    prompt: int = 32768


LARGE = Sizes(RandomModel(preset="llama3_8b", dtype="bfloat16", device="cuda"))
STEPS = range(33, LARGE.c)  # --steps: few enough that a full cache of the same size still has a prompt
PROMPTS = range(2 * LARGE.c, 2**17 + 1)
Found = tuple[list[Target], dict[str, Any]]


def _cache(of: Sizes, model: Any, tokens: int, given: decoding.DecodingStrategy | None = None) -> CompressedCache:
    policies = prefill.SnapKV(of.c, of.window), given or decoding.Slide(of.d, of.recent)
    return CompressedCache(model.config, *policies, layout=Layout(tokens, whole=True))


def decode_step(of: Sizes) -> Found:
    """The time of a step at batch 1: slide as a CUDA graph, slide eager, the same size without eviction, kvpress."""
    model, steps = of.source.weights(implementation("sdpa")), of.steps
    tokens = of.d + steps + 1
    still = CompressedCache(model.config, layout=Layout(tokens, whole=True))
    kinds = {
        "snapkv + slide": ours(model, _cache(of, model, tokens), 2 * of.c, of.engine),
        "snapkv + slide, eager": ours(model, _cache(of, model, tokens), 2 * of.c),
        "same size, nothing evicted": ours(model, still, of.c + of.d + 1 - tokens, of.engine),
    } | peers(lambda: of.source.weights("sdpa"), 2 * of.c, of.c, of.window, of.d)
    in_turns(kinds, of.d, model.device)  # until it evicts
    ms = milliseconds(in_turns(kinds, steps, model.device), 32)
    own = ms["snapkv + slide"]
    return [
        Target("tokens/s at batch 1", 1000 / own, 220, at_most=False),
        Target("step / same size, nothing evicted", own / ms["same size, nothing evicted"], 1.05),
    ], {"ms_per_step": ms}


def batches(of: Sizes) -> Found:
    """The time of a step by the number of rows: each strategy, full caches of `length` and of twice that length.

    Also the number of rows that fit in memory.
    """
    model, steps = of.source.weights(implementation("sdpa")), of.steps // 4
    stock = of.source.weights("sdpa") if free_memory(model.device) > 60 * 2**30 else model
    tokens, most = of.d + steps + 1, of.batches[-1]

    def strategy(given: decoding.DecodingStrategy) -> tuple[Callable[[int], Step], int]:
        return lambda rows: ours(model, _cache(of, model, tokens, given), of.c + 64, of.engine, rows), of.d

    def full(length: int, static: int | None = None) -> tuple[Callable[[int], Step], int]:
        return lambda rows: theirs(stock, length - 2 * steps, rows, static), steps

    def own_full(rows: int) -> Step:
        cache = CompressedCache(model.config, layout=Layout(2 * steps, whole=True))
        return ours(model, cache, of.length - 2 * steps, of.engine, rows)

    kinds = {f"snapkv + {name}": strategy(given) for name, given in strategies(of.d, of.recent, 4 * of.d).items()} | {
        "full, ours": (own_full, steps),
        "full, transformers' DynamicCache": full(of.length),
        "full, transformers' StaticCache": full(of.length, static=of.length),
    }
    found = by_batch(kinds, of.batches, steps, model.device)
    double = f"full, {2 * of.length}"
    found |= by_batch({double: full(2 * of.length)}, of.batches[-1:], steps, model.device)

    def speed(name: str) -> float | None:
        return (found[name][most] or {}).get("tokens_per_second")

    own = speed("snapkv + slide")
    policies: dict[str, tuple[prefill.PrefillMethod, decoding.DecodingStrategy]] = {
        "slide": (prefill.SnapKV(of.c, of.window), decoding.Slide(of.d, of.recent)),
        "full": (prefill.Full(), decoding.KeepAll()),
    }
    rows = {
        name: rows_that_fit(
            *row_bytes(model.config, of.source.dtype, Policy(*both), of.length - of.d, of.d), model.device, 1
        )
        for name, both in policies.items()
    }
    return [
        Target(f"tokens/s at batch {most}", own, 3700, at_most=False),
        Target(
            "tokens/s / full cache at 8K", ratio(own, speed("full, transformers' DynamicCache")), 1.7, at_most=False
        ),
        Target("tokens/s / full cache at 16K", ratio(own, speed(double)), 2.8, at_most=False),
        Target(
            "rows of batch_size=auto / full cache's, prompts of 8K", rows["slide"] / rows["full"], 3.0, at_most=False
        ),
    ], {"by_batch": found, "rows_that_fit": rows}


def prefills(of: Sizes) -> Found:
    """The prefill of a long prompt with each method: its time, and the most memory that it takes."""
    model, prompt = of.source.weights(implementation("sdpa")), of.prompt
    ids = torch.randint(model.config.vocab_size, (1, prompt), device=model.device)

    @torch.inference_mode()
    def measure(method: prefill.PrefillMethod) -> tuple[float, int]:
        with PeakMemory(model.device) as peak:
            began = synchronised(model.device)
            cache = CompressedCache(model.config, method, decoding.Slide(of.d, of.recent))
            model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            seconds = synchronised(model.device) - began
        return seconds, peak.bytes

    seconds: dict[str, float | None] = {}
    memory: dict[str, int | None] = {}
    named = methods(of.c, of.window)
    for name, method in 2 * [*named.items()]:  # the first round warms up
        found = unless_out_of_memory(f"prefill, {name}", partial(measure, method))
        seconds[name], memory[name] = found or (None, None)
    predicted = sum(row_bytes(model.config, of.source.dtype, Policy(named["full"]), prompt, 1))
    return [
        Target(f"prefill of {prompt} tokens with h2o / without", ratio(seconds["h2o"], seconds["full"]), 2.0),
        Target("a prefill's most bytes / predicted", ratio(memory["full"], predicted)),
    ], {
        "seconds": seconds,
        "tokens": prompt,
        "peak_bytes": memory,
        "bytes": {"measured": memory["full"], "predicted": predicted},
    }
