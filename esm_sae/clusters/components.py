"""Principal components of embedding matrices, streamed over the shards."""

from dataclasses import dataclass

import numpy as np

from esm_sae.errors import InputError
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.progress import progress

_BATCH = 4096
# Below this share of the largest variance a component is float32 rounding.
_NEGLIGIBLE = 1e-9


@dataclass(frozen=True)
class Components:
    """Principal components.

    Attributes:
        centre: mean row, (D,) float64.
        axes: unit axes, (D, C) float64, largest variance first; the largest entry of each axis
            is positive.
        variances: variance along each axis, (C,) float64.
        explained: share of the total variance along each axis, (C,) float64.
    """

    centre: np.ndarray
    axes: np.ndarray
    variances: np.ndarray
    explained: np.ndarray

    def project(self, rows: np.ndarray, whitening: float = 0.0) -> np.ndarray:
        """Return coordinates (n, C) float64 of rows (n, D).

        ``whitening`` 0 keeps the variances lambda, 1 makes them all 1: a coordinate is divided
        by ``lambda ** (whitening / 2)``.
        """
        return (rows - self.centre) @ (self.axes / self.variances ** (whitening / 2))


def fit_components(shards: EmbeddingShards, count: int) -> Components:
    """Return the first ``count`` principal components of all rows, from one pass over them.

    The covariance is summed in float64 about the mean of the first batch. Fewer components come
    back where the rows span fewer dimensions.

    Raises:
        InputError: a row holds NaN or infinity (the first is named), or all rows are equal.
    """
    shift = np.zeros(shards.width)
    total = np.zeros(shards.width)
    products = np.zeros((shards.width, shards.width))
    with progress(shards.rows, unit="rows", description="principal components") as shown:
        for start, batch in shards.batches(_BATCH):
            _require_finite(shards, start, batch)
            rows = batch.astype(np.float64)
            if start == 0:
                shift = rows.mean(axis=0)
            rows -= shift
            total += rows.sum(axis=0)
            products += rows.T @ rows
            shown.update(len(batch))
    offset = total / shards.rows
    covariance = products / shards.rows - np.outer(offset, offset)
    return _components(shift + offset, covariance, count, shards)


def _components(
    centre: np.ndarray, covariance: np.ndarray, count: int, shards: EmbeddingShards
) -> Components:
    variances, axes = np.linalg.eigh(covariance)
    variances, axes = variances[::-1], axes[:, ::-1]
    scale = float(np.square(centre).sum())
    if variances[0] <= np.finfo(np.float32).eps ** 2 * scale or variances[0] <= 0:
        raise InputError(f"{shards.directory}: all {shards.rows} rows are equal")
    kept = min(count, int((variances > _NEGLIGIBLE * variances[0]).sum()))
    axes = axes[:, :kept]
    peaks = axes[np.abs(axes).argmax(axis=0), np.arange(kept)]
    explained = variances[:kept] / np.clip(variances, 0, None).sum()
    return Components(centre, axes * np.sign(peaks), variances[:kept], explained)


def _require_finite(shards: EmbeddingShards, start: int, batch: np.ndarray) -> None:
    wrong = np.flatnonzero(~np.isfinite(batch).all(axis=1))
    if len(wrong):
        row = start + int(wrong[0])
        name = shards.index.slice(row, 1).collect()["sequence_id"][0]
        raise InputError(
            f"{shards.directory}: row {row} ('{name}') holds NaN or infinity; embed it again"
        )
