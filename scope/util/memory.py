"""Telling that memory ran out."""

import torch


def out_of_memory(error: Exception) -> bool:
    """Whether that is what it says, on a GPU or here."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
