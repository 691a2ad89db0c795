"""What a policy does to a model, token by token, while the continuation is forced: at the price of a prefill.

The tokens of a continuation are known. So all steps of a layer can be taken before the next layer begins, and the model
reads its weights once for the whole continuation, not once a token. Eviction still goes step by step: what is stored
at each step is what token-by-token decoding would store.
"""

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from scope.cache import CompressedCache, Layout, Policy
from scope.cache.storage import StorageFactory
from scope.generation.clock import synchronised
from scope.generation.forcing import checked, decoder_of, head_of, prefilled, require_plain_logits, stepped
from scope.generation.read import Reads
from scope.generation.rows import Held, held_by
from scope.policy.attention import Attention
from scope.util.errors import ScopeError, check_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ReplayOptions:
    """How a replay is run. None of it changes a result but for rounding.

    batch_size: prompts that are replayed together; None: all. prefill_chunk: tokens of a prompt that are fed at a time;
    None: all. block: tokens of a row whose logits exist at once. storage: what makes the layers' storage, for tests;
    None: slots. progress: called with (done, all) after each layer has taken its steps; counted are the layers of all
    batches. watch: called with each layer's attention, the prompt's and each step's, before anything is evicted; all
    steps of a layer come before those of the next. Raises SettingError for what cannot be.
    """

    batch_size: int | None = None
    prefill_chunk: int | None = None
    block: int = 128
    storage: StorageFactory | None = None
    progress: Callable[[int, int], None] | None = None
    watch: Callable[[Attention], None] | None = None

    def __post_init__(self) -> None:
        check_count(self, "block", low=1)
        for name in ("batch_size", "prefill_chunk"):
            if getattr(self, name) is not None:
                check_count(self, name, low=1)


@dataclass(frozen=True)
class Reference:
    """What the model says with its full cache: made once by `reference`, for any number of policies."""

    prompts: tuple[tuple[int, ...], ...]
    continuations: tuple[tuple[int, ...], ...]
    hidden: tuple[Tensor, ...]  # per prompt [T, E]: the output layer's input that predicts each token
    model: "weakref.ref[PreTrainedModel]"
    reads: Reads  # what is kept from one policy for the next


@dataclass(frozen=True)
class Replayed(Held):
    """One prompt's continuation of T tokens, with the full cache and with a compressed one, and what the latter held.

    Entry t of a tensor is about the continuation's token t: about the distribution that predicts it, given the prompt
    and the tokens before it. Token 0 follows the prompt directly. The prompt's own attention is not compressed, so no
    policy changes it: its KL is 0 but for rounding. So `mean_kl` and `agreement` leave it out. Slots are per layer.
    """

    kl: Tensor  # [T] KL(full || compressed) in nats
    agrees: Tensor  # [T] bool: both have the same most likely token
    log_likelihood: Tensor  # [T] of the token itself in nats, with the compressed cache
    full_log_likelihood: Tensor  # [T] and with the full one
    recalls: Tensor  # [T] bool: the token itself is the most likely one, with the compressed cache
    full_recalls: Tensor  # [T] bool: and with the full one
    top: Tensor  # [T] the most likely token, with the compressed cache
    full_top: Tensor  # [T] and with the full one
    prefill_seconds: float  # wall time of all prompts that went through together; of their compression, if read before
    steps_seconds: float  # and of all their steps and logits

    @property
    def mean_kl(self) -> float:
        """Nats a token, over all but the first; NaN where there is no other."""
        return float(self.kl[1:].mean()) if len(self.kl) > 1 else math.nan

    @property
    def agreement(self) -> float:
        """The share, from 0 to 1, of tokens for which `agrees`, over all but the first; NaN where there is no other."""
        return float(self.agrees[1:].double().mean()) if len(self.agrees) > 1 else math.nan


@torch.inference_mode()
def reference(
    model: "PreTrainedModel", prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
) -> Reference:
    """The full cache's side of a replay: one plain forward over each prompt and its continuation.

    prompts, continuations: the tokens of each, one of both for each row. Kept are hidden states, since the logits of a
    large vocabulary take much more memory. Raises ScopeError for what are no tokens of this model, and for a model
    whose logits are more than its output layer makes of the last hidden states, such as capped or scaled ones.
    """
    asked, forced = checked(model, prompts, continuations)
    if asked:
        require_plain_logits(model, asked[0])
    hidden = []
    for prompt, continuation in zip(asked, forced, strict=True):
        read = torch.tensor([[*prompt, *continuation[:-1]]], device=model.device)
        states = decoder_of(model)(input_ids=read, use_cache=False).last_hidden_state
        hidden.append(states[0, len(prompt) - 1 :].clone())  # the prompt's can be freed
    return Reference(asked, forced, tuple(hidden), weakref.ref(model), Reads())


