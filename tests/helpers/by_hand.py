"""Which tokens every method keeps, spelt out in loops: the oracle of the tests of policies. No test."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from tiny_models import (
    DIM,
    GROUP,
    HEADS,
    LAYERS,
    SLIDING_WINDOW,
    WORDS,
    Trace,
    generate,
    tiny,
)
from torch import Tensor
from transformers import DynamicCache

from scope.decoding import DecodingStrategy
from scope.generation.rows import Generated, Prompt
from scope.prefill import PrefillMethod

C, WINDOW, D, RECENT = 16, 4, 10, 4  # budgets and windows of the prefill and of decoding, in all tests of policies

TOKENS = 40

LONG, CLIPPED, SHORT = 40, 24, 9  # prompts: twice the budget and more; where the pyramid is clipped; under the budget

BETA = 20

STOCK = "eager"  # the attention that tells its probabilities


@dataclass(frozen=True)
class PromptPass:
    """One prompt through stock attention; lists of one tensor per layer."""

    probabilities: list[Tensor]  # [Hq, P, P]
    queries: list[Tensor]  # [Hq, P, d], rotated
    keys: list[Tensor]  # [H, P, d], rotated
    values: list[Tensor]  # [H, P, d]
    token: int  # the first that is generated


def rotated(x: Tensor, position: int, theta: float) -> Tensor:
    """RoPE of x [..., d]: the i-th pair (x_i, x_{i + d/2}) turned by position * theta^(-2i/d)."""
    half = x.shape[-1] // 2
    angles = position * (1.0 / theta ** (torch.arange(0, 2 * half, 2).float() / (2 * half)))
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([x[..., :half] * cos - x[..., half:] * sin, x[..., half:] * cos + x[..., :half] * sin], -1)


@cache
@torch.inference_mode()
def prompt_pass(family: str, tokens: tuple[int, ...]) -> PromptPass:
    model = tiny(family, STOCK)
    asked: list[Tensor] = []
    hooks = [
        getattr(layer.self_attn, "q_norm", layer.self_attn.q_proj).register_forward_hook(
            lambda _module, _inputs, output: asked.append(output.view(len(tokens), HEADS * GROUP, DIM))
        )
        for layer in model.model.layers
    ]
    kept = DynamicCache()
    out = model(torch.tensor([tokens]), past_key_values=kept, output_attentions=True)
    for hook in hooks:
        hook.remove()
    theta = model.config.rope_parameters["rope_theta"]
    queries = [torch.stack([rotated(q[i], i, theta) for i in range(len(tokens))], 1) for q in asked]
    return PromptPass(
        probabilities=[layer[0] for layer in out.attentions],
        queries=queries,
        keys=[layer.keys[0] for layer in kept.layers],
        values=[layer.values[0] for layer in kept.layers],
        token=int(out.logits[0, -1].argmax()),
    )


def falling(layer: int, mean: int, most: int | None) -> int:
    """The pyramid's number of slots beside the window: of three layers the middle one has the mean; `most`: clipped."""
    low = mean // BETA
    high = 2 * mean - low
    if most is not None and high > most:
        high, low = most, 2 * mean - most
    return (high, mean, low)[layer]


def sums(weights: list[list[list[float]]], length: int) -> list[float]:
    """[query head][query][slot] -> per slot the sum over the queries, averaged over the query heads."""
    total = [0.0] * length
    for head in weights:
        for query in head:
            for slot, weight in enumerate(query):
                total[slot] += weight / GROUP
    return total


def released_weights(seen: PromptPass, layer: int, head: int) -> list[list[list[float]]]:
    """The released code's probabilities: only within the last window x window block is the future hidden."""
    length = seen.keys[layer].shape[1]
    weights = []
    for query_head in range(head * GROUP, (head + 1) * GROUP):
        logits = (seen.queries[layer][query_head] @ seen.keys[layer][head].T) / math.sqrt(DIM)
        for q in range(length - WINDOW, length):
            for k in range(length - WINDOW, length):
                if k > q:
                    logits[q, k] = -math.inf
        weights.append(logits.softmax(-1).tolist())
    return weights


def naive_scores(method: str, seen: PromptPass, layer: int, head: int, sliding_window: int | None) -> list[float]:
    """What METHODS.md calls a method's "others" to be ranked by, for every slot of the prompt."""
    length = seen.keys[layer].shape[1]
    name, _, votes = method.partition("-")
    weights = seen.probabilities[layer][head * GROUP : (head + 1) * GROUP].tolist()
    if name in ("snapkv", "pyramidkv"):
        asked = sums([queries[-WINDOW:] for queries in weights], length)
        others = length - WINDOW
        return [max(asked[max(0, s - 3) : min(others, s + 4)]) if s < others else 0.0 for s in range(length)]
    if name == "recent":
        return [float(slot) for slot in range(length)]
    if votes == "released":
        return sums(released_weights(seen, layer, head), length)
    total = sums(weights, length)
    if votes == "mean":
        reach = length if sliding_window is None else sliding_window
        return [total[slot] / min(length - slot, reach) for slot in range(length)]
    return total


