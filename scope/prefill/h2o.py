"""h2o: the heavy hitters of the prompt (Zhang et al. 2023, arXiv 2306.14048)."""

from dataclasses import dataclass

from scope.prefill.heavy_hitters import HeavyHitters


@dataclass(frozen=True)
class H2O(HeavyHitters):
    """Keep the last `window` slots and those with the highest attention from all of the prompt's queries."""
