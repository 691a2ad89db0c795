"""How much memory is free, what fits into it, and whether an error says that there is none left."""

import torch

from scope.util.errors import ScopeError


def rows_that_fit(
    row_bytes: int, prefill_bytes: int, device: torch.device, together: int | None = None, share: float = 0.8
) -> int:
    """How many rows of a batch fit in `share` of the free memory.

    row_bytes: of one row's cache. prefill_bytes: what one row's prefill needs beside it. together: how many rows are
    prefilled at a time; None: all. Raises ScopeError if not even one row fits.
    """
    free = free_memory(device)
    room = int(share * free)
    rows = room // (row_bytes + prefill_bytes)
    if together is not None and rows >= together:
        rows = (room - together * prefill_bytes) // row_bytes
    if rows < 1:
        need = (row_bytes + prefill_bytes) / 2**30
        raise ScopeError(f"engine.batch_size=auto: one row takes {need:.2f} GiB, {free / 2**30:.2f} GiB are free")
    return rows


def free_memory(device: torch.device) -> int:
    """Free bytes of a GPU, with those that torch has reserved and does not use; or of the machine."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    import psutil

    return int(psutil.virtual_memory().available)


def out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
