"""Principal components of embedding matrices, streamed over the shards."""

from dataclasses import dataclass

import numpy as np

from esm_sae.errors import InputError
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.progress import Progress, progress

_BATCH = 4096
_PASSES = 4
_OVERSAMPLING = 10
# Below this share of the largest variance a component is float32 rounding.
_NEGLIGIBLE = 1e-7
# Sums of products of larger numbers would leave the range of float32.
_LARGEST = 1e15


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


def fit_components(shards: EmbeddingShards, count: int, *, seed: int = 0) -> Components:
    """Return the first ``count`` principal components of all rows, by randomised block Krylov.

    The covariance is never formed: a pass over the rows multiplies it with a block of
    ``count + 10`` orthonormal columns, at first random ones. The product, made orthogonal to
    all blocks before, is the next block, and after four passes the components are the best ones
    that the blocks span: randomised subspace iteration (Halko, Martinsson and Tropp 2011,
    algorithm 4.4) that keeps its powers (Musco and Musco 2015, algorithm 2). Where variances
    fall as slowly as i ** -1.5 they come out within 0.1% of the exact ones; where the blocks
    span all dimensions they are exact up to rounding. Products are summed in float32 within
    4,096 rows and in float64 beyond.

    Memory: 4,096 rows and 8 x (count + 10) columns of D numbers. Fewer components come back
    where the rows span fewer dimensions.

    Args:
        shards: the rows.
        count: components wanted.
        seed: of the first block.

    Raises:
        InputError: a row holds NaN, infinity or a number beyond 1e15 (the first is named), or
            all rows are equal.
    """
    size = min(count + _OVERSAMPLING, shards.width)
    passes = min(_PASSES, -(-shards.width // size))
    random = np.random.default_rng(seed).normal(size=(shards.width, size))
    blocks = [np.linalg.qr(random)[0]]
    with progress(passes * shards.rows, unit="rows", description="principal components") as shown:
        centre, total, product = _first_pass(shards, blocks[0], shown)
        products = [product]
        while len(products) < passes:
            blocks.append(_next_block(products[-1], np.hstack(blocks)))
            products.append(_later_pass(shards, blocks[-1], centre, shown))
    basis = np.hstack(blocks)
    within = basis.T @ np.hstack(products)
    variances, coefficients = np.linalg.eigh((within + within.T) / 2)
    variances, axes = variances[::-1], basis @ coefficients[:, ::-1]
    scale = float(np.square(centre).sum())
    if variances[0] <= np.finfo(np.float32).eps ** 2 * scale or variances[0] <= 0:
        raise InputError(f"{shards.directory}: all {shards.rows} rows are equal")
    kept = min(count, int((variances > _NEGLIGIBLE * variances[0]).sum()))
    axes = axes[:, :kept]
    peaks = axes[np.abs(axes).argmax(axis=0), np.arange(kept)]
    return Components(centre, axes * np.sign(peaks), variances[:kept], variances[:kept] / total)


def _first_pass(
    shards: EmbeddingShards, block: np.ndarray, shown: Progress
) -> tuple[np.ndarray, float, np.ndarray]:
    """Return the mean row, the total variance, and the covariance's product with a block."""
    columns = block.astype(np.float32)
    shift = np.zeros(shards.width, dtype=np.float32)
    sums = np.zeros(shards.width)
    squares = 0.0
    products = np.zeros(block.shape)
    for start, batch in shards.batches(_BATCH):
        _require_usable(shards, start, batch)
        if start == 0:
            shift = batch.mean(axis=0)
        batch -= shift
        sums += batch.sum(axis=0, dtype=np.float64)
        squares += float(np.square(batch).sum(dtype=np.float64))
        products += batch.T @ (batch @ columns)
        shown.update(len(batch))
    offset = sums / shards.rows
    product = products / shards.rows - np.outer(offset, offset @ block)
    return shift + offset, squares / shards.rows - float(offset @ offset), product


def _later_pass(
    shards: EmbeddingShards, block: np.ndarray, centre: np.ndarray, shown: Progress
) -> np.ndarray:
    """Return the covariance's product with a block."""
    columns, shift = block.astype(np.float32), centre.astype(np.float32)
    products = np.zeros(block.shape)
    for _, batch in shards.batches(_BATCH):
        batch -= shift
        products += batch.T @ (batch @ columns)
        shown.update(len(batch))
    return products / shards.rows


def _next_block(product: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return orthonormal columns of what a product (D, l) holds beyond an orthonormal basis.

    As many as it has columns, or as the dimensions that are left.
    """
    block = product[:, : basis.shape[0] - basis.shape[1]]
    # Once more, since the first difference can be mere rounding.
    for _ in range(2):
        block = np.linalg.qr(block - basis @ (basis.T @ block))[0]
    return block


def _require_usable(shards: EmbeddingShards, start: int, batch: np.ndarray) -> None:
    usable = np.abs(batch) <= _LARGEST
    if not usable.all():
        row = start + int(np.flatnonzero(~usable.all(axis=1))[0])
        name = shards.index.slice(row, 1).collect()["sequence_id"][0]
        raise InputError(
            f"{shards.directory}: row {row} ('{name}') holds NaN, infinity or a number beyond "
            f"{_LARGEST:g}; embed it again"
        )
