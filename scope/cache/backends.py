"""Which attention a model runs: the backends that scope knows, and how a model comes to run scope's own.

It stands apart from `seam`, which needs transformers' code of models. That takes more than a second to import, and a
command that runs no model does without.
"""

from transformers import PretrainedConfig
from transformers.utils.import_utils import is_flash_attn_2_available

from scope.util.errors import ImpossibleError, ScopeError
from scope.util.importing import uncollected

# Backend -> our name for it. transformers would look for a name with "flash" in it among its own kernels.
NAMES = {"sdpa": "scope_sdpa", "eager": "scope_eager", "flash_attention_2": "scope_fa2"}
BACKENDS = tuple(NAMES)
LAYER_TYPES = ("full_attention", "sliding_attention", "chunked_attention")


def require_installed(backend: str) -> None:
    """Raises ImpossibleError if a backend, one of BACKENDS, is not installed."""
    if backend == "flash_attention_2" and not is_flash_attn_2_available():
        raise ImpossibleError("attention=flash_attention_2 needs a GPU and flash-attn: pip install -e '.[flash]'")


def implementation(backend: str) -> str:
    """The name of scope's attention for a backend. A model that is loaded with it can have a compressed cache.

    backend: one of BACKENDS. -> the value of transformers' `attn_implementation`.
    Raises ImpossibleError if the backend is not installed.
    """
    require_installed(backend)
    with uncollected():
        import scope.cache.seam  # noqa: F401  # registers these names in transformers
    return NAMES[backend]


def adopt(config: PretrainedConfig) -> None:
    """Make a loaded model run scope's attention. Without a compressed cache it then does what it did before.

    config: the model's own configuration, which is changed. Raises ScopeError for a backend or a type of layer that a
    compressed cache does not support.
    """
    if not getattr(config, "is_causal", True):
        raise ScopeError("this model's attention looks ahead (is_causal=False): a compressed cache needs a causal one")
    for layer_type in getattr(config, "layer_types", None) or ():
        if layer_type not in LAYER_TYPES:
            allowed = ", ".join(LAYER_TYPES)
            raise ScopeError(f"this model has layers of {layer_type}: a compressed cache takes {allowed}")
    loaded_with = config._attn_implementation
    backend = next((backend for backend, name in NAMES.items() if name == loaded_with), loaded_with)
    if backend not in BACKENDS:
        raise ScopeError(
            f"attn_implementation={loaded_with}: must be one of {', '.join(BACKENDS)} for a compressed cache"
        )
    config._attn_implementation = implementation(backend)
