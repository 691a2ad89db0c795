"""Which head dims, dtypes and layouts the kernels take."""

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MOST_DIM = 256


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def padded(dim: int) -> int:
    """The size of a dimension in a matrix product, which takes powers of two from 16 on."""
    return max(16, power_of_two(dim))


def check_shape(query_heads: int, heads: int, dim: int, dtype: torch.dtype) -> int:
    """-> G, the query heads per key/value head. Raises ValueError for heads, a head dim or a dtype that do not fit."""
    if query_heads % heads:
        raise ValueError(f"query heads: {query_heads}, must be a multiple of the {heads} key/value heads")
    if not 0 < dim <= MOST_DIM:
        raise ValueError(f"head dim: {dim}, must be 1 to {MOST_DIM}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype: {dtype}, must be one of {', '.join(map(str, DTYPES))}")
    return query_heads // heads


def check_same(query: Tensor, keys: Tensor, values: Tensor) -> None:
    """Raises ValueError if the shapes or dtypes do not fit together."""
    if keys.shape != values.shape or query.shape[-1] != keys.shape[-1]:
        raise ValueError(f"values: {tuple(values.shape)}, must be as keys {tuple(keys.shape)}, of the query's head dim")
    if not query.dtype == keys.dtype == values.dtype:
        raise ValueError(f"dtypes: {query.dtype}, {keys.dtype}, {values.dtype}: must be the same")


def check_contiguous(**tensors: Tensor | None) -> None:
    """Raises ValueError for a tensor whose last dimension is not contiguous. Tensors by name; None is skipped."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(f"{name}: strides {tensor.stride()}, the last dimension must be contiguous")
