"""pyramidkv: snapkv with fewer slots in later layers (Cai et al. 2024, arXiv 2406.02069)."""

from dataclasses import dataclass

from scope.prefill.budget import Pyramid
from scope.prefill.snapkv import SnapKV


@dataclass(frozen=True)
class PyramidKV(Pyramid, SnapKV):
    """Score the slots as `SnapKV`, and spread the budget over the layers as `Pyramid`.

        score of slot j = sum over the last `window` queries i of a(i, j), max-pooled over `kernel` neighbours

    The parameters are those of `Pyramid` and `SnapKV`.
    """
