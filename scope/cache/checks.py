"""Checks of what a policy's score gives, before the cache acts on it or right after."""

from math import isnan

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from scope.policy.attention import Attention
from scope.util.errors import ScopeError


def shaped(scores: Tensor, attention: Attention, policy: object) -> Tensor:
    """The scores of a prefill method or a decoding strategy. Raises ScopeError if they are not [B, H, S]."""
    wanted = list(attention.positions.shape)
    given = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if given != wanted:
        raise ScopeError(
            f"{type(policy).__name__}.score: gave {given} in layer {attention.layer}: must be a tensor [B, H, S], here "
            f"{wanted}"
        )
    return scores


def can_wait(scores: Tensor) -> bool:
    """Whether a decode step's scores may be looked at by the host: on a CPU, if the step is not being recorded."""
    return not (scores.is_cuda or torch.compiler.is_compiling() or get_proxy_mode())


def require_numbers(scores: Tensor, positions: Tensor, policy: object, layer: int) -> None:
    """Raises ScopeError for NaN in a slot that holds a token. scores and positions [B, H, S]. The host waits for it.

    If the storage has moved its slots since, any NaN counts.
    """
    if not isnan(scores.sum().item()):  # a sum is NaN if a score is, and costs a tenth of asking each of them
        return
    found = scores.isnan()
    if bool(found.any()) and (found.shape != positions.shape or bool((found & (positions >= 0)).any())):
        raise ScopeError(f"{type(policy).__name__}.score: gave NaN in layer {layer}: every slot needs a number")
