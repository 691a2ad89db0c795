"""Decode steps of one kind of cache, ready to be timed."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from transformers import DynamicCache, PreTrainedModel, StaticCache
from transformers.cache_utils import Cache

from experiments.benchmarks.timing import in_turns, milliseconds, unless_out_of_memory
from scope.cache import CompressedCache
from scope.generation.steps import Stepper
from scope.prefill import kvpress
from scope.util.errors import ScopeError

PIECE = 4096  # tokens of a prompt of transformers' cache that go through at a time
Step = Callable[[], object]
Figures = dict[str, dict[int, dict[str, float] | None]]  # by name and rows; None: out of memory


@torch.inference_mode()
def prefilled(
    model: PreTrainedModel, cache: Cache, prompt: int, batch: int = 1, piece: int | None = None
) -> torch.Tensor:
    """Feeds random tokens to the model. piece: how many at a time; None is all. -> the next token of each row, [B]."""
    lots = torch.Generator().manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (batch, prompt), generator=lots).to(model.device)
    for at in range(0, prompt, piece or prompt):
        some = ids[:, at : at + (piece or prompt)]
        logits: torch.Tensor = model(some, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    return logits[:, -1].argmax(-1)


def ours(model: PreTrainedModel, cache: CompressedCache, prompt: int, engine: str = "eager", batch: int = 1) -> Step:
    tokens = prefilled(model, cache, prompt, batch)
    stepper = Stepper(model, cache, torch.full_like(tokens[:, None], prompt - 1), engine)

    @torch.inference_mode()
    def step() -> None:
        nonlocal tokens
        tokens = stepper(tokens).argmax(-1)

    return step


def theirs(model: PreTrainedModel, prompt: int, batch: int = 1, static: int | None = None) -> Step:
    """A step with transformers' own full cache.

    static: tokens that the cache has room for from the start; None is a cache that grows.
    One prompt is fed in pieces, and all rows are copies of it. Many long prompts at once would need more memory than
    their caches. The contents of a cache do not change the time of a step.
    """
    cache: Cache = DynamicCache(config=model.config)
    if static is not None:
        cache = StaticCache(config=model.config, max_cache_len=static)
    tokens: torch.Tensor = prefilled(model, cache, prompt, piece=PIECE).repeat(batch)
    with torch.inference_mode():
        for layer in cache.layers:
            for name in ("keys", "values"):
                setattr(layer, name, getattr(layer, name).repeat(batch, 1, 1, 1))
    positions = torch.full_like(tokens[:, None], prompt - 1)

    @torch.inference_mode()
    def step() -> torch.Tensor:
        nonlocal tokens
        positions.add_(1)
        out = model(tokens[:, None], position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        tokens = out.logits[:, -1].argmax(-1)
        return tokens

    return step


@torch.inference_mode()
def pressed(model: PreTrainedModel, prompt: int, kept: int, window: int, decoded: int, every: int) -> Step:
    """A step with kvpress's own hooks. The model must not be used for anything else.

    kept: slots of the prompt that snapkv keeps. decoded: further slots that knorm keeps on average while decoding.
    every: steps from one eviction by knorm to the next.
    Raises ScopeError if kvpress is not installed.
    """
    package = kvpress.load()
    decoding = package.DecodingPress(
        package.KnormPress(), compression_interval=every, target_size=kept + decoded - every // 2
    )
    snapkv = package.SnapKVPress(compression_ratio=1 - (kept + 0.5) / prompt, window_size=window)
    package.PrefillDecodingPress(snapkv, decoding)(model).__enter__()  # never left: the hooks stay
    cache = DynamicCache(config=model.config)
    lots = torch.Generator().manual_seed(1)
    tokens = torch.randint(model.config.vocab_size, (1, prompt), generator=lots).to(model.device)
    positions = torch.arange(prompt, device=model.device)

    @torch.inference_mode()
    def step() -> None:
        nonlocal tokens, positions
        out = model(
            tokens,
            position_ids=positions[None],
            cache_position=positions,  # the hooks need it, and transformers no longer passes it
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        tokens, positions = out.logits[:, -1].argmax(-1, keepdim=True), positions[-1:] + 1

    step()
    return step


def peers(make: Callable[[], PreTrainedModel], prompt: int, kept: int, window: int, decoded: int) -> dict[str, Step]:
    """Steps with kvpress that evict at each step, and every D steps.

    If kvpress is not installed, there are none, and a line on stderr says so.
    """
    try:
        return {
            f"kvpress, snapkv + knorm every {every} steps": pressed(make(), prompt, kept, window, decoded, every)
            for every in (1, decoded)
        }
    except ScopeError as missing:
        print(f"kvpress is not compared: {missing}", file=sys.stderr)
        return {}


def by_batch(
    kinds: Mapping[str, tuple[Callable[[int], Step], int]], batches: Sequence[int], steps: int, device: torch.device
) -> Figures:
    """Milliseconds of a step and tokens per second, for each kind and each number of rows. Each is alone in memory.

    kinds: for each name, a function that makes a step for a number of rows, and the steps to run before the timed ones.
    """

    def measure(make: Callable[[int], Step], first: int, rows: int) -> dict[str, float]:
        step = make(rows)
        ms = milliseconds(in_turns({"": step}, first + steps, device), first)[""]
        return {"ms_per_step": ms, "tokens_per_second": 1000 * rows / ms}

    return {
        name: {
            rows: unless_out_of_memory(f"{name}, batch {rows}", partial(measure, make, first, rows)) for rows in batches
        }
        for name, (make, first) in kinds.items()
    }