def replay(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    policy: Policy,
    options: ReplayOptions | None = None,
    against: Reference | None = None,
) -> list[Replayed]:
    """What a policy does to the model while it reads these continuations, one result a prompt, in their order.

        prompts, continuations = tokenizer(texts).input_ids, tokenizer(answers, add_special_tokens=False).input_ids
        rows = replay(model, prompts, continuations, Policy(SnapKV(budget=512, window=8), Slide(budget=128, recent=64)))
        print([row.mean_kl for row in rows])

    The results are those of feeding the tokens one by one, `model(ids[:, t : t + 1], past_key_values=cache)`, but for
    rounding. Rows may differ in length. against: `reference(model, prompts, continuations)`, made once for several
    policies; None: it is made here. Raises ScopeError as `reference` and `CompressedCache` do, and for a reference of
    other tokens or another model. For all policies that are replayed against one reference, the model reads the prompts
    once, and says once what follows with the full cache, if a quarter of the free memory holds it.
    """
    options = options or ReplayOptions()
    against = against or replace(reference(model, prompts, continuations), reads=Reads(share=0))
    if against.model() is not model:
        raise ScopeError("against: this reference was made with another model")
    if checked(model, prompts, continuations) != (against.prompts, against.continuations):
        raise ScopeError("against: this reference was made of other prompts or continuations")
    rows_in_all = len(against.prompts)
    size = options.batch_size or max(1, rows_in_all)
    starts = range(0, rows_in_all, size)
    told = _Told(options.progress, len(starts) * model.config.get_text_config(decoder=True).num_hidden_layers)
    batches = [slice(start, start + size) for start in starts]
    return [row for rows in batches for row in _batch(model, against, rows, policy, options, told)]


class _Told:
    """Counts the layers that have taken their steps, and tells of it."""

    def __init__(self, progress: Callable[[int, int], None] | None, every: int) -> None:
        self._progress, self._all, self._done = progress, every, 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self._all)


@torch.inference_mode()
def _batch(
    model: "PreTrainedModel",
    against: Reference,
    rows: slice,
    policy: Policy,
    options: ReplayOptions,
    told: Callable[[], None],
) -> list[Replayed]:
    """These rows of the reference, together in one cache."""
    prompts, continuations = against.prompts[rows], against.continuations[rows]
    longest = max(map(len, continuations))
    cache = CompressedCache.of(model.config, policy, Layout(longest, options.storage), options.watch)
    began = synchronised(model.device)
    first, last = prefilled(model, cache, prompts, options.prefill_chunk, against.reads)
    read = synchronised(model.device)
    hidden = stepped(model, cache, continuations, last, told)
    head = head_of(model)
    assert head is not None  # the reference has seen to it
    compared = []
    for b, (of_row, own) in enumerate(zip(against.hidden[rows], hidden, strict=True)):
        pair = prompts[b], continuations[b]
        full = partial(against.reads.logits, head, of_row, pair)
        compared.append(_compared(full, partial(_logits, head, own), first[b], pair[1], options.block))
    ended = synchronised(model.device)
    return [
        Replayed(
            *numbers,
            prefill_seconds=read - began,
            steps_seconds=ended - read,
            **vars(held_by(cache, b, len(prompts[b]), len(continuations[b]) - 1)),
        )
        for b, numbers in enumerate(compared)
    ]


class _Compared(NamedTuple):
    """Per token of a row: the fields of the same names of `Replayed`."""

    kl: Tensor
    agrees: Tensor
    log_likelihood: Tensor
    full_log_likelihood: Tensor
    recalls: Tensor
    full_recalls: Tensor
    top: Tensor
    full_top: Tensor


def _logits(head: nn.Module, hidden: Tensor, some: slice) -> Tensor:
    """What the output layer makes of some of the hidden states [T, E]."""
    logits: Tensor = head(hidden[some])
    return logits


def _compared(
    full: Callable[[slice], Tensor],
    own: Callable[[slice], Tensor],
    first: Tensor,
    tokens: Sequence[int],
    block: int,
) -> _Compared:
    """full, own: give the logits that predict some of the tokens, own from the second token on; first [V]: its own for
    the first one. `block` tokens at a time."""
    parts = [_of_logits(full(slice(0, 1)), first[None], tokens[:1])]
    for start in range(1, len(tokens), block):
        stop = min(start + block, len(tokens))
        parts.append(_of_logits(full(slice(start, stop)), own(slice(start - 1, stop - 1)), tokens[start:stop]))
    return _Compared(*(torch.cat(numbers).cpu() for numbers in zip(*parts, strict=True)))


def _of_logits(full: Tensor, own: Tensor, tokens: Sequence[int]) -> _Compared:
    """full, own: logits [n, V] for these n tokens. Softmax is in float32 or wider."""
    wide = torch.promote_types(full.dtype, torch.float32)
    forced = torch.tensor(tokens, device=full.device)
    full_top, top = full.argmax(-1), own.argmax(-1)
    full, own = full.to(wide).log_softmax(-1), own.to(wide).log_softmax(-1)
    kl = ((full - own) * full.exp()).sum(-1)
    likely, full_likely = (side.gather(-1, forced[:, None])[:, 0] for side in (own, full))
    recalls, full_recalls = top == forced, full_top == forced
    return _Compared(kl, top == full_top, likely, full_likely, recalls, full_recalls, top, full_top)
