"""The methods whose features stand beside an SAE's latents."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from esm_sae.analysis.concepts.baseline_features import (
    Features,
    centroids,
    latents_of,
    principal_components,
    raw_dimensions,
)
from esm_sae.analysis.concepts.protein_rows import ProteinRows, RowUnits, evenly_spaced_rows
from esm_sae.analysis.encoder import EmbeddingRows, SparseEncoder

_ROWS_FITTED = 65_536


class Candidates(NamedTuple):
    """Features to choose from.

    Attributes:
        name: of the method.
        k: of an SAE, else None.
        rows: the rows they are features of.
        features: the features.
    """

    name: str
    k: int | None
    rows: EmbeddingRows
    features: Features


def fitted_methods(
    rows: EmbeddingRows, proteins: ProteinRows, train: np.ndarray, latent_dim: int, *, seed: int
) -> list[Candidates]:
    """Return raw dimensions, principal components and k-means.

    Args:
        rows: the embedding rows.
        proteins: which of them belong to which protein.
        train: which proteins PCA and k-means may see, (P,) bool; at most 65,536 of their rows.
        latent_dim: number of centroids.
        seed: of k-means.
    """
    sample = evenly_spaced_rows(RowUnits(rows, proteins, train, by_row=True), _ROWS_FITTED)
    return [
        Candidates("raw", None, rows, raw_dimensions(rows.width)),
        Candidates("pca", None, rows, principal_components(sample)),
        Candidates("kmeans", None, rows, centroids(sample, latent_dim, seed=seed)),
    ]


def encoder_methods(
    name: str, rows: EmbeddingRows, saes: Mapping[int, SparseEncoder]
) -> list[Candidates]:
    """Return the latents of SAEs, by k."""
    return [Candidates(name, k, rows, latents_of(sae)) for k, sae in sorted(saes.items())]
