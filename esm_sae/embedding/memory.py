"""Telling that a device ran out of memory, and freeing what can be freed."""

import torch

# What the allocators say that raise a plain RuntimeError: of the CPU, of MPS, of cuBLAS.
_SIGNS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def free_cached(device: torch.device) -> None:
    """Give back the device memory that torch keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
