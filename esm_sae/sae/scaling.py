"""Mean and spread of the training rows, and the centre and scale that training works in."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import Checkpoint, SAEConfig, ZScore
from esm_sae.formats.manifest import is_recorded, read_manifest
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.progress import progress
from esm_sae.sae.model import Weights
from esm_sae.sae.rows import RowRuns, read_rows

_ROWS_PER_BLOCK = 1_024
_NAMED = 20


@dataclass(frozen=True)
class RowStatistics:
    """First and second moments of the training rows, float64.

    Attributes:
        rows: number of rows.
        mean: mu, (D,).
        variance: mean over the rows of ``|x - mu|^2``, the denominator of every FVU.
        covariance: (D, D), or None where it was not asked for.
    """

    rows: int
    mean: np.ndarray
    variance: float
    covariance: np.ndarray | None = None


@dataclass(frozen=True)
class Scaling:
    """What training sees of a row x: ``(x - centre) / scale``.

    Attributes:
        centre: (D,) float32.
        scale: a power of two, so that dividing by it and folding it back are exact.
        variance: mean over the training rows of ``|(x - mu) / scale|^2``.
    """

    centre: np.ndarray
    scale: float
    variance: float


def measure_rows(
    shards: EmbeddingShards,
    rows: RowRuns,
    *,
    normalize: ZScore | None = None,
    covariance: bool = False,
) -> RowStatistics:
    """Measure mean and spread of the given rows in float64, streaming over blocks of rows.

    Memory beside the (D, D) covariance: one block of 1,024 rows, in float32 and in float64.

    Args:
        shards: the embedding matrices.
        rows: the training rows, one or more.
        normalize: measure the rows z-scored so.
        covariance: measure the covariance, too.

    Raises:
        InputError: a row holds NaN or infinity, or all rows are equal.
    """
    # Sums are taken about the first row: far from 0 the difference of large squares loses digits.
    shift = _block(shards, rows.at(np.array([0])), normalize)[0]
    total, squares = np.zeros(shards.width), np.zeros(shards.width)
    products = np.zeros((shards.width, shards.width)) if covariance else None
    for numbers in rows.blocks(_ROWS_PER_BLOCK):
        block = _block(shards, numbers, normalize)
        block -= shift
        total += block.sum(0)
        squares += np.einsum("nd,nd->d", block, block)
        if products is not None:
            products += block.T @ block
    mean = total / len(rows)
    variance = float(squares.sum() / len(rows) - mean @ mean)
    if not variance > 0:
        raise InputError(
            f"{shards.directory}: all {len(rows)} training rows are equal; there is nothing to "
            "learn from them"
        )
    if products is not None:
        products = products / len(rows) - np.outer(mean, mean)
    return RowStatistics(len(rows), mean + shift, variance, products)


def scaling_of(statistics: RowStatistics) -> Scaling:
    """Return the centre and the power of two nearest the RMS of the centred rows' entries."""
    rms = np.sqrt(statistics.variance / len(statistics.mean))
    scale = float(2.0 ** np.round(np.log2(rms)))
    return Scaling(statistics.mean.astype(np.float32), scale, statistics.variance / scale**2)


def fold(
    weights: Weights,
    scaling: Scaling,
    threshold: np.ndarray | None = None,
    *,
    config: SAEConfig,
    path: Path,
) -> Checkpoint:
    """Return trained weights, and thresholds (L,) beside them, as a checkpoint for raw rows.

    TopK and ReLU commute with a positive scale s: for ``x = centre + s x'`` the same latents
    fire, s times as strongly, with ``pb_D = centre + s pb'``, ``lb_L = s lb'``, s times the
    thresholds and the kernels as they are.
    """
    scale = np.float32(scaling.scale)
    if weights.log_threshold is not None:
        threshold = np.exp(np.asarray(weights.log_threshold))
    return Checkpoint(
        encoder=np.ascontiguousarray(np.asarray(weights.encoder).T),
        decoder=np.asarray(weights.decoder_rows),
        latent_bias=np.asarray(weights.latent_bias) * scale,
        pre_bias=scaling.centre + np.asarray(weights.pre_bias) * scale,
        config=config,
        path=path,
        threshold=None if threshold is None else (threshold * scale).astype(np.float32),
    )


def require_intact(shards: EmbeddingShards) -> None:
    """Check every shard's matrix against the hash in its manifest.

    Bare matrices have none; their fingerprint is taken from their bytes when they are opened.

    Raises:
        InputError: a file is not the one its manifest describes.
    """
    total = sum(array.nbytes for array in shards.arrays)
    damaged = []
    with progress(total, unit="bytes", description="verifying shards") as shown:
        for path, array in zip(shards.paths, shards.arrays, strict=True):
            if not _is_as_recorded(path):
                damaged.append(path)
            shown.update(array.nbytes)
    if len(damaged) == 1:
        raise InputError(
            f"{damaged[0]}: its bytes differ from what its manifest records; embed this shard again"
        )
    if damaged:
        more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
        raise InputError(
            f"{shards.directory}: the bytes of {', '.join(path.name for path in damaged[:_NAMED])}"
            f"{more} differ from what their manifests record; embed these shards again"
        )


def _is_as_recorded(path: Path) -> bool:
    manifest = read_manifest(path.with_suffix(".json"))
    return manifest is None or path.name not in manifest.files or is_recorded(path, manifest)


def _block(shards: EmbeddingShards, numbers: np.ndarray, normalize: ZScore | None) -> np.ndarray:
    block = read_rows(shards, numbers).astype(np.float64)
    if normalize is not None:
        block -= block.mean(1, keepdims=True)
        divisor = shards.width - normalize.ddof
        spread = np.sqrt(np.einsum("nd,nd->n", block, block) / divisor)
        block /= spread[:, None] + normalize.epsilon
    return block
