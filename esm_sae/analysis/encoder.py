"""What the analysis asks of an SAE and of embedding rows."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import polars as pl

from esm_sae.formats.parent_check import Reconstructing, Rows


class SparseEncoder(Reconstructing, Protocol):
    """An SAE as far as the analysis is concerned."""

    @property
    def fingerprint(self) -> str:
        """Hash of the weights and of what else decides an encoding."""
        ...

    def encode_sparse(self, x: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
        """Turn (N, D) float32 rows into values (N, K) float32 and latents (N, K) integers.

        An entry whose value is 0 is not an activation. K is k by TopK.
        """
        ...


class EmbeddingRows(Rows, Protocol):
    """Embedding rows in order, with what each row is; ``EmbeddingShards`` is one."""

    @property
    def fingerprint(self) -> str:
        """Hash of the rows' contents."""
        ...

    @property
    def index(self) -> pl.LazyFrame:
        """One row per embedding row: sequence_id, header, taxon, taxid, length, position."""
        ...

    def batches(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(first row, (n, D) float32)`` in row order."""
        ...


def identity_of_encoding(sae: SparseEncoder, rows: EmbeddingRows) -> dict[str, Any]:
    """Return what determines the activations of rows, for a manifest."""
    return {"sae": sae.fingerprint, "config": asdict(sae.config), "rows": rows.fingerprint}
