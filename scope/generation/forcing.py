"""Forces the tokens of continuations after their prompts, in one cache: a layer takes all steps before the next."""

from collections.abc import Callable, Sequence
from operator import index
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from scope.cache import CompressedCache
from scope.generation.read import Reads
from scope.generation.rows import Prompt
from scope.generation.stream import prefill
from scope.util.errors import ScopeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = tuple[int, ...]
TRIED = 8  # tokens on which the logits made here are held against the model's own
ROUNDINGS = 8  # units in the last place, of the largest logit, by which they may differ


def prefilled(
    model: "PreTrainedModel", cache: CompressedCache, prompts: tuple[Tokens, ...], chunk: int | None, reads: Reads
) -> tuple[Tensor, Tensor]:
    """Fill the cache with the prompts -> logits [B, V] after their last tokens, and the positions [B, 1] of these."""
    if chunk is None and not cache.policy.prefill.layer_inputs and (read := reads.of(model, prompts)):
        cache.take(read.layers)
        return read.logits, read.last
    return prefill(model, cache, [Prompt(str(b), prompt) for b, prompt in enumerate(prompts)], 0, chunk)


def stepped(
    model: "PreTrainedModel",
    cache: CompressedCache,
    continuations: Sequence[Tokens],
    last: Tensor,
    told: Callable[[], None],
) -> Tensor:
    """Feed all tokens but the last of each row -> hidden states [B, T - 1, E], T of the longest.

    last [B, 1]: the positions of the prompts' last tokens. A shorter row goes on with padding at its end, which no
    token of its own can see, and nothing of it is counted.
    """
    steps = max(map(len, continuations)) - 1
    if not steps:
        return torch.empty(len(continuations), 0, 0)
    ids = torch.zeros(len(continuations), steps, dtype=torch.long)
    for row, tokens in zip(ids, continuations, strict=True):
        row[: len(tokens) - 1] = torch.tensor(tokens[:-1])
    cache.force(steps, told)
    hidden: Tensor = decoder_of(model)(
        input_ids=ids.to(model.device),
        position_ids=last + 1 + torch.arange(steps, device=last.device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return hidden


def decoder_of(model: "PreTrainedModel") -> nn.Module:
    """The model without its output layer. Raises ScopeError where transformers does not tell it, as of Llama 4."""
    decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    if decoder is model:
        raise ScopeError("replay needs the part before the output layer: transformers does not tell it of this model")
    return decoder


def head_of(model: "PreTrainedModel") -> nn.Module | None:
    """The model's output layer, from hidden states to logits."""
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head


def checked(
    model: "PreTrainedModel", prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
) -> tuple[tuple[Tokens, ...], tuple[Tokens, ...]]:
    """The same as tuples. Raises ScopeError where they are no tokens of the model, none at all in a row, or not one
    continuation for each prompt."""
    asked, forced = _tokens(model, "prompts", prompts), _tokens(model, "continuations", continuations)
    if len(asked) != len(forced):
        raise ScopeError(f"continuations: there are {len(forced)} of them for {len(asked)} prompts")
    return asked, forced


def _tokens(model: "PreTrainedModel", name: str, given: Sequence[Sequence[int]]) -> tuple[Tokens, ...]:
    vocabulary = len(cast(Tensor, model.get_input_embeddings().weight))
    rows = []
    for i, tokens in enumerate(given):
        try:
            row = tuple(index(token) for token in tokens)
        except (TypeError, ValueError) as error:
            raise ScopeError(f"{name}[{i}]: must be tokens, whole numbers: tokenizer(text).input_ids") from error
        if not row:
            raise ScopeError(f"{name}[{i}]: has no token, and must have one at least")
        if not 0 <= min(row) <= max(row) < vocabulary:
            raise ScopeError(f"{name}[{i}]: has a token that is none of the model's {vocabulary}")
        rows.append(row)
    return tuple(rows)


def require_plain_logits(model: "PreTrainedModel", tokens: Sequence[int]) -> nn.Module:
    """-> the output layer. Raises ScopeError where the model's logits are more than it makes of the last hidden states.

    tokens: some of a prompt, on which this is tried.
    """
    head, ids = head_of(model), torch.tensor([list(tokens[:TRIED])], device=model.device)
    if head is not None:
        own = model(input_ids=ids, use_cache=False).logits.double()
        made = head(decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state)
        allowed = ROUNDINGS * torch.finfo(made.dtype).eps * float(own.abs().max())
        if made.shape == own.shape and float((made - own).abs().max()) <= allowed:
            return head
    raise ScopeError("replay needs the model's logits from its output layer alone: this one scales or caps them")
