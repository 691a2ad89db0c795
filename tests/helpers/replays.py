"""The oracle of replay: token-by-token decoding of the same text through the public API, and a stock model. No test."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from tiny_models import made_up_statistics, random_prompts, tiny
from torch import Tensor
from transformers import PreTrainedModel

import scope
from scope import decoding, prefill
from scope.cache import CompressedCache, Layout, Policy
from scope.cache.storage import StorageFactory
from scope.decoding import DecodingStrategy, KeepAll
from scope.generation.replay import ReplayOptions, replay
from scope.generation.rows import pad_left
from scope.policy.attention import Attention

D, RECENT, T = 9, 4, 26
PROMPTS = [prompt.tokens for prompt in random_prompts(44, 31, 38)]
CONTINUATIONS = [prompt.tokens for prompt in random_prompts(T, 11, 19, seed=2)]
SNAPKV = prefill.SnapKV(20, 4)


def every_strategy() -> dict[str, DecodingStrategy]:
    """Every class that scope.decoding offers, at the same budget."""
    made: dict[str, Any] = {"KeepAll": KeepAll()}
    for name in set(decoding.__all__) - {"KeepAll", "DecodingStrategy"}:
        kind = getattr(decoding, name)
        names = {field.name for field in fields(kind)}
        fitting: dict[str, Any] = {
            "tokens": T,
            "window": 3,
            "every": 4,
            "sinks": 2,
            "anchors": 2,
            "kernel": 3,
            "future": 5,
        }
        fitting["statistics"] = made_up_statistics()
        made[name] = kind(D, RECENT, **{key: value for key, value in fitting.items() if key in names})
    return dict(sorted(made.items()))


class Seen:
    """What the policies are shown of decode steps: per layer the positions in the slots of each row and head."""

    def __init__(self) -> None:
        self.layers: dict[int, list[Tensor]] = defaultdict(list)

    def __call__(self, attention: Attention) -> None:
        if attention.decoding:
            self.layers[attention.layer].append(attention.positions.clone())

    def of_row(self, row: int, steps: int) -> list[list[list[list[int]]]]:
        """[layer][step][head] the tokens that are stored, ascending, this step's own included."""
        return [
            [[sorted(n for n in head if n >= 0) for head in step[row].tolist()] for step in self.layers[layer][:steps]]
            for layer in sorted(self.layers)
        ]


@dataclass
class ByHand:
    """Token-by-token decoding of forced tokens."""

    logits: Tensor  # [B, T, V]
    cache: CompressedCache
    seen: Seen


@torch.inference_mode()
def by_hand(
    model: PreTrainedModel,
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    forced: Sequence[Sequence[int]],
    layout: Layout,
) -> ByHand:
    seen = Seen()
    cache = CompressedCache.of(model.config, policy, layout, seen)
    named = [scope.Prompt(str(i), tuple(prompt)) for i, prompt in enumerate(prompts)]
    ids, mask, positions = pad_left(named, 0, model.device)
    logits = [model(input_ids=ids, attention_mask=mask.long(), position_ids=positions, past_key_values=cache).logits]
    at = positions[:, -1:]
    for t in range(max(map(len, forced)) - 1):
        at = at + 1
        token = torch.tensor([[row[t] if t < len(row) else 0] for row in forced])
        logits.append(model(input_ids=token, position_ids=at, past_key_values=cache).logits)
    return ByHand(torch.cat([logits[0][:, -1:], *logits[1:]], 1), cache, seen)


@torch.inference_mode()
def stock(family: str, prompt: Sequence[int], forced: Sequence[int]) -> Tensor:
    """Log-probabilities [T, V] by transformers' own attention, with no cache at all."""
    logits = tiny(family, "sdpa")(torch.tensor([[*prompt, *forced[:-1]]]), use_cache=False).logits[0]
    return logits[len(prompt) - 1 :].log_softmax(-1)


def check(
    family: str,
    policy: Policy,
    prompts: Sequence[Sequence[int]] = PROMPTS,
    forced: Sequence[Sequence[int]] = CONTINUATIONS,
    storage: StorageFactory | None = None,
    **options: Any,
) -> None:
    """Replay against the oracles: every number of every token, and what is stored in every layer and step."""
    seen = Seen()
    rows = replay(tiny(family), prompts, forced, policy, ReplayOptions(storage=storage, watch=seen, block=7, **options))
    plain = by_hand(tiny(family), policy, prompts, forced, Layout(max(map(len, forced)), storage))
    for b, (row, prompt, tokens) in enumerate(zip(rows, prompts, forced, strict=True)):
        n, at = len(tokens), torch.tensor(tokens)[:, None]
        full, own = stock(family, prompt, tokens), plain.logits[b, :n].log_softmax(-1)
        assert [len(x) for x in (row.kl, row.agrees, row.log_likelihood, row.full_log_likelihood)] == [n] * 4
        torch.testing.assert_close(row.kl, (full.exp() * (full - own)).sum(-1), atol=1e-10, rtol=1e-8)
        torch.testing.assert_close(row.log_likelihood, own.gather(-1, at)[:, 0], atol=1e-10, rtol=1e-8)
        torch.testing.assert_close(row.full_log_likelihood, full.gather(-1, at)[:, 0], atol=1e-10, rtol=1e-8)
        assert row.top.tolist() == own.argmax(-1).tolist()
        assert row.full_top.tolist() == full.argmax(-1).tolist()
        assert row.agrees.tolist() == (full.argmax(-1) == own.argmax(-1)).tolist()
        assert row.recalls.tolist() == (own.argmax(-1) == at[:, 0]).tolist()
        assert row.full_recalls.tolist() == (full.argmax(-1) == at[:, 0]).tolist()
        assert abs(float(row.kl[0])) < 1e-12
        assert row.slots_kept == tuple(plain.cache.slots(b, n - 1))
        assert row.prefill_kept == tuple(plain.cache.slots(b, 0))
        assert row.trace == plain.cache.trace(b, n - 1)
        peak = plain.cache.peak_slots(b, n - 1)
        assert row.cache_bytes == sum(k * plain.cache.slot_bytes(layer) for layer, k in enumerate(peak))
        if "batch_size" not in options:
            assert seen.of_row(b, n - 1) == plain.seen.of_row(b, n - 1)
