"""How well an SAE reconstructs rows: the one place where FVU is computed."""

from dataclasses import dataclass

import numpy as np

from esm_sae.formats.shards import EmbeddingShards
from esm_sae.sae.inference import SAE
from esm_sae.sae.rows import read_rows
from esm_sae.sae.scaling import RowStatistics

_ROWS_PER_BLOCK = 4096


@dataclass(frozen=True)
class Fidelity:
    """How well rows are reconstructed, in raw units.

    Attributes:
        rows: number of rows.
        fvu: ``sum |x - x_hat|^2 / sum |x - mu|^2``, where mu and the denominator's mean over
            rows come from the training rows.
        mean_squared_error: mean of ``(x - x_hat)^2`` over rows and entries.
        cosine: mean cosine between row and reconstruction.
        centred_cosine: the same after subtracting mu from both.
    """

    rows: int
    fvu: float
    mean_squared_error: float
    cosine: float
    centred_cosine: float


def measure_fidelity(
    sae: SAE, shards: EmbeddingShards, rows: np.ndarray, statistics: RowStatistics
) -> Fidelity:
    """Measure how well an SAE reconstructs the given rows (one or more), block by block."""
    squares, cosine, centred_cosine = 0.0, 0.0, 0.0
    for start in range(0, len(rows), _ROWS_PER_BLOCK):
        raw = read_rows(shards, rows[start : start + _ROWS_PER_BLOCK])
        again = sae.reconstruct(raw).astype(np.float64)
        squares += float(np.sum((raw - again) ** 2))
        cosine += _sum_of_cosines(raw, again)
        centred_cosine += _sum_of_cosines(raw - statistics.mean, again - statistics.mean)
    count = len(rows)
    return Fidelity(
        rows=count,
        fvu=squares / (count * statistics.variance),
        mean_squared_error=squares / (count * shards.width),
        cosine=cosine / count,
        centred_cosine=centred_cosine / count,
    )


def pca_fvu(
    shards: EmbeddingShards, rows: np.ndarray, statistics: RowStatistics, components: int
) -> float:
    """Return the FVU of PCA with a number of components, fitted on the training rows.

    Args:
        shards: the embedding matrices.
        rows: numbers of the rows to reconstruct.
        statistics: of the training rows, with their covariance.
        components: number of components, k of the SAE it is compared with.
    """
    if statistics.covariance is None:
        raise ValueError("PCA needs the covariance of the training rows")
    _, vectors = np.linalg.eigh(statistics.covariance)
    principal = vectors[:, ::-1][:, :components]
    squares = 0.0
    for start in range(0, len(rows), _ROWS_PER_BLOCK):
        centred = read_rows(shards, rows[start : start + _ROWS_PER_BLOCK]) - statistics.mean
        squares += float(np.sum((centred - centred @ principal @ principal.T) ** 2))
    return squares / (len(rows) * statistics.variance)


def _sum_of_cosines(one: np.ndarray, other: np.ndarray) -> float:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    dots = np.einsum("nd,nd->n", one, other, dtype=np.float64)
    return float(np.sum(dots / np.maximum(norms, np.finfo(np.float64).tiny)))
