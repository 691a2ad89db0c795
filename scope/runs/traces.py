"""Traces: what figures need beyond the records. Stored positions, and attention, at chosen layers and steps.

One file a sample, `<run>/traces/<sample>.npz`, of arrays with the shapes below: N observations, L layers, H stored
heads, Hq query heads, X = prompt + generated tokens. The first observation is after the prefill, with `step` -1.
    step [N]; layers [L]; prompt, tokens: counts
    alive [N, L, H, X] bool: the token at that position has a slot after the step's eviction
    slots [T, L] int32: slots stored after the prefill and each step, all steps
    decode_attention [N - 1, L, Hq, X] float16: of the step's query, before the eviction      (where queries > 0)
    prompt_queries [Q]; prompt_attention [L, Hq, Q, P] float16                                (where queries > 0)
"""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scope.cache import CompressedCache, Policy
from scope.generation.models import Loaded
from scope.generation.options import Hooks, Options
from scope.generation.prompts import Encoded
from scope.generation.rows import Prompt
from scope.generation.sampling import Sampling
from scope.generation.stream import generate
from scope.policy.attention import Attention
from scope.policy.scores import probabilities
from scope.util.errors import ConfigError, ImpossibleError, SettingError, check_count
from scope.util.files import write_whole


@dataclass(frozen=True)
class Trace:
    """What to observe: `layers` of the first `prompts` samples, every `every` steps, at most `most` times.

    queries: how many of the prompt's queries have their attention stored. With 0, no attention is stored at all.
    """

    layers: list[int]
    prompts: int = 1
    every: int = 4
    most: int = 256
    queries: int = 0

    def __post_init__(self) -> None:
        for name in ("prompts", "every", "most"):
            check_count(self, name, low=1)
        check_count(self, "queries")
        whole = isinstance(self.layers, list | tuple) and all(type(layer) is int for layer in self.layers)
        if not whole or not self.layers:
            raise SettingError(self, "layers", self.layers, "a list of whole numbers, as [0,-1]")

    def require(self, layers: int) -> None:
        """Raises ConfigError for a layer that does not exist. layers: how many the model has."""
        wrong = [layer for layer in self.layers if not -layers <= layer < layers]
        if wrong:
            raise ConfigError(f"trace.layers: the model has no layer {wrong[0]}; it has layers 0 to {layers - 1}")

    def require_one_answer(self, prompts: Iterable[Encoded]) -> None:
        """Raises ImpossibleError for prompts after which the model reads more than it writes."""
        if any(prompt.turns or prompt.asking for prompt in prompts):
            raise ImpossibleError(
                "trace: shows one answer right after its prompt, and here is a later turn: trace=none"
            )

    def require_no_loss(self, folder: Path, names: Iterable[str]) -> None:
        """Raises ConfigError if this trace would replace a file with attention by one without. names: the samples'."""
        for path in (file_of(folder, name) for name in names):
            if not self.queries and path.exists() and "prompt_attention" in np.load(path).files:
                raise ConfigError(f"trace.queries=0: {path} holds attention too: move it away, or take trace=attention")


def file_of(folder: Path, name: str) -> Path:
    """The path of a sample's trace in a run's folder."""
    return folder / "traces" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.npz"


