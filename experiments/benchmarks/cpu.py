"""What is measured on a CPU: decode steps, batches, a long generation, refilled rows, the prefill."""

import gc
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from transformers import PretrainedConfig

from experiments.benchmarks.layouts import Gathered
from experiments.benchmarks.policies import methods, row_bytes, strategies
from experiments.benchmarks.steps import Step, by_batch, ours, peers, theirs
from experiments.benchmarks.timing import (
    TURN,
    PeakMemory,
    Target,
    held_bytes,
    in_turns,
    milliseconds,
    over,
    ratio,
    storage_bytes,
    thinned,
)
from scope import decoding, prefill
from scope.cache import CompressedCache, Layout, Policy, sizes
from scope.cache.backends import implementation
from scope.generation.models import ModelSource, RandomModel, load
from scope.generation.options import Options
from scope.generation.prompts import encode
from scope.generation.rows import Generated, Prompt
from scope.generation.stream import generate
from scope.policy.attention import Attention
from scope.policy.plan import View
from scope.policy.prompt_votes import TILE_BYTES, TILE_ROWS
from scope.policy.rule import Rule
from scope.tasks import Arithmetic

PROMPT, C, WINDOW, D, RECENT = 2048, 512, 8, 128, 64
# --steps: enough that the strategy evicts, and few enough that a full cache of the same mean size still has a prompt
STEPS = range(D + 33, 2 * C + D + 1)
LONG = range(2 * D, 2**15 + 1)
PROMPTS = range(2 * C, 2**16 + 1)
BATCHES = (1, 4, 16)
CPU = torch.device("cpu")
Found = tuple[list[Target], dict[str, Any]]
Policies = tuple[prefill.PrefillMethod, decoding.DecodingStrategy]


def decode_step(steps: int) -> Found:
    """The time of a step of h2o + slide, against three others: a full cache, a cache of the same size without eviction,
    and the released layout. Also the bytes of each cache, measured and predicted.
    """
    model = RandomModel(device="cpu").weights(implementation("sdpa"))
    stock = RandomModel(device="cpu").weights("sdpa")
    h2o, some = prefill.H2O(C, WINDOW), strategies(D, RECENT, steps)
    slide = some["slide"]

    def cache(strategy: Any, granularity: str = "kv_head", **layout: Any) -> CompressedCache:
        return CompressedCache(model.config, h2o, strategy, granularity, layout=Layout(**layout))

    def full(whole: bool = False) -> CompressedCache:
        return CompressedCache(model.config, layout=Layout(steps + 1, whole=whole))

    def compiled(held: CompressedCache, prompt: int) -> Step:
        return ours(model, held, prompt, "compile")

    caches = {f"h2o + {name}": cache(strategy) for name, strategy in some.items()} | {"full, ours": full()}
    policies: dict[str, Policies] = {f"h2o + {name}": (h2o, strategy) for name, strategy in some.items()}
    policies["full, ours"] = prefill.Full(), decoding.KeepAll()
    # a full cache with this prompt has the same mean size over the measured steps, which begin at D
    alike = C + D + 1 - (D + steps) // 2
    kinds = {name: ours(model, held, PROMPT) for name, held in caches.items()} | {
        "h2o + slide, compiled": compiled(cache(slide, whole=True), PROMPT),
        "full, ours, compiled": compiled(full(whole=True), PROMPT),
        "full, transformers' DynamicCache": theirs(stock, PROMPT),
        "full, transformers' StaticCache": theirs(stock, PROMPT, static=PROMPT + steps + 1),
        "same size, nothing evicted": ours(model, full(), alike),
        "same size, nothing evicted, compiled": compiled(full(whole=True), alike),
        "h2o + slide, gathered at each step": ours(model, cache(slide, storage=Gathered), PROMPT),
        "h2o + slide, released layout": ours(model, cache(slide, storage=Gathered, granularity="query_head"), PROMPT),
    }
    kinds |= peers(lambda: RandomModel(device="cpu").weights("sdpa"), PROMPT, C, WINDOW, D)
    seconds = in_turns(kinds, steps, CPU)
    first = D + 2 * TURN
    stocks, released = "full, transformers' DynamicCache", "h2o + slide, released layout"
    own, fast = "h2o + slide", "h2o + slide, compiled"

    def against(one: str, other: str) -> float:
        return over(seconds, one, other, first)

    weighed = {
        name: {
            "measured": held.nbytes,
            "held": held_bytes(held),
            "predicted": sizes.cache_bytes(model.config, Policy(*policies[name]), "float32", PROMPT, steps),
        }
        for name, held in caches.items()
    }
    size = weighed["h2o + slide"]
    return [
        Target("compiled step / transformers' full cache, not compiled", against(fast, stocks), 0.65),
        Target("compiled step / our full cache's, compiled", against(fast, "full, ours, compiled")),
        Target("step / same size, nothing evicted", against(own, "same size, nothing evicted"), 1.10),
        Target("the same, both compiled", against(fast, "same size, nothing evicted, compiled"), 1.10),
        Target("compiled step / released layout", against(fast, released), 0.50),
        Target("bytes measured / predicted, off by", abs(size["measured"] / size["predicted"] - 1), 0.01),
        Target("bytes of all that the cache holds / predicted", size["held"] / size["predicted"]),
    ], {
        "ms_per_step": milliseconds(seconds, first),
        "step_over_full": against(own, stocks),
        "step_over_released": against(own, released),
        "by_length": thinned(seconds),
        "bytes": weighed,
    }


