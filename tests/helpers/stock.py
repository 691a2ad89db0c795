"""What transformers' own `generate` writes on the tiny models. No test."""

from collections.abc import Sequence
from typing import Any

import torch
from tiny_models import tiny

from scope.generation.stream import Prompt

STOCK = "sdpa"  # transformers' eager attention has no answer for padding in float64

LENGTHS, TOKENS = (30, 9, 21), 24


def stock_writes(family: str, prompts: Sequence[Prompt], dtype: torch.dtype, **settings: Any) -> list[tuple[int, ...]]:
    longest = max(len(prompt.tokens) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt.tokens)) + list(prompt.tokens) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(p.tokens)) + [1] * len(p.tokens) for p in prompts])
    settings = {"max_new_tokens": TOKENS, "do_sample": False, **settings}
    out = tiny(family, STOCK, dtype).generate(ids, attention_mask=mask, **settings)
    return [tuple(row) for row in out[:, longest:].tolist()]
