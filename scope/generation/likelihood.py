"""How likely a text is to a model with a compressed cache: the prompt is read and evicted from, the rest is forced.

In one plain forward over prompt and continuation, every token still attends to everything before it: nothing is evicted
before it is read, and any compression would seem to cost nothing. So the tokens are forced step by step through the
cache, as `replay` does, with what is left of it at each step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scope.cache import CompressedCache, Layout, Policy
from scope.generation.forcing import Tokens, checked, prefilled, require_plain_logits, stepped
from scope.generation.read import Reads
from scope.generation.replay import Reference, ReplayOptions
from scope.generation.rows import Held, held_by

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Likelihood(Held):
    """What a model says of a continuation of T tokens, and what its cache held."""

    log_likelihood: Tensor  # [T] of each token in nats, given the prompt and the tokens before it
    recalls: Tensor  # [T] bool: the token is the most likely one


@torch.inference_mode()
def likelihoods(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    policy: Policy,
    options: ReplayOptions | None = None,
) -> Iterator[tuple[int, Likelihood]]:
    """What the model says of each continuation after its prompt -> (its index, that), batch by batch.

    prompts, continuations: the tokens of each, one of both for each row. The longest prompts come first. A prompt of
    several continuations is read once, where memory allows. Raises ScopeError as `replay` does.
    """
    options = options or ReplayOptions()
    asked, forced = checked(model, prompts, continuations)
    if not asked:
        return
    head, reads = require_plain_logits(model, asked[0]), Reads()
    for batch in _batches(asked, options.batch_size or len(asked)):
        together = tuple(asked[i] for i in batch)
        reads.begin(together)
        texts = [forced[i] for i in batch]
        cache = CompressedCache.of(model.config, policy, Layout(max(map(len, texts)), options.storage), options.watch)
        first, last = prefilled(model, cache, together, options.prefill_chunk, reads)
        hidden = stepped(model, cache, texts, last, lambda: None)
        for b, (i, tokens) in enumerate(zip(batch, texts, strict=True)):
            parts = [_said(first[b : b + 1], tokens[:1])]
            parts += _blocks(head, hidden[b], tokens[1:], options.block)
            yield i, Likelihood(*_joined(parts), **vars(held_by(cache, b, len(asked[i]), len(tokens) - 1)))


def of_reference(model: "PreTrainedModel", against: Reference, block: int = 128) -> list[tuple[Tensor, Tensor]]:
    """Of each continuation, with the full cache: `log_likelihood` and `recalls` as of `Likelihood`."""
    with torch.inference_mode():
        heads = [require_plain_logits(model, against.prompts[0])] if against.prompts else []
        return [
            _joined(_blocks(heads[0], hidden, tokens, block))
            for hidden, tokens in zip(against.hidden, against.continuations, strict=True)
        ]


def _batches(prompts: Sequence[Tokens], size: int) -> Iterator[list[int]]:
    """Indices of prompts, at most `size` together, the longest first. Batch after batch has the same prompts, as long
    as each of them has more continuations."""
    of: dict[Tokens, list[int]] = {}
    for i, prompt in enumerate(prompts):
        of.setdefault(prompt, []).append(i)
    rows = [of[prompt] for prompt in sorted(of, key=lambda prompt: -len(prompt))]
    for start in range(0, len(rows), size):
        for batch in zip_longest(*rows[start : start + size]):
            yield [i for i in batch if i is not None]


def _blocks(head: nn.Module, hidden: Tensor, tokens: Tokens, block: int) -> list[tuple[Tensor, Tensor]]:
    """hidden [n or more, E]: the output layer's input that predicts each of n tokens."""
    starts = range(0, len(tokens), block)
    return [
        _said(head(hidden[start : min(start + block, len(tokens))]), tokens[start : start + block]) for start in starts
    ]


def _said(logits: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """logits [n, V] for these n tokens -> log-likelihood [n] and recalls [n]. Softmax is in float32 or wider."""
    ids = torch.tensor(tokens, device=logits.device)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return wide.gather(-1, ids[:, None])[:, 0], logits.argmax(-1) == ids


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    likely, recalls = zip(*parts, strict=True)
    return torch.cat(likely).cpu(), torch.cat(recalls).cpu()
