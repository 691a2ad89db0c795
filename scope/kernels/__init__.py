"""Triton kernels for CUDA. Each has a twin in plain torch that computes the same on any device; tests compare the two.

Triton is imported when a kernel is first launched, so this package can be imported without it. With
TRITON_INTERPRET=1, set before triton is imported, the kernels run on the CPU, slowly.
"""

from importlib.util import find_spec

from torch import Tensor, device

from scope.kernels.shapes import DTYPES, MOST_DIM


def runs_on(where: device) -> bool:
    """Whether the kernels can be launched on tensors of this device."""
    return where.type == "cuda" and find_spec("triton") is not None


def takes(keys: Tensor, values: Tensor) -> bool:
    """Whether the kernels take keys and values of this dtype and these head dims."""
    return keys.shape[-1] == values.shape[-1] <= MOST_DIM and keys.dtype in DTYPES
