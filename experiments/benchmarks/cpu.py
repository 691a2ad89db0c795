"""The figures of a CPU: steps, flatness, bytes, batches, prefill."""

import gc
import multiprocessing
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import median
from typing import Any

import torch

from experiments.benchmarks.layouts import Gathered
from experiments.benchmarks.steps import ours, peers, theirs
from experiments.benchmarks.timing import PeakMemory, Target, in_turns, milliseconds
from scope import decoding, prefill, sizes
from scope.attention import implementation
from scope.cache import CompressedCache
from scope.generate import Generated, Prompt, generate
from scope.models import ModelSource, RandomModel, load
from scope.prompts import encode
from scope.scores import TILE_BYTES
from scope.tasks import Arithmetic

PROMPT, C, WINDOW, D, RECENT = 2048, 512, 8, 128, 64
CPU = torch.device("cpu")
Found = tuple[list[Target], dict[str, Any]]
Policies = tuple[prefill.PrefillMethod, decoding.DecodingStrategy]


def decode_step(steps: int) -> Found:
    """One step of h2o + slide against the full cache, the same size without eviction, and the released layout."""
    model = RandomModel(device="cpu").weights(implementation("sdpa"))
    stock = RandomModel(device="cpu").weights("sdpa")
    h2o, slide, grown = prefill.H2O(C, WINDOW), decoding.Slide(D, RECENT), {"tokens": steps + 1}

    def cache(decode: Any, **options: Any) -> CompressedCache:
        return CompressedCache(model.config, h2o, decode, **options)

    def compiled(held: CompressedCache, prompt: int) -> Callable[[], object]:
        return ours(model, held, prompt, "compile")

    compressed = cache(slide)
    alike = C + D + 1 - (D + steps) // 2  # of the same size on average over the steps that are measured, from D on
    kinds = {
        "h2o + slide": ours(model, compressed, PROMPT),
        "h2o + slide, compiled": compiled(cache(slide, whole=True), PROMPT),
        "h2o + adaptive": ours(model, cache(decoding.Adaptive(D, RECENT, tokens=steps)), PROMPT),
        "h2o + discontinuous": ours(model, cache(decoding.Discontinuous(D, RECENT, tokens=steps)), PROMPT),
        "h2o + h2o": ours(model, cache(decoding.H2O(D, RECENT)), PROMPT),
        "h2o + streamingllm": ours(model, cache(decoding.StreamingLLM(D, RECENT)), PROMPT),
        "full, ours": ours(model, CompressedCache(model.config, **grown), PROMPT),
        "full, transformers' DynamicCache": theirs(stock, PROMPT),
        "full, transformers' StaticCache": theirs(stock, PROMPT, static=PROMPT + steps + 1),
        "same size, nothing evicted": ours(model, CompressedCache(model.config, **grown), alike),
        "same size, nothing evicted, compiled": compiled(CompressedCache(model.config, whole=True, **grown), alike),
        "h2o + slide, gathered at each step": ours(model, cache(slide, storage=Gathered), PROMPT),
        "h2o + slide, released layout": ours(model, cache(slide, storage=Gathered, granularity="query_head"), PROMPT),
    } | peers(lambda: RandomModel(device="cpu").weights("sdpa"), PROMPT, C, WINDOW, D)
    ms = milliseconds(in_turns(kinds, steps, CPU), D + 32)
    full, released = ms["full, transformers' DynamicCache"], ms["h2o + slide, released layout"]
    own, fast = ms["h2o + slide"], ms["h2o + slide, compiled"]
    predicted = sizes.cache_bytes(model.config, h2o, slide, "kv_head", "float32", PROMPT, steps)
    return [
        Target("compiled step / step of transformers' full cache", fast / full, 0.65),
        Target("step / same size, nothing evicted", own / ms["same size, nothing evicted"], 1.10),
        Target("the same, both compiled", fast / ms["same size, nothing evicted, compiled"], 1.10),
        Target("compiled step / released layout", fast / released, 0.50),
        Target("bytes measured / predicted, off by", abs(compressed.nbytes / predicted - 1), 0.01),
    ], {
        "ms_per_step": ms,
        "step_over_full": own / full,
        "step_over_released": own / released,
        "bytes": {"measured": compressed.nbytes, "predicted": predicted},
    }


