"""What the analysis asks of an SAE and of embedding rows, and whether the two fit together."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import polars as pl

from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig
from esm_sae.formats.shards import Provenance


class SparseEncoder(Protocol):
    """An SAE as far as the analysis is concerned."""

    @property
    def config(self) -> SAEConfig:
        """What the checkpoint is: D, L, k and where its training rows came from."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the weights."""
        ...

    def encode_sparse(self, x: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
        """Turn (N, D) float32 rows into values (N, k) float32 and latents (N, k) integers.

        An entry whose value is 0 is not an activation: ReLU can leave fewer than k.
        """
        ...


class EmbeddingRows(Protocol):
    """Embedding rows in order, with what each row is; ``EmbeddingShards`` is one."""

    @property
    def rows(self) -> int:
        """N, the number of rows."""
        ...

    @property
    def width(self) -> int:
        """D, the width of a row."""
        ...

    @property
    def provenance(self) -> Provenance:
        """Encoder, layer and pooling of the rows."""
        ...

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


def require_fit(sae: SparseEncoder, rows: EmbeddingRows, where: str) -> None:
    """Refuse rows of another kind than those the SAE was trained on.

    What either side does not know is not compared.

    Args:
        sae: the SAE.
        rows: the rows it shall encode.
        where: the file or folder of the rows, named in the error.

    Raises:
        InputError: width, encoder, weights, layer or pooling differ; both values are named.
    """
    config, provenance = sae.config, rows.provenance
    if rows.width != config.width:
        raise InputError(
            f"{where}: its rows are {rows.width} wide, the checkpoint reads rows {config.width} "
            "wide; use the embeddings the SAE was trained on"
        )
    compared = {
        "encoder": (provenance.encoder, config.encoder),
        "encoder weights": (provenance.weights_sha256, config.weights_sha256),
        "layer": (provenance.layer, config.layer),
        "pooling": (provenance.pooling, config.pooling),
    }
    for name, (of_rows, of_sae) in compared.items():
        if None in (of_rows, of_sae) or "unknown" in (of_rows, of_sae) or of_rows == of_sae:
            continue
        raise InputError(
            f"{where}: its rows and the checkpoint's training rows differ in {name} "
            f"({of_rows} and {of_sae}); use the embeddings the SAE was trained on"
        )


def identity_of_encoding(sae: SparseEncoder, rows: EmbeddingRows) -> dict[str, Any]:
    """Return what determines the activations of rows, for a manifest."""
    return {"sae": sae.fingerprint, "config": asdict(sae.config), "rows": rows.fingerprint}
