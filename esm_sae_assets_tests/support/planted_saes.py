"""SAEs whose activations are a table, over rows that carry nothing but their number."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae.formats.checkpoint import SAEConfig
from esm_sae.formats.shards import ROW_SCHEMA, Provenance

WIDTH = 16

_A_PROTEIN_EACH = Provenance(pooling="mean")


@dataclass(frozen=True)
class NumberedRows:
    """Rows whose first number is their own; a protein each."""

    ids: list[str]
    provenance: Provenance = _A_PROTEIN_EACH
    fingerprint: str = "numbered"
    directory: Path = Path("numbered")
    width: int = WIDTH

    @property
    def rows(self) -> int:
        """N, the number of rows."""
        return len(self.ids)

    @property
    def index(self) -> pl.LazyFrame:
        """One row per row, with an id and nothing else."""
        columns = {name: self.ids if name == "sequence_id" else None for name in ROW_SCHEMA}
        return pl.LazyFrame(columns, schema=ROW_SCHEMA)

    def rows_at(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows of these numbers."""
        rows = np.zeros((len(indices), self.width), dtype=np.float32)
        rows[:, 0] = indices
        return rows

    def batches(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the rows in order."""
        for start in range(0, self.rows, size):
            yield start, self.rows_at(np.arange(start, min(start + size, self.rows)))


class PlantedSAE:
    """Gives row n the activations of row n of a table (N, L) and has any decoder (L, D)."""

    def __init__(self, activations: np.ndarray, decoder: np.ndarray, **config: Any) -> None:
        self.activations = activations.astype(np.float32)
        self.decoder = decoder.astype(np.float32)
        k = config.pop("k", activations.shape[1])
        self.config = SAEConfig(WIDTH, activations.shape[1], k, pooling="mean", **config)
        self.fingerprint = f"planted by seed {self.config.seed}, k = {k}"

    def encode_sparse(self, x: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
        """Return the activations of all latents, those of 0 too."""
        values = self.activations[x[:, 0].astype(np.int64)]
        return values, np.tile(np.arange(values.shape[1]), (len(x), 1))

    def reconstruct(self, x: np.ndarray, /) -> np.ndarray:
        """Return the rows themselves."""
        return x