def decode_batches() -> Found:
    """The time of a step by the number of rows: full caches of PROMPT tokens, and each strategy on such a prompt."""
    model = RandomModel(device="cpu").weights(implementation("sdpa"))
    stock = RandomModel(device="cpu").weights("sdpa")
    steps, before = 32, 4

    def strategy(given: decoding.DecodingStrategy) -> Callable[[int], Step]:
        # a prompt of C tokens leaves as many slots as one of PROMPT tokens, and takes less time
        return lambda rows: ours(
            model,
            CompressedCache(model.config, prefill.H2O(C, WINDOW), given, layout=Layout(D + steps)),
            C,
            batch=rows,
        )

    kinds: dict[str, tuple[Callable[[int], Step], int]] = {
        f"h2o + {name}": (strategy(given), D) for name, given in strategies(D, RECENT, 4 * D).items()
    } | {
        "full, ours": (
            lambda rows: ours(model, CompressedCache(model.config, layout=Layout(before + steps)), PROMPT, batch=rows),
            before,
        ),
        "full, transformers' DynamicCache": (lambda rows: theirs(stock, PROMPT, rows), before),
        "full, transformers' StaticCache": (
            lambda rows: theirs(stock, PROMPT, rows, static=PROMPT + before + steps),
            before,
        ),
    }
    found, most = by_batch(kinds, BATCHES, steps, CPU), BATCHES[-1]
    speeds = {name: (by_rows[most] or {}).get("tokens_per_second") for name, by_rows in found.items()}
    return [
        Target(f"tokens/s at batch {most}, h2o + slide / {other}", ratio(speeds["h2o + slide"], speeds[other]))
        for other in speeds
        if other.startswith("full, ")
    ], {"by_batch": found}


