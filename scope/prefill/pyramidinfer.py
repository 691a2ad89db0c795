"""pyramidinfer: h2o with a budget that falls from layer to layer (Yang et al. 2024, arXiv 2405.12532)."""

from dataclasses import dataclass

from scope.prefill.budget import Pyramid
from scope.prefill.heavy_hitters import HeavyHitters


@dataclass(frozen=True)
class PyramidInfer(Pyramid, HeavyHitters):
    """The heavy hitters' score, the pyramid's numbers."""
