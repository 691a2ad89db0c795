"""Checks of what a policy's score gives, before the cache acts on it."""

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from scope.policy.attention import Attention
from scope.util.errors import ScopeError


def checked(scores: Tensor, attention: Attention, policy: object) -> Tensor:
    """The scores [B, H, S] of a prefill method or a decoding strategy.

    Raises ScopeError, with the policy's name and the layer, for another shape, or for NaN in a slot that holds a token.
    NaN is looked for after every prefill. In a decode step it is looked for on the CPU only, and not in a step that is
    recorded or replayed: a look would make the device wait for the host.
    """
    name, wanted = f"{type(policy).__name__}.score", list(attention.keys.shape[:3])
    given = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if given != wanted:
        raise ScopeError(f"{name}: gave {given} in layer {attention.layer}: must be a tensor [B, H, S], here {wanted}")
    looks = not attention.decoding or not (scores.is_cuda or torch.compiler.is_compiling() or get_proxy_mode())
    if looks and bool(scores.isnan().any()) and bool((scores.isnan() & (attention.positions >= 0)).any()):
        when = "a decode step" if attention.decoding else "the prompt"
        raise ScopeError(f"{name}: gave NaN in layer {attention.layer}, for {when}: every slot needs a number")
    return scores
