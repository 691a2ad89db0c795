"""The one seam to transformers: an attention and a mask function per backend, registered under names of our own.

`Cache.update` is called without the query and the attention function without the cache; an attribute on the key tensor
that `update` returns ties them. The prompt's attention is the named backend's own. A decode step attends over the
cache's slots as they lie, key/value heads not repeated, and its probabilities are what the strategy scores by.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.import_utils import is_flash_attn_2_available

from scope.errors import ImpossibleError, ScopeError

# Backend -> our name for it. A name with "flash" in it would be looked for among transformers' own kernels.
NAMES = {"sdpa": "scope_sdpa", "eager": "scope_eager", "flash_attention_2": "scope_fa2"}
BACKENDS = tuple(NAMES)
UNKNOWN = {"softcap": "soft-capped logits", "s_aux": "sinks"}  # what models pass on that steps over slots leave out
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
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: object,  # what a model passes on to its backend is the backend's business
) -> tuple[Tensor, Tensor | None]:
    layer = getattr(key, "scope_layer", None)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if layer is not None and layer.storage is not None:
        return layer.step(query, scaling, sliding_window), None
    if layer is not None:
        _check(kwargs)  # with the prompt: the steps that follow are given the same
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
        dropout=dropout,
        sliding_window=sliding_window,
        **kwargs,
    )
    if layer is not None:
        layer.compress(module, query, key, value, _padding(attention_mask), scaling, sliding_window)
    return output, weights


def _check(extras: Mapping[str, object]) -> None:
    """Raises ScopeError for what a decode step over the slots would leave out."""
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


def _padding(mask: Tensor | None) -> Tensor | None:
    """-> [B, P] bool, True where a token is; None = everywhere. A token sees itself, padding does not."""
    if mask is None:
        return None
    if mask.ndim == 2:
        return mask.bool()
    itself = mask[:, 0].diagonal(dim1=-2, dim2=-1)
    return itself if itself.dtype == torch.bool else itself >= 0


def _mask(
    backend: str, batch_size: int, q_length: int, kv_length: int, q_offset: int = 0, **kwargs: object
) -> Tensor | None:
    """The backend's own mask; a compressed cache, which makes its steps' own from its slots, says so by no length."""
    if kv_length == 0:
        return None
    make: Callable[..., Tensor | None] = ALL_MASK_ATTENTION_FUNCTIONS[backend]
    return make(batch_size=batch_size, q_length=q_length, kv_length=kv_length, q_offset=q_offset, **kwargs)


for _backend_name, _name in NAMES.items():
    AttentionInterface.register(_name, partial(_attend, _backend_name))
    AttentionMaskInterface.register(_name, partial(_mask, _backend_name))
