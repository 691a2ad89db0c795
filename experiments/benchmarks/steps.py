"""Decode steps of one kind of cache, ready to be timed."""

from collections.abc import Callable

import torch
from transformers import DynamicCache, PreTrainedModel, StaticCache
from transformers.cache_utils import Cache

from scope.cache import CompressedCache
from scope.engine import Stepper


@torch.inference_mode()
def prefilled(model: PreTrainedModel, cache: Cache, prompt: int, batch: int = 1) -> torch.Tensor:
    """Puts random tokens through -> the next one of each row [B]."""
    lots = torch.Generator().manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (batch, prompt), generator=lots).to(model.device)
    return model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1)


def ours(
    model: PreTrainedModel, cache: CompressedCache, prompt: int, engine: str = "eager", batch: int = 1
) -> Callable[[], object]:
    tokens = prefilled(model, cache, prompt, batch)
    stepper = Stepper(model, cache, torch.full_like(tokens[:, None], prompt - 1), engine)

    @torch.inference_mode()
    def step() -> None:
        nonlocal tokens
        tokens = stepper(tokens).argmax(-1)

    return step


def theirs(model: PreTrainedModel, prompt: int, batch: int = 1, static: int | None = None) -> Callable[[], object]:
    """transformers' own full cache: growing, or with room for `static` tokens from the start."""
    cache: Cache = DynamicCache(config=model.config)
    if static is not None:
        cache = StaticCache(config=model.config, max_cache_len=static)
    tokens = prefilled(model, cache, prompt, batch)
    positions = torch.full_like(tokens[:, None], prompt - 1)

    @torch.inference_mode()
    def step() -> None:
        nonlocal tokens
        positions.add_(1)
        out = model(tokens[:, None], position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        tokens = out.logits[:, -1].argmax(-1)

    return step
