"""pyramidkv: snapkv with a budget that falls from layer to layer (Cai et al. 2024, arXiv 2406.02069)."""

from dataclasses import dataclass

from scope.prefill.budget import Pyramid
from scope.prefill.snapkv import SnapKV


@dataclass(frozen=True)
class PyramidKV(Pyramid, SnapKV):
    """SnapKV's score, the pyramid's numbers."""