def long_generation(steps: int) -> Found:
    """Whether a step takes the same time at the end of a long generation as at its start, and whether memory grows.

    The last tenth of one generation and the first tenth of another run in turns, so that other work on the machine
    slows both.
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
    full = in_turns({"full, transformers' DynamicCache": theirs(stock, PROMPT)}, steps, CPU)
    # a StaticCache has its full size from the start, so its first steps show the time of all steps
    full |= in_turns({"full, transformers' StaticCache": theirs(stock, PROMPT, static=PROMPT + steps)}, steps // 8, CPU)
    return [
        Target(f"last / first tenth of {steps} steps", ms["last"] / ms["first"], 1.05),
        Target("bytes of tensors that a long generation added", grown, 0),
    ], thinned({"h2o + slide": series} | full)


def _tensor_bytes() -> int:
    gc.collect()
    real = (torch.Tensor, torch.nn.Parameter)  # no fake tensors, which have no data
    return storage_bytes(thing for thing in gc.get_objects() if type(thing) in real)


def batches() -> Found:
    """The embedded model with prompts of different lengths: speed by batch size, and the gain from refilled rows."""
    loaded = load(ModelSource(threads=1))
    small = (prefill.H2O(0.75, 8), decoding.Slide(64, 24))
    right = (prefill.Full(), decoding.Slide(192, 24))  # with these, generations end where they should

    def prompts(lengths: Sequence[int]) -> list[Prompt]:
        made = []
        for i, k in enumerate(lengths):
            sample = Arithmetic(questions=k, prompts=1, seed=i).samples()[0]
            encoded = encode(loaded.tokenizer, sample, "plain", None, "refuse")
            made.append(Prompt(f"{i}", encoded.tokens, sample.stop))
        return made

    def write(some: Sequence[Prompt], size: int, policies: Policies) -> list[Generated]:
        return generate(loaded.model, loaded.tokenizer, some, Policy(*policies), 640, options=Options(batch_size=size))

    def decoding_speed(some: Sequence[Prompt], size: int) -> float:
        """Tokens per second of decode steps."""
        rows = write(some, size, small)
        return sum(len(row.tokens) for row in rows) / max(row.batch_seconds for row in rows)

    def speed(some: Sequence[Prompt], size: int, wait: bool) -> float:
        """Tokens per second of the whole generation. wait: no row is refilled until the longest of its batch ends."""
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


def prefills(prompt: int) -> Found:
    """What the methods add to the prefill of one layer: time against that of the attention, memory against a block's.

    The targets are measured on the whole prompt. The other methods run on a quarter of it, which takes a sixteenth of
    the time.
    """
    run, named = _Prefill(prompt), methods(C, WINDOW)
    attention = run.attention
    held_to: dict[str, Step] = {name: partial(run, named[name]) for name in ("streamingllm", "h2o")}
    held_to["attention alone"] = lambda: torch.nn.functional.scaled_dot_product_attention(
        attention.queries, attention.keys, attention.values, is_causal=True, enable_gqa=True
    )
    whole = {name: median(found) for name, found in in_turns(held_to, 3, CPU, block=1).items()}
    extra = whole["h2o"] - whole["streamingllm"]  # streamingllm evicts without scores
    steps: dict[str, Step] = {name: partial(run, method, prompt // 4) for name, method in named.items()}
    seconds = {name: median(found) for name, found in in_turns(steps, 3, CPU, block=1).items()}
    with PeakMemory(CPU) as peak:
        run(named["full"])
    predicted = sum(row_bytes(run.model.config, "float32", Policy(named["full"]), prompt, 1))
    memory = {name: score_bytes(method, attention) for name, method in named.items()}
    return [
        Target(f"h2o's scores of {prompt} tokens / the attention's own time", extra / whole["attention alone"], 1.0),
        Target("their extra memory / a block's attention", memory["h2o"] / block_bytes(attention), 4.0),
        Target("a prefill's most bytes / predicted", peak.bytes / predicted),
    ], {
        "seconds_of_the_whole": whole,
        "seconds": seconds,
        "tokens": prompt // 4,
        "score_bytes": memory,
        "block_bytes": block_bytes(attention),
        "bytes": {"measured": peak.bytes, "predicted": predicted},
        "prompt": prompt,
    }


class _Prefill:
    """The prefill of random tokens through one layer. It is warmed up once."""

    @torch.inference_mode()
    def __init__(self, prompt: int) -> None:
        self.model = RandomModel(num_hidden_layers=1, device="cpu").weights(implementation("sdpa"))
        lots = torch.Generator().manual_seed(1)
        self.ids = torch.randint(self.model.config.vocab_size, (1, prompt), generator=lots)
        self.attention = random_attention(self.model.config, prompt)
        self(prefill.H2O(C, WINDOW), 1024)

    @torch.inference_mode()
    def __call__(self, method: prefill.PrefillMethod, tokens: int | None = None) -> None:
        cache = CompressedCache(self.model.config, method, decoding.Slide(D, RECENT))
        self.model(self.ids[:, :tokens], past_key_values=cache, use_cache=True, logits_to_keep=1)


def random_attention(config: PretrainedConfig, prompt: int) -> Attention:
    """The attention of a prompt of random tensors, as a prefill method receives it."""
    heads, dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    query, key, value = (torch.randn(1, n, prompt, dim) for n in (heads, *2 * [config.num_key_value_heads]))
    positions = torch.arange(prompt, dtype=torch.int32)[None]
    return Attention(query, key, value, positions[:, None].expand(key.shape[:3]), positions, Rule(dim**-0.5), 0)


@torch.inference_mode()
def score_bytes(method: prefill.PrefillMethod, attention: Attention) -> int:
    """The most bytes that a method takes to score a prompt; 0 for a method without scores."""
    prompt = attention.keys.shape[2]
    plan = method.plan(View(0, 1, prompt=prompt, stored=prompt))
    if plan is None or not plan.best:
        return 0
    with PeakMemory(CPU) as peak:
        method.score(attention)
    return peak.bytes


def block_bytes(attention: Attention) -> int:
    """Bytes of a block of the matrix queries x slots that one core computes at a time. It has at least one query."""
    _, heads, slots, _ = attention.keys.shape
    of_query = 4 * slots
    group = attention.queries.shape[1] // heads
    return max(group * of_query, min(TILE_BYTES[False], TILE_ROWS * of_query))
