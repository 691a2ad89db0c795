"""The one seam to transformers: an attention and a mask function per backend, registered under names of our own.

`Cache.update` is called without the query and the attention function without the cache; an attribute on the key tensor
that `update` returns ties them. The prompt's attention is the named backend's own. A decode step attends over the
cache's slots as they lie, key/value heads not repeated, and its probabilities are what the strategy scores by.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.import_utils import is_flash_attn_2_available

from scope.cache.masks import require_consecutive
from scope.util.errors import ImpossibleError, ScopeError

# Backend -> our name for it. A name with "flash" in it would be looked for among transformers' own kernels.
NAMES = {"sdpa": "scope_sdpa", "eager": "scope_eager", "flash_attention_2": "scope_fa2"}
BACKENDS = tuple(NAMES)
# Where a wrapper passes arguments by position, their order is transformers' own. Models do not agree on their eager
# attention's, and transformers does not register it: here it has sdpa's.
SIGNATURES = {
    "sdpa": signature(sdpa_attention_forward),
    "eager": signature(sdpa_attention_forward),
    "flash_attention_2": signature(flash_attention_forward),
}
REST = {backend: tuple(order.parameters)[4:] for backend, order in SIGNATURES.items()}  # after query, key and value
UNKNOWN = {"softcap": "soft-capped logits", "s_aux": "sinks"}  # what models pass on that steps over slots leave out
MASK_SIGNATURES = {backend: signature(ALL_MASK_ATTENTION_FUNCTIONS[backend]) for backend in BACKENDS}
KINDS = ("full_attention", "sliding_attention")  # of layers


def implementation(backend: str) -> str:
    """The name to load a model with (`attn_implementation`), so that its cache may be compressed.

    Raises ImpossibleError where the backend is not installed.
    """
    if backend == "flash_attention_2" and not is_flash_attn_2_available():
        raise ImpossibleError("attention=flash_attention_2 needs a GPU and flash-attn: pip install 'scope-kv[flash]'")
    return NAMES[backend]


def adopt(config: PretrainedConfig) -> None:
    """Have a model that is loaded already run scope's attention: without a compressed cache it is the backend's own.

    Raises ScopeError for a backend or a kind of layer that cannot be compressed.
    """
    if not getattr(config, "is_causal", True):
        raise ScopeError("this model's attention looks ahead (is_causal=False): a compressed cache needs a causal one")
    for kind in getattr(config, "layer_types", None) or ():
        if kind not in KINDS:
            raise ScopeError(f"this model has layers of {kind}: a compressed cache takes {' and '.join(KINDS)}")
    found = config._attn_implementation
    if found in BACKENDS:
        config._attn_implementation = implementation(found)
    elif found not in NAMES.values():
        raise ScopeError(f"attn_implementation={found}: must be one of {', '.join(BACKENDS)} for a compressed cache")


def _attend(
    backend: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *args: Any,  # in the backend's own order: the mask comes first
    **kwargs: Any,  # what a model passes on to its backend is the backend's business
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
        return layer.step(query, scaling, sliding_window, attention_mask), None
    if layer is not None:
        _check(module, kwargs)  # with the prompt: the steps that follow are given the same
        if backend == "eager" and attention_mask is None and query.shape[2] > 1:
            raise ScopeError("attention_mask: none reached eager attention, which would then look ahead")
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
    """Raises ScopeError for what a decode step over the slots would leave out."""
    if extras.get("use_cache") is False:
        raise ScopeError("use_cache=False with a compressed cache: leave it out, or leave out the cache")
    if extras.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise ScopeError("this model's attention looks ahead (is_causal=False): a compressed cache needs a causal one")
    for name, meaning in UNKNOWN.items():
        if extras.get(name) is not None:
            raise ScopeError(f"this model's attention has {meaning} ({name}), which a compressed cache does not know")


class _Instead:
    """An object that is another one but for some attributes."""

    def __init__(self, other: object, **attributes: object) -> None:
        self.__dict__ |= {"_other": other, **attributes}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)


def _backend(name: str, module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """transformers keeps each model's eager attention in the model's own file, the others in its table."""
    if name == "eager":
        eager: Callable[..., tuple[Tensor, Tensor | None]] = sys.modules[
            type(module).__module__
        ].eager_attention_forward
        return eager
    found: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS[name]
    return found


def _mask(backend: str, *args: Any, **kwargs: Any) -> Tensor | None:
    """The backend's own mask. `kv_length` 0 means: a compressed cache, which masks its own decode steps. Its attention
    is then handed the caller's mask, to see that it says the same."""
    make: Callable[..., Tensor | None] = ALL_MASK_ATTENTION_FUNCTIONS[backend]
    given = dict(zip(MASK_SIGNATURES[backend].parameters, args, strict=False)) | kwargs
    if given["kv_length"] == 0:
        asked: Tensor | None = given.get("attention_mask")
        return asked
    return make(*args, **kwargs)


for _backend_name, _name in NAMES.items():
    _attention = partial(_attend, _backend_name)
    _attention.__signature__ = SIGNATURES[_backend_name]  # type: ignore[attr-defined]
    AttentionInterface.register(_name, _attention)
    _own_mask = partial(_mask, _backend_name)
    _own_mask.__signature__ = MASK_SIGNATURES[_backend_name]  # type: ignore[attr-defined]
    AttentionMaskInterface.register(_name, _own_mask)
