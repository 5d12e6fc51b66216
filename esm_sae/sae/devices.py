"""The devices that a training runs on, and how its arrays lie on them."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@dataclass(frozen=True)
class Devices:
    """The devices of a training: one, or several that share the rows of each batch.

    Attributes:
        kind: ``cpu``, ``gpu`` or ``tpu``.
        count: their number.
    """

    kind: str
    count: int

    @classmethod
    def here(cls) -> "Devices":
        """Return the devices that jax has on this machine."""
        return cls(jax.default_backend(), jax.device_count())

    @property
    def formulation(self) -> str:
        """How the gradient is taken.

        ``sparse`` on a CPU, where gathering what counts is the least work; ``dense`` on
        accelerators, which multiply matrices faster than they gather, and on several devices.
        """
        return "sparse" if self == Devices("cpu", 1) else "dense"

    @property
    def resident(self) -> bool | None:
        """Whether the rows may be kept on the device: None where memory decides."""
        return None if self.kind != "cpu" and self.count == 1 else False

    def place(self, rows: np.ndarray, mask: np.ndarray) -> tuple[Any, Any]:
        """Put a batch where it is trained on, (B, D) and (B,); on several devices, a share each.

        The batch is padded to a number of rows that the devices can share equally.
        """
        if self.formulation == "sparse":
            return rows, mask
        if self.count == 1:
            return jax.device_put(rows), jax.device_put(mask)
        padding = -len(rows) % self.count
        rows, mask = np.pad(rows, ((0, padding), (0, 0))), np.pad(mask, (0, padding))
        shared = NamedSharding(self._mesh(), PartitionSpec("rows"))
        return jax.device_put(rows, shared), jax.device_put(mask, shared)

    def replicate(self, state: Any) -> Any:
        """Put a training state on every device."""
        if self.count == 1:
            return state
        return jax.device_put(state, NamedSharding(self._mesh(), PartitionSpec()))

    def record(self) -> dict[str, Any]:
        """Return what of the devices decides the bits of the result."""
        return {"kind": self.kind, "count": self.count}

    def _mesh(self) -> Mesh:
        return Mesh(np.array(jax.devices()), ("rows",))
