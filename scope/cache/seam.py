"""How scope's attention gets into a model: an attention and a mask function per backend, registered in transformers.

transformers calls `Cache.update` without the query, and the attention function without the cache. So `update` sets an
attribute on the keys that it returns, and the attention function finds the cache's layer there. The prompt's attention
is that of the named backend. A decode step attends over the cache's slots itself, since a strategy needs its
probabilities.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from scope.cache.backends import BACKENDS, NAMES
from scope.cache.masks import require_consecutive
from scope.util.errors import ScopeError

# Some wrappers pass arguments by position. Their order is that of transformers' own function. The eager functions of
# models differ in it and are not registered in transformers, so `eager` gets the order of sdpa.
SIGNATURES = {
    "sdpa": signature(sdpa_attention_forward),
    "eager": signature(sdpa_attention_forward),
    "flash_attention_2": signature(flash_attention_forward),
}
REST = {backend: tuple(order.parameters)[4:] for backend, order in SIGNATURES.items()}  # after query, key and value
UNKNOWN = {"softcap": "soft-capped logits", "s_aux": "sinks"}  # arguments of attention that a decode step ignores
MASK_SIGNATURES = {backend: signature(ALL_MASK_ATTENTION_FUNCTIONS[backend]) for backend in BACKENDS}


def _attend(
    backend: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *args: Any,  # in the order of the backend's own function: the mask comes first
    **kwargs: Any,  # passed on to the backend's own function
) -> tuple[Tensor, Tensor | None]:
    kwargs |= zip(REST[backend], args, strict=False)
    layer, sliding_window = getattr(key, "scope_layer", None), kwargs.pop("sliding_window", None)
    attention_mask, scaling = kwargs.pop("attention_mask", None), kwargs.pop("scaling", None)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if layer is not None and layer.storage is not None:
        if layer.forced:
            if attention_mask is not None:
                raise ScopeError("attention_mask: leave it out where a continuation is forced: all its tokens count")
            if layer.index == 0:
                require_consecutive(kwargs.get("position_ids"), None)
            return layer.take_steps(query, key, value, scaling, sliding_window), None
        if query.shape[2] > 1:
            layer.admit_turn(query, attention_mask, kwargs.get("position_ids"))
            return layer.take_turn(module, query, key, value, scaling, sliding_window), None
        return layer.step(query, scaling, sliding_window, attention_mask), None
    if layer is not None:
        layer.rows.attended = True
        _check(module, kwargs)  # once, with the prompt: steps get the same arguments
        if backend == "eager" and attention_mask is None and query.shape[2] > 1:
            raise ScopeError("attention_mask: eager attention got none, and would look ahead")
        layer.admit(query, key, attention_mask, kwargs.get("position_ids"), sliding_window)
    attend = _backend(backend, module)
    if backend == "flash_attention_2":  # it reads its own name in the module's configuration
        module = _Instead(module, config=_Instead(module.config, _attn_implementation=backend))  # type: ignore[assignment]
    output, weights = attend(
        module,
        query,
        key,
        value,
        attention_mask,
        scaling=scaling,
        sliding_window=sliding_window,
        **kwargs,
    )
    if layer is not None:
        layer.compress(module, query, key, value, scaling, sliding_window)
    return output, weights


def _check(module: nn.Module, extras: Mapping[str, object]) -> None:
    """Raises ScopeError for arguments of attention that a decode step does not support."""
    if extras.get("use_cache") is False:
        raise ScopeError("use_cache=False with a compressed cache: leave it out, or leave out the cache")
    if extras.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise ScopeError("this model's attention looks ahead (is_causal=False): a compressed cache needs a causal one")
    for name, meaning in UNKNOWN.items():
        if extras.get(name) is not None:
            has = f"{meaning} ({name})"
            raise ScopeError(f"this model's attention has {has}, which a compressed cache does not support")


class _Instead:
    """Stands for another object, with some attributes changed."""

    def __init__(self, other: object, **attributes: object) -> None:
        self.__dict__ |= {"_other": other, **attributes}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)


def _backend(name: str, module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The backend's own function. Eager attention lies in each model's module, the others in transformers' table."""
    if name == "eager":
        eager: Callable[..., tuple[Tensor, Tensor | None]] = sys.modules[
            type(module).__module__
        ].eager_attention_forward
        return eager
    found: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS[name]
    return found


def _mask(backend: str, *args: Any, **kwargs: Any) -> Tensor | None:
    """The backend's own mask, or in a decode step of a compressed cache the caller's mask.

    kv_length == 0 means: such a decode step, which makes its own mask (`CompressedLayer.get_mask_sizes`). The caller's
    mask is then only checked.
    """
    make: Callable[..., Tensor | None] = ALL_MASK_ATTENTION_FUNCTIONS[backend]
    given = dict(zip(MASK_SIGNATURES[backend].parameters, args, strict=False)) | kwargs
    if given["kv_length"] == 0:
        callers: Tensor | None = given.get("attention_mask")
        return callers
    return make(*args, **kwargs)


for _backend_name, _name in NAMES.items():
    _attention = partial(_attend, _backend_name)
    _attention.__signature__ = SIGNATURES[_backend_name]  # type: ignore[attr-defined]
    AttentionInterface.register(_name, _attention)
    _own_mask = partial(_mask, _backend_name)
    _own_mask.__signature__ = MASK_SIGNATURES[_backend_name]  # type: ignore[attr-defined]
    AttentionMaskInterface.register(_name, _own_mask)
