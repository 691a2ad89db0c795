"""What is measured on a GPU, with a Llama of 8 billion random weights in bfloat16."""

from collections.abc import Callable
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
from scope.util.memory import rows_that_fit

C, WINDOW, D, RECENT = 2048, 8, 512, 256
STEPS = range(33, C)  # --steps: few enough that a full cache of the same size still has a prompt
PROMPTS = range(2 * C, 2**17 + 1)
BATCHES = (1, 8, 32)
ENGINE = "graph"
LENGTH = 8192  # tokens of the full caches. Caches of twice this length are measured too
SOURCE = RandomModel(preset="llama3_8b", dtype="bfloat16", device="cuda")
Found = tuple[list[Target], dict[str, Any]]


def _cache(model: Any, tokens: int, given: decoding.DecodingStrategy | None = None) -> CompressedCache:
    policies = prefill.SnapKV(C, WINDOW), given or decoding.Slide(D, RECENT)
    return CompressedCache(model.config, *policies, layout=Layout(tokens, whole=True))


def decode_step(steps: int) -> Found:
    """The time of a step at batch 1: slide as a CUDA graph, slide eager, the same size without eviction, kvpress."""
    model = SOURCE.weights(implementation("sdpa"))
    tokens = D + steps + 1
    still = CompressedCache(model.config, layout=Layout(tokens, whole=True))
    kinds = {
        "snapkv + slide": ours(model, _cache(model, tokens), 2 * C, ENGINE),
        "snapkv + slide, eager": ours(model, _cache(model, tokens), 2 * C),
        "same size, nothing evicted": ours(model, still, C + D + 1 - tokens, ENGINE),
    } | peers(lambda: SOURCE.weights("sdpa"), 2 * C, C, WINDOW, D)
    in_turns(kinds, D, model.device)  # until it evicts
    ms = milliseconds(in_turns(kinds, steps, model.device), 32)
    own = ms["snapkv + slide"]
    return [
        Target("tokens/s at batch 1", 1000 / own, 220, at_most=False),
        Target("step / same size, nothing evicted", own / ms["same size, nothing evicted"], 1.05),
    ], {"ms_per_step": ms}


def batches(steps: int) -> Found:
    """The time of a step by the number of rows: each strategy, full caches of LENGTH and of twice that length.

    Also the number of rows that fit in memory.
    """
    model = SOURCE.weights(implementation("sdpa"))
    stock = SOURCE.weights("sdpa") if torch.cuda.mem_get_info()[0] > 60 * 2**30 else model
    tokens, most = D + steps + 1, BATCHES[-1]

    def strategy(given: decoding.DecodingStrategy) -> tuple[Callable[[int], Step], int]:
        return lambda rows: ours(model, _cache(model, tokens, given), C + 64, ENGINE, rows), D

    def full(length: int, static: int | None = None) -> tuple[Callable[[int], Step], int]:
        return lambda rows: theirs(stock, length - 2 * steps, rows, static), steps

    def own_full(rows: int) -> Step:
        cache = CompressedCache(model.config, layout=Layout(2 * steps, whole=True))
        return ours(model, cache, LENGTH - 2 * steps, ENGINE, rows)

    kinds = {f"snapkv + {name}": strategy(given) for name, given in strategies(D, RECENT, 4 * D).items()} | {
        "full, ours": (own_full, steps),
        "full, transformers' DynamicCache": full(LENGTH),
        "full, transformers' StaticCache": full(LENGTH, static=LENGTH),
    }
    found = by_batch(kinds, BATCHES, steps, model.device)
    double = f"full, {2 * LENGTH}"
    found |= by_batch({double: full(2 * LENGTH)}, BATCHES[-1:], steps, model.device)

    def speed(name: str) -> float | None:
        return (found[name][most] or {}).get("tokens_per_second")

    own = speed("snapkv + slide")
    policies: dict[str, tuple[prefill.PrefillMethod, decoding.DecodingStrategy]] = {
        "slide": (prefill.SnapKV(C, WINDOW), decoding.Slide(D, RECENT)),
        "full": (prefill.Full(), decoding.KeepAll()),
    }
    rows = {
        name: rows_that_fit(*row_bytes(model.config, SOURCE.dtype, Policy(*both), LENGTH - D, D), model.device, 1)
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


def prefills(prompt: int) -> Found:
    """The prefill of a long prompt with each method: its time, and the most memory that it takes."""
    model = SOURCE.weights(implementation("sdpa"))
    ids = torch.randint(model.config.vocab_size, (1, prompt), device=model.device)

    @torch.inference_mode()
    def measure(method: prefill.PrefillMethod) -> tuple[float, int]:
        with PeakMemory(model.device) as peak:
            began = synchronised(model.device)
            cache = CompressedCache(model.config, method, decoding.Slide(D, RECENT))
            model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            seconds = synchronised(model.device) - began
        return seconds, peak.bytes

    seconds: dict[str, float | None] = {}
    memory: dict[str, int | None] = {}
    named = methods(C, WINDOW)
    for name, method in 2 * [*named.items()]:  # the first round warms up
        found = unless_out_of_memory(f"prefill, {name}", partial(measure, method))
        seconds[name], memory[name] = found or (None, None)
    predicted = sum(row_bytes(model.config, SOURCE.dtype, Policy(named["full"]), prompt, 1))
    return [
        Target(f"prefill of {prompt} tokens with h2o / without", ratio(seconds["h2o"], seconds["full"]), 2.0),
        Target("a prefill's most bytes / predicted", ratio(memory["full"], predicted)),
    ], {
        "seconds": seconds,
        "tokens": prompt,
        "peak_bytes": memory,
        "bytes": {"measured": memory["full"], "predicted": predicted},
    }