def long_generation(steps: int) -> Found:
    """Whether a step costs the same however much has been written; and what else grows.

    The last tenth of one generation and the first of another take turns, so that the machine's mood falls on both.
    """
    model = RandomModel(device="cpu").weights(implementation("sdpa"))
    stock = RandomModel(device="cpu").weights("sdpa")

    def generation() -> Callable[[], object]:
        cache = CompressedCache(model.config, prefill.H2O(C, WINDOW), decoding.Slide(D, RECENT))
        return ours(model, cache, PROMPT)

    old, tenth = generation(), steps // 10
    series = in_turns({"": old}, D + 32, CPU)[""]
    held = _tensor_bytes()
    series += in_turns({"": old}, steps - tenth - len(series), CPU)[""]
    grown = _tensor_bytes() - held
    both = in_turns({"first": generation(), "last": old}, tenth, CPU)
    ms = milliseconds(both, 0)
    series += both["last"]
    full = in_turns({"full": theirs(stock, PROMPT)}, steps, CPU)["full"]
    every = max(1, steps // 64)
    thinned = {
        name: [milliseconds({"": found[i : i + every]}, 0)[""] for i in range(0, len(found), every)]
        for name, found in (("h2o + slide", series), ("full, transformers' DynamicCache", full))
    }
    return [
        Target(f"last / first tenth of {steps} steps", ms["last"] / ms["first"], 1.05),
        Target("bytes of tensors that a long generation added", grown, 0),
    ], {"ms_per_step": thinned, "steps_each": every}


def _tensor_bytes() -> int:
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):  # not those that only stand for one
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def batches() -> Found:
    """Batches of ragged prompts on the embedded model, and rows that are refilled."""
    loaded = load(ModelSource(threads=1))
    small = (prefill.H2O(0.75, 8), decoding.Slide(64, 24))
    right = (prefill.Full(), decoding.Slide(192, 24))  # with which answers end where they should

    def prompts(lengths: Sequence[int]) -> list[Prompt]:
        made = []
        for i, k in enumerate(lengths):
            sample = Arithmetic(questions=k, prompts=1, seed=i).samples()[0]
            encoded = encode(loaded.tokenizer, sample, "plain", None, "refuse")
            made.append(Prompt(f"{i}", encoded.tokens, sample.stop))
        return made

    def write(some: Sequence[Prompt], size: int, policies: Policies) -> list[Generated]:
        return generate(loaded.model, loaded.tokenizer, some, *policies, 640, batch_size=size)

    def decoding_speed(some: Sequence[Prompt], size: int) -> float:
        """Tokens per second of decode steps."""
        rows = write(some, size, small)
        return sum(len(row.tokens) for row in rows) / max(row.batch_seconds for row in rows)

    def speed(some: Sequence[Prompt], size: int, wait: bool) -> float:
        """Tokens per second of all; `wait`: for the longest row of each batch, refilling none."""
        parts = [some[at : at + size] for at in range(0, len(some), size)] if wait else [some]
        began = time.perf_counter()
        rows = [row for part in parts for row in write(part, size, right)]
        return sum(len(row.tokens) for row in rows) / (time.perf_counter() - began)

    alike = prompts([20 + i % 9 for i in range(16)])
    varied = prompts(random.Random(0).choices((4, 5, 6, 8, 10, 14, 20, 28), k=48))
    write(alike[:1], 1, small)  # warm up
    by_size = {size: decoding_speed(alike[: max(4, size)], size) for size in (1, 2, 4, 8, 16)}
    waiting, refilled = speed(varied, 8, wait=True), speed(varied, 8, wait=False)
    return [
        Target("tokens/s of steps, batch 16 / batch 1, embedded model", by_size[16] / by_size[1], 4.0, at_most=False),
        Target("tokens/s refilled / waiting for the longest row", refilled / waiting, 1.3, at_most=False),
    ], {"tokens_per_second": by_size, "waiting": waiting, "refilled": refilled}


METHODS: dict[str, prefill.PrefillMethod] = {
    "full": prefill.Full(),
    "streamingllm": prefill.StreamingLLM(C),
    "snapkv": prefill.SnapKV(C, WINDOW),
    "h2o": prefill.H2O(C, WINDOW),
    "pyramidinfer": prefill.PyramidInfer(C, WINDOW),
}


def prefills(prompt: int) -> Found:
    """What the methods add to a layer's prefill: time against the attention's own, memory against the block's.

    Memory of each in a process of its own, which has not used any before; h2o's time in turns with what it is
    compared to.
    """
    memory = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes:
        for name in METHODS:
            memory[name], row = processes.submit(_prefill_bytes, name, prompt).result()
        seconds = processes.submit(_prefill_seconds, prompt).result()
    extra = seconds["h2o"] - seconds["streamingllm"]  # which evicts without scores
    block = max(TILE_BYTES[False], row)
    return [
        Target(f"h2o's scores of {prompt} tokens / the attention's own time", extra / seconds["attention alone"], 1.0),
        Target("their extra memory / a block's attention", (memory["h2o"] - memory["streamingllm"]) / block, 4.0),
    ], {"seconds": seconds, "peak_bytes": memory, "prompt": prompt, "block_bytes": block}


class _Prefill:
    """One layer's prefill of random tokens, warmed up."""

    @torch.inference_mode()
    def __init__(self, prompt: int, warm_up_with: prefill.PrefillMethod) -> None:
        self.model = RandomModel(num_hidden_layers=1, device="cpu").weights(implementation("sdpa"))
        lots = torch.Generator().manual_seed(1)
        self.ids = torch.randint(self.model.config.vocab_size, (1, prompt), generator=lots)
        self(warm_up_with, 1024)

    @torch.inference_mode()
    def __call__(self, method: prefill.PrefillMethod, tokens: int | None = None) -> None:
        cache = CompressedCache(self.model.config, method, decoding.Slide(D, RECENT))
        self.model(self.ids[:, :tokens], past_key_values=cache, use_cache=True, logits_to_keep=1)


def _prefill_bytes(name: str, prompt: int) -> tuple[int, int]:
    """-> the most bytes that a prefill takes, bytes of one query's attention."""
    method = METHODS[name]
    run = _Prefill(prompt, method)
    with PeakMemory(CPU) as peak:
        run(method)
    config = run.model.config
    return peak.bytes, config.num_attention_heads // config.num_key_value_heads * prompt * 4


def _prefill_seconds(prompt: int) -> dict[str, float]:
    """Of a prefill by method, and of its attention alone: medians of three turns."""
    run = _Prefill(prompt, METHODS["h2o"])
    config = run.model.config
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    query, key = (torch.randn(1, n, prompt, config.hidden_size // heads) for n in (heads, groups))
    steps: dict[str, Callable[[], object]] = {name: partial(run, METHODS[name]) for name in ("streamingllm", "h2o")}
    steps["attention alone"] = lambda: torch.nn.functional.scaled_dot_product_attention(
        query, key, key, is_causal=True, enable_gqa=True
    )
    return {name: median(found) for name, found in in_turns(steps, 3, CPU, block=1).items()}
