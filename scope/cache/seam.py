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
from scope.policy.rule import Rule, Sight
from scope.util.errors import ScopeError

# Some wrappers pass arguments by position. Their order is that of transformers' own function. The eager functions of
# models differ in it and are not registered in transformers, so `eager` gets the order of sdpa.
SIGNATURES = {
    "sdpa": signature(sdpa_attention_forward),
    "eager": signature(sdpa_attention_forward),
    "flash_attention_2": signature(flash_attention_forward),
}
REST = {backend: tuple(order.parameters)[4:] for backend, order in SIGNATURES.items()}  # after query, key and value
EXTRAS = {"softcap": "soft-capped logits", "s_aux": "sinks"}  # arguments of attention that not every backend knows
LACKS = {"sdpa": ("softcap", "s_aux"), "flash_attention_2": ("s_aux",), "eager": ()}
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
    attention_mask, scaling = kwargs.pop("attention_mask", None), kwargs.pop("scaling", None)
    kwargs["scaling"] = scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    sliding_window = kwargs.setdefault("sliding_window", None)
    layer, attend = getattr(key, "scope_layer", None), partial(_as_backend, backend, module)
    if layer is None:
        return attend(query, key, value, attention_mask, **kwargs)
    sight = layer.sight if layer.sight.chunked else Sight(sliding_window)  # no model tells its attention of chunks
    rule = Rule(scaling, sight, kwargs.get("softcap"), kwargs.get("s_aux"))
    if layer.storage is not None:
        if layer.forced:
            if attention_mask is not None:
                raise ScopeError("attention_mask: leave it out where a continuation is forced: all its tokens count")
            if layer.index == 0:
                require_consecutive(kwargs.get("position_ids"), None)
            return layer.take_steps(query, key, value, rule), None
        if query.shape[2] > 1:
            layer.admit_turn(query, attention_mask, kwargs.get("position_ids"))
            return layer.take_turn(module, query, key, value, rule), None
        return layer.step(query, rule, attention_mask), None
    layer.rows.attended = True
    _check(backend, module, kwargs)  # once, with the prompt: steps get the same arguments
    if backend == "eager" and attention_mask is None and query.shape[2] > 1:
        raise ScopeError("attention_mask: eager attention got none, and would look ahead")
    layer.admit(query, key, attention_mask, kwargs.get("position_ids"), rule)
    output, weights = attend(query, key, value, attention_mask, **kwargs)
    layer.compress(module, query, key, value, rule)
    return output, weights


def _as_backend(
    backend: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The attention of the named backend itself. Other arguments are passed on to it."""
    attend = _backend(backend, module)
    if backend == "flash_attention_2":  # it reads its own name in the module's configuration
        module = _Instead(module, config=_Instead(module.config, _attn_implementation=backend))  # type: ignore[assignment]
    return attend(module, query, key, value, mask, **kwargs)


def _check(backend: str, module: nn.Module, extras: Mapping[str, object]) -> None:
    """Raises ScopeError for attention that the backend, or a decode step, would get wrong."""
    if extras.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise ScopeError("this model's attention looks ahead (is_causal=False): a compressed cache needs a causal one")
    for name in LACKS[backend]:
        if extras.get(name) is not None:
            has = f"this model's attention has {EXTRAS[name]}, which {backend} does not know"
            raise ScopeError(f"{has}: load it with attention=eager (attn_implementation)")


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
