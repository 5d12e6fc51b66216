"""Embedding rows in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from esm_sae.formats.shards import Provenance


@dataclass(frozen=True)
class PlainRows:
    """Rows (N, D) float32 and their index, with the columns that a test needs."""

    matrix: np.ndarray
    table: pl.DataFrame
    provenance: Provenance
    fingerprint: str = "rows"
    directory: Path = Path("rows")

    @property
    def rows(self) -> int:
        """N."""
        return len(self.matrix)

    @property
    def width(self) -> int:
        """D."""
        return self.matrix.shape[1]

    @property
    def index(self) -> pl.LazyFrame:
        """One row per matrix row."""
        return self.table.lazy()

    def rows_at(self, indices: np.ndarray, /) -> np.ndarray:
        """Return the rows of these numbers."""
        return self.matrix[indices]

    def batches(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(first row, (n, D) float32)`` in row order."""
        for start in range(0, self.rows, size):
            yield start, self.matrix[start : start + size]