def ran(
    method: PrefillMethod, strategy: DecodingStrategy, prompts: Sequence[Prompt], tokens: int, family: str = "llama"
) -> tuple[list[Generated], Trace]:
    trace = Trace()
    return generate(tiny(family), WORDS, prompts, method, strategy, tokens, observe=trace), trace


@dataclass
class Held:
    """What one layer and key/value head holds, oldest first."""

    positions: list[int] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def keep(self, places: list[int]) -> None:
        self.positions = [self.positions[i] for i in places]
        self.keys = [self.keys[i] for i in places]
        self.values = [self.values[i] for i in places]


Rule = Callable[[int, int, int, list[int], list[float]], list[int]]


class ByHand:
    """Llama, Mistral and Qwen3 for one row, one token at a time."""

    def __init__(self, family: str, prompt: Prompt, start: list[list[list[int]]]) -> None:
        """`start`: [layer][head] the positions that the prefill left."""
        model = tiny(family, STOCK)
        self.config, self.body, self.head = model.config, model.model, model.lm_head
        self.theta = model.config.rope_parameters["rope_theta"]
        self.sliding_window = SLIDING_WINDOW if family == "mistral_sliding" else None
        self.seen = prompt_pass(family, prompt.tokens)
        self.length = len(prompt.tokens)
        self.asked: list[dict[int, Tensor]] = [{} for _ in range(LAYERS)]  # by position: rotated queries [Hq, d]
        self.held = [[self._left(layer, head, start[layer][head]) for head in range(HEADS)] for layer in range(LAYERS)]

    def _left(self, layer: int, head: int, positions: list[int]) -> Held:
        keys, values = self.seen.keys[layer][head], self.seen.values[layer][head]
        return Held(list(positions), [keys[p] for p in positions], [values[p] for p in positions])

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        single = x.float()
        return weight * (single / (single.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps).sqrt()).to(x.dtype)

    @torch.inference_mode()
    def write(self, tokens: int, rule: Rule) -> tuple[list[int], list[list[list[list[int]]]]]:
        """-> the tokens, and [step][layer][head] the positions held after each step."""
        written, history = [self.seen.token], []
        for t in range(tokens - 1):
            written.append(self._step(t, written[-1], rule))
            history.append([[list(held.positions) for held in layer] for layer in self.held])
        return written, history

    def _step(self, t: int, token: int, rule: Rule) -> int:
        x = self.body.embed_tokens.weight[token]
        for index, layer in enumerate(self.body.layers):
            x = x + layer.self_attn.o_proj.weight @ self._attend(
                t, index, self._norm(x, layer.input_layernorm.weight), rule
            )
            y, mlp = self._norm(x, layer.post_attention_layernorm.weight), layer.mlp
            gate = mlp.gate_proj.weight @ y
            x = x + mlp.down_proj.weight @ (gate * torch.sigmoid(gate) * (mlp.up_proj.weight @ y))
        return int((self.head.weight @ self._norm(x, self.body.norm.weight)).argmax())

    def _attend(self, t: int, index: int, x: Tensor, rule: Rule) -> Tensor:
        """Append, attend, evict."""
        attention, position = self.body.layers[index].self_attn, self.length + t
        queries = (attention.q_proj.weight @ x).view(HEADS * GROUP, DIM)
        keys = (attention.k_proj.weight @ x).view(HEADS, DIM)
        values = (attention.v_proj.weight @ x).view(HEADS, DIM)
        if hasattr(attention, "q_norm"):
            queries = self._norm(queries, attention.q_norm.weight)
            keys = self._norm(keys, attention.k_norm.weight)
        queries, keys = rotated(queries, position, self.theta), rotated(keys, position, self.theta)
        self.asked[index][position] = queries
        outputs = []
        for head in range(HEADS):
            held = self.held[index][head]
            held.positions.append(position)
            held.keys.append(keys[head])
            held.values.append(values[head])
            hidden = torch.zeros(len(held.positions), dtype=torch.bool)
            if self.sliding_window is not None:
                hidden = torch.tensor([p <= position - self.sliding_window for p in held.positions])
            stored_keys, stored_values = torch.stack(held.keys), torch.stack(held.values)
            score = torch.zeros(len(held.positions), dtype=x.dtype)
            for query in queries[head * GROUP : (head + 1) * GROUP]:
                weights = (stored_keys @ query / math.sqrt(DIM)).masked_fill(hidden, -math.inf).softmax(0)
                score = score + weights / GROUP
                outputs.append(weights @ stored_values)
            held.keep(rule(t, index, head, list(held.positions), score.tolist()))
        return torch.cat(outputs)