class Observer:
    """Collects a trace while one sample is generated."""

    def __init__(self, trace: Trace, layers: int) -> None:
        trace.require(layers)
        self.trace = trace
        self.layers = sorted({layer % layers for layer in trace.layers})
        self.steps: list[int] = []
        self.alive: list[list[Any]] = []
        self.attended: dict[int, list[tuple[Any, Any]]] = {layer: [] for layer in self.layers}
        self.prompt_attention: dict[int, Any] = {}
        self.prompt_queries: list[int] = []
        self._step = -1

    def due(self) -> bool:
        return (self._step + 1) % self.trace.every == 0 and len(self.steps) < self.trace.most

    def watch(self, attention: Attention) -> None:
        """Passed to the cache as `watch`: stores one layer's attention, before the step's eviction."""
        if not self.trace.queries or attention.layer not in self.layers:
            return
        if attention.probabilities is not None:
            if self.due():
                seen = attention.probabilities[0].flatten(0, 1).half().cpu().numpy()
                self.attended[attention.layer].append((attention.positions[0].cpu().numpy().copy(), seen))
            return
        prompt = attention.queries.shape[2]
        chosen = torch.linspace(0, prompt - 1, min(prompt, self.trace.queries)).round().int().tolist()
        self.prompt_queries = chosen
        rows = [probabilities(attention, at, at + 1)[0, :, 0].half().cpu().numpy() for at in chosen]
        self.prompt_attention[attention.layer] = np.stack(rows, 1)

    def observe(self, cache: CompressedCache) -> None:
        """Passed to `generate` as `observe`: called after the prefill and after each step."""
        if self.due():
            self.steps.append(self._step)
            self.alive.append([cache.positions(layer)[0].cpu().numpy().copy() for layer in self.layers])
        self._step += 1

    def arrays(self, prompt: int, slots: list[list[int]]) -> dict[str, Any]:
        """The arrays of the file. prompt: its length in tokens; slots: [T][layers of the model]."""
        tokens = prompt + len(slots) - 1
        heads = self.alive[0][0].shape[0]
        alive = np.zeros((len(self.steps), len(self.layers), heads, tokens), dtype=bool)
        for n, layers in enumerate(self.alive):
            for at, positions in enumerate(layers):
                for head in range(heads):
                    alive[n, at, head, positions[head][positions[head] >= 0]] = True
        made: dict[str, Any] = {
            "step": np.array(self.steps),
            "layers": np.array(self.layers),
            "prompt": np.array(prompt),
            "tokens": np.array(tokens),
            "alive": alive,
            "slots": np.array(slots, dtype=np.int32)[:, self.layers],
        }
        if self.trace.queries:
            made |= {
                "prompt_queries": np.array(self.prompt_queries),
                "prompt_attention": np.stack([self.prompt_attention[layer] for layer in self.layers]),
                "decode_attention": np.stack([self._spread(layer, tokens) for layer in self.layers], 1),
            }
        return made

    def _spread(self, layer: int, tokens: int) -> Any:
        """-> [N - 1, Hq, X]: attention by position instead of by slot."""
        looks = self.attended[layer]
        query_heads = self.prompt_attention[layer].shape[0]
        spread = np.zeros((len(looks), query_heads, tokens), dtype=np.float16)
        for n, (positions, seen) in enumerate(looks):
            group = query_heads // len(positions)
            for head in range(query_heads):
                stored = positions[head // group] >= 0
                spread[n, head, positions[head // group][stored]] = seen[head][stored]
        return spread


def record_trace(
    trace: Trace,
    loaded: Loaded,
    prompt: Prompt,
    policy: Policy,
    max_new_tokens: int,
    sampling: Sampling,
    folder: Path,
) -> Path:
    """Generate for one prompt and write its trace. -> the file. Raises ConfigError for a layer that does not exist."""
    text = loaded.model.config.get_text_config(decoder=True)
    observer = Observer(trace, text.num_hidden_layers)
    sizes: list[list[int]] = []

    def observe(cache: CompressedCache) -> None:
        observer.observe(cache)
        sizes.append(cache.slots(0, len(sizes)))

    hooks = Hooks(observe=observe, watch=observer.watch if trace.queries else None)
    generate(loaded.model, loaded.tokenizer, [prompt], policy, max_new_tokens, sampling, Options(hooks=hooks))
    path = file_of(folder, prompt.name)
    path.parent.mkdir(exist_ok=True)
    packed = io.BytesIO()
    np.savez_compressed(packed, **observer.arrays(len(prompt.tokens), sizes))
    write_whole(path, packed.getvalue())
    return path
