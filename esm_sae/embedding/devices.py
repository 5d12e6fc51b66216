"""Where an encoder runs, and in which arithmetic."""

import re
import warnings
from typing import TYPE_CHECKING

from esm_sae.errors import InputError
from esm_sae.progress import LOGGER

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "float32", "bfloat16")


def find_device(name: str | None) -> "torch.device":
    """Return the device of a name; of None a CUDA device where there is one, else the CPU.

    Raises:
        InputError: it is not to be had here.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with warnings.catch_warnings(action="ignore"):
            device = torch.device(name)
            # Read back: the meta device has room for all values and keeps none.
            torch.ones(2, device=device).sum().item()
    # Kinds that are not there raise whatever they come upon.
    except Exception as error:
        # Of other kinds torch says at length how it is made of parts.
        is_cuda = re.fullmatch(r"cuda(:\d+)?", name) is not None
        reason = f" ({str(error).splitlines()[0]})" if is_cuda and str(error) else ""
        found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            found.append("mps")
        raise InputError(
            f"device '{name}': not to be had here{reason}; name one of {', '.join(found)}"
        ) from None
    return device


def resolve_precision(precision: str, device: "torch.device") -> str:
    """Return ``float32`` or ``bfloat16``; ``auto`` is bfloat16 on a CUDA device.

    bfloat16 on a CPU that does not compute in it is warned of.

    Raises:
        InputError: it is none of ``PRECISIONS``.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision '{precision}': expected one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    if precision == "bfloat16" and device.type == "cpu" and not _cpu_has_bfloat16():
        LOGGER.warning("this CPU has no instructions for bfloat16; float32 is faster on it")
    return precision


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16; True where torch cannot tell."""
    import torch

    # Not in torch 2.9.
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
