"""SCOPE: key/value-cache compression for long generation. The library; it imports neither hydra nor wandb.

The names that are used most can be had from here: `from scope import CompressedCache, SnapKV, Slide`. Each is imported
when it is first asked for, so that `import scope` costs nothing. The methods that exist both for the prompt and for
decoding, such as H2O, are in `scope.prefill` and `scope.decoding`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:  # the same table for mypy and editors; a test holds the two equal
    from scope.cache import CompressedCache as CompressedCache
    from scope.cache import Policy as Policy
    from scope.cache import with_most_slots as with_most_slots
    from scope.decoding import Adaptive as Adaptive
    from scope.decoding import Discontinuous as Discontinuous
    from scope.decoding import KeepAll as KeepAll
    from scope.decoding import Slide as Slide
    from scope.generation.engine import Engine as Engine
    from scope.generation.models import EMBEDDED as EMBEDDED
    from scope.generation.models import ModelSource as ModelSource
    from scope.generation.models import RandomModel as RandomModel
    from scope.generation.models import load as load
    from scope.generation.options import Hooks as Hooks
    from scope.generation.options import Options as Options
    from scope.generation.replay import Reference as Reference
    from scope.generation.replay import Replayed as Replayed
    from scope.generation.replay import ReplayOptions as ReplayOptions
    from scope.generation.replay import reference as reference
    from scope.generation.replay import replay as replay
    from scope.generation.rows import Generated as Generated
    from scope.generation.rows import Prompt as Prompt
    from scope.generation.sampling import Sampling as Sampling
    from scope.generation.stream import generate as generate
    from scope.generation.stream import stream as stream
    from scope.prefill import Full as Full
    from scope.prefill import PyramidKV as PyramidKV
    from scope.prefill import SnapKV as SnapKV
    from scope.runs.experiment import Experiment as Experiment
    from scope.runs.traces import Trace as Trace
    from scope.runs.tracking import NoTracking as NoTracking
    from scope.runs.tracking import Wandb as Wandb
    from scope.tasks import Arithmetic as Arithmetic
else:

    def __getattr__(name: str) -> Any:
        """Raises AttributeError for a name that is not to be had from here."""
        if name not in _PLACE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_PLACE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACE_OF})
