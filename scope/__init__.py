"""SCOPE: key/value-cache compression for long generation. The library; it imports neither hydra nor wandb.

The names that are used most can be had from here: `from scope import CompressedCache, SnapKV, Slide`. Each is imported
when it is first asked for, so that `import scope` costs nothing. The methods that exist both for the prompt and for
decoding, such as H2O, are in `scope.prefill` and `scope.decoding`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "scope.cache": ("CompressedCache", "Policy", "with_most_slots"),
    "scope.prefill": ("Full", "PyramidKV", "SnapKV"),
    "scope.decoding": ("Adaptive", "Discontinuous", "KeepAll", "Slide"),
    "scope.generation.stream": ("generate", "stream"),
    "scope.generation.options": ("Hooks", "Options"),
    "scope.generation.rows": ("Generated", "Prompt"),
    "scope.generation.replay": ("Reference", "Replayed", "ReplayOptions", "reference", "replay"),
    "scope.generation.sampling": ("Sampling",),
    "scope.generation.engine": ("Engine",),
    "scope.generation.models": ("EMBEDDED", "ModelSource", "RandomModel", "load"),
    "scope.tasks": ("Arithmetic",),
    "scope.runs.experiment": ("Experiment",),
    "scope.runs.traces": ("Trace",),
    "scope.runs.tracking": ("NoTracking", "Wandb"),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}
__all__ = [*_PLACE_OF, "__version__"]


def __getattr__(name: str) -> Any:
    """Raises AttributeError for a name that is not to be had from here."""
    if name not in _PLACE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACE_OF})
