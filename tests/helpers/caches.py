"""Caches of every kind of storage on the tiny models, and how they go on. No test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tiny_models import random_prompts, tiny
from torch import Tensor

from scope import decoding, prefill
from scope.cache import CompressedCache, Layout, Policy
from scope.cache.twin import Concatenated

LENGTHS = (30, 9, 21)


@dataclass(frozen=True)
class Kind:
    """A policy, the family of the model, and how slots lie in memory."""

    policy: Policy
    family: str = "llama"
    layout: Layout | None = None

    def empty(self) -> CompressedCache:
        return CompressedCache.of(tiny(self.family).config, self.policy, self.layout)

    def read(
        self, rows: Sequence[int] = range(len(LENGTHS)), chunk: int | None = None
    ) -> tuple[CompressedCache, Tensor]:
        """A cache that has read these prompts -> it, and logits [B, V] after each."""
        cache, prompts = self.empty(), [random_prompts(*LENGTHS)[row].tokens for row in rows]
        columns = max(map(len, prompts))
        ids = torch.tensor([[0] * (columns - len(tokens)) + list(tokens) for tokens in prompts])
        mask = torch.tensor([[0] * (columns - len(tokens)) + [1] * len(tokens) for tokens in prompts])
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        out: Any = tiny(self.family)(ids, attention_mask=mask, position_ids=places, past_key_values=cache)
        return cache, out.logits[:, -1]

    def step(self, cache: CompressedCache, tokens: Sequence[int]) -> Tensor:
        """Feed a token of each row -> logits [B, V]."""
        places = torch.tensor(cache.summary().tokens)[:, None]
        out: Any = tiny(self.family)(torch.tensor(tokens)[:, None], position_ids=places, past_key_values=cache)
        return out.logits[:, -1]

    def greedy(self, cache: CompressedCache, logits: Tensor, steps: int) -> tuple[list[list[int]], Tensor]:
        """Go on for so many steps -> the tokens [step][row] that were fed, and the logits after them."""
        fed = []
        for _ in range(steps):
            fed.append(logits.argmax(-1).tolist())
            logits = self.step(cache, fed[-1])
        return fed, logits


SLIDE, TWIN = decoding.Slide(8, 4), Layout(storage=Concatenated)
SNAPKV = prefill.SnapKV(12, 4)
KINDS = {
    "slots": Kind(Policy(SNAPKV, SLIDE)),
    "twin": Kind(Policy(SNAPKV, SLIDE), layout=TWIN),
    "int8": Kind(Policy(SNAPKV, SLIDE, precision="int8")),
    "k8v4": Kind(Policy(SNAPKV, SLIDE, precision="k8v4")),
    "int4": Kind(Policy(SNAPKV, SLIDE, precision="int4")),
    "shared heads": Kind(Policy(prefill.SnapKV(12, 4, heads="shared"), decoding.H2O(8, 4))),
    "shared heads, twin": Kind(Policy(prefill.SnapKV(12, 4, heads="shared"), SLIDE), layout=TWIN),
    "shared heads, int4": Kind(Policy(prefill.SnapKV(12, 4, heads="shared"), SLIDE, precision="int4")),
    "sliding windows": Kind(Policy(SNAPKV, decoding.H2O(8, 4)), "gemma3"),
    "sliding windows, twin": Kind(Policy(SNAPKV, decoding.H2O(8, 4)), "gemma3", TWIN),
    "pyramid": Kind(Policy(prefill.PyramidKV(12, 4), decoding.PyramidInfer(8, 4))),
    "query heads": Kind(Policy(prefill.H2O(12, 4), SLIDE, granularity="query_head")),
    "channels": Kind(Policy(SNAPKV, decoding.RaaS(8, 4))),
    "ring": Kind(Policy(SNAPKV, decoding.SnapKVD(8, 4, window=4))),
    "rotary": Kind(Policy(SNAPKV, decoding.ExpectedAttention(8, 4))),
    "periodic": Kind(Policy(SNAPKV, decoding.Discontinuous(8, 4, tokens=24))),
    "bound of slots": Kind(Policy(SNAPKV, decoding.H2O(recent=0.5), max_slots=22)),
    "bytes": Kind(Policy(prefill.SnapKV(0.5, 4), SLIDE, max_bytes=60_000)),
    "grows": Kind(Policy()),
    "whole": Kind(Policy(SNAPKV, SLIDE), layout=Layout(tokens=24, whole=True)),
}
