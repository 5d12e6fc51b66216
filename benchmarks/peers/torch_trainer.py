"""What the peers, all of them on torch, have in common."""

import numpy as np
import torch


class TorchTrainer:
    """Rows and waiting; a peer adds ``step`` and ``weights``."""

    def __init__(self, device: str) -> None:
        self.device = device

    def place(self, rows: np.ndarray) -> torch.Tensor:
        """Return the rows on the device; on a CPU without a copy."""
        return torch.from_numpy(rows).to(self.device)

    def wait(self) -> None:
        """Wait until all steps are done."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def device_bytes(self) -> int | None:
        """Return the accelerator's peak memory; None on a CPU."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else None


def to_numpy(**tensors: torch.Tensor) -> dict[str, np.ndarray]:
    """Return tensors as arrays."""
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}
