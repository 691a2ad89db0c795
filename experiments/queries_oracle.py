"""Do `triattention` and `expected_attention` keep what their authors' code keeps? Exit code 1 where they do not.

    git clone https://github.com/WeianMao/triattention && git clone https://github.com/NVIDIA/kvpress
    python -m experiments.queries_oracle triattention kvpress

Needs the files alone; of kvpress a base class is stood in for. Tiny random models in float32: expected_attention over
whole prompts, triattention at two evictions, the second after other tokens were evicted in each layer and head.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from scope import decoding
from scope.cache import CompressedCache, Layout, Policy
from scope.cache.backends import implementation
from scope.cache.inputs import layer_inputs
from scope.cache.rotary import rotary_of
from scope.calibrate import calibrate
from scope.policy.attention import Attention
from scope.policy.query_statistics import QueryStatistics

VOCABULARY, LAYERS, HEADS, GROUP, DIM = 97, 3, 2, 2, 16
PROMPT, DECODED, FIRST, BUDGET = 30, 60, 40, 20
SINKS, FUTURE = 4, 64


def made(family: str) -> PreTrainedModel:
    """A tiny model with sharp attention."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": HEADS * GROUP * DIM, "intermediate_size": 96}
    heads = {"num_attention_heads": HEADS * GROUP, "num_key_value_heads": HEADS, "num_hidden_layers": LAYERS}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family, head_dim=DIM, **sizes, **heads, **special)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation("sdpa")).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(4)
    return model


@torch.inference_mode()
def read(model: PreTrainedModel, tokens: int, seed: int) -> list[Attention]:
    """The attention of each layer over a random text."""
    shown: list[Attention] = []
    ids = torch.randint(3, VOCABULARY, (1, tokens), generator=torch.Generator().manual_seed(seed))
    model(ids, past_key_values=CompressedCache.of(model.config, Policy(), Layout(1), shown.append))
    return [replace(a, rotary=rotary_of(model.config, a.layer, "oracle")) for a in shown]


def equal(ours: Tensor, theirs: Tensor) -> list[bool]:
    """For each head whether both keep the same: indices [..., n]."""
    found: list[bool] = (ours.sort(-1).values == theirs.sort(-1).values).all(-1).flatten().tolist()
    return found


@torch.inference_mode()
def expected_attention(model: PreTrainedModel, press: type, seed: int) -> list[bool]:
    """Over whole prompts, where kvpress counts positions and sinks as its paper says."""
    found = []
    tokens = PROMPT + FIRST
    with layer_inputs(model):
        for attention in read(model, tokens, seed):
            assert attention.inputs is not None
            asked = replace(
                attention,
                queries=attention.queries[:, :, SINKS:],
                query_positions=attention.query_positions[:, SINKS:],
                prompt=torch.tensor([tokens]),
            )
            given = (attention.inputs.module, attention.inputs.hidden_states, attention.keys, attention.values)
            for epsilon in (0.0, 1e-2):
                theirs = press(n_future_positions=FUTURE, n_sink=SINKS, epsilon=epsilon).score(*given, None, {})
                own = decoding.ExpectedAttention(window=tokens - SINKS, future=FUTURE, sinks=SINKS, epsilon=epsilon)
                for kept in (10, 34):
                    found += equal(own.score(asked).topk(kept).indices, theirs.topk(kept).indices)
    return found


@dataclass
class Theirs:
    """The authors' object, which keeps slots of its own for each layer and head, without the files that it reads."""

    kind: type
    parts: ModuleType

    def keep(
        self, model: PreTrainedModel, statistics: QueryStatistics, stored: list[Attention], positions: Tensor, now: int
    ) -> Tensor:
        """-> [L, H, n]: the slots that stay. positions [L, H, S], of what is stored; now: the next position."""
        judge: Any = object.__new__(self.kind)
        device, half = torch.device("cpu"), DIM // 2
        heads = [(layer, head) for layer in range(LAYERS) for head in range(HEADS * GROUP)]
        means = statistics.means
        judge.__dict__ |= {
            "config": SimpleNamespace(device=device, dtype=torch.float32, layer_perhead_aggregation="max"),
            "budget": PROMPT + BUDGET,
            "normalize_scores": True,
            "per_layer_perhead_pruning": True,
            **dict.fromkeys(("allow_prefill_compression", "per_head_pruning", "disable_mlr", "disable_trig"), False),
            **dict.fromkeys(("generator", "cache_positions_per_head"), None),
            "sampled_heads": heads,
            "head_stats": {
                (i, h): self.parts.HeadFrequencyStats(
                    torch.complex(means[i, h, :half], means[i, h, half:]), statistics.magnitudes[i, h]
                )
                for i, h in heads
            },
            "rotary": model.model.rotary_emb,
            "rope_style": "half",
            "attention_scale": 1.0,
            "head_dim": DIM,
            "omega": model.model.rotary_emb.inv_freq,
            "offsets": self.parts.build_geometric_offsets(65536, device),
            "freq_scale_sq": torch.ones(half),
            "num_attention_heads": HEADS * GROUP,
            "num_key_value_heads": HEADS,
            "num_key_value_groups": GROUP,
            "score_aggregation": "mean",
            "cache_positions": positions[0, 0].tolist(),
            "cache_positions_per_layer_perhead": {
                (i, h): positions[i, h].tolist() for i in range(LAYERS) for h in range(HEADS)
            },
            "absolute_position": now,
        }
        kept: Tensor = judge.compute_keep_indices(tuple((a.keys, a.values) for a in stored), PROMPT)
        return kept


@torch.inference_mode()
def triattention(model: PreTrainedModel, statistics: QueryStatistics, theirs: Theirs, seed: int) -> list[bool]:
    """Two evictions of the decoded slots; after the first, each layer and head holds other tokens."""
    found: list[bool] = []
    shown = read(model, PROMPT + DECODED, seed)
    positions, before = torch.empty(LAYERS, HEADS, 0, dtype=torch.long), 0
    for now in (PROMPT + FIRST, PROMPT + DECODED):
        positions = torch.cat([positions, torch.arange(before, now).expand(LAYERS, HEADS, -1)], -1)
        stored = [_at(attention, positions[attention.layer][None], now) for attention in shown]
        kept = theirs.keep(model, statistics, stored, positions, now)
        for attention in stored:
            scores = decoding.TriAttention(BUDGET, 1, statistics=statistics).score(attention)
            scores = scores.masked_fill(attention.positions < PROMPT, torch.inf)
            found += equal(scores[0].topk(PROMPT + BUDGET).indices, kept[attention.layer])
        positions, before = positions.gather(2, kept).sort(-1).values, now
    return found


def _at(a: Attention, positions: Tensor, now: int) -> Attention:
    """The decode step that stores these positions [1, H, S]; now: the next position."""
    at = positions[..., None].expand(-1, -1, -1, DIM)
    return replace(
        a,
        queries=a.queries[:, :, now - 1 : now],
        query_positions=torch.tensor([[now - 1]]),
        keys=a.keys.gather(2, at),
        values=a.values.gather(2, at),
        positions=positions,
        prompt=torch.tensor([PROMPT]),
    )


def press_of(folder: Path) -> type:
    """kvpress' class. The package would change transformers' attention where it is imported, so its files are."""
    base = ModuleType("kvpress.presses.scorer_press")
    base.ScorerPress = dataclass(type("ScorerPress", (), {}))  # type: ignore[attr-defined]
    for name in ("kvpress", "kvpress.presses"):
        package = ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    sys.modules[base.__name__] = base
    from kvpress.presses.expected_attention_press import ExpectedAttentionPress

    kind: type = ExpectedAttentionPress
    return kind


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("triattention", type=Path)
    parser.add_argument("kvpress", type=Path)
    options = parser.parse_args()
    press = press_of(options.kvpress)
    sys.path.insert(0, str(options.triattention))
    from triattention.methods import pruning_utils
    from triattention.methods.triattention import TriAttention

    found: dict[str, list[bool]] = {"expected_attention": [], "triattention": []}
    for family in ("llama", "qwen3"):
        model = made(family)
        texts = torch.randint(3, VOCABULARY, (1, 200), generator=torch.Generator().manual_seed(9)).tolist()
        statistics, theirs = calibrate(model, texts).queries, Theirs(TriAttention, pruning_utils)
        for seed in range(10):
            found["expected_attention"] += expected_attention(model, press, seed)
            found["triattention"] += triattention(model, statistics, theirs, seed)
    for name, same in found.items():
        print(f"{name}: {sum(same)} of {len(same)} kept sets are equal")
    return 0 if all(map(all, found.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
