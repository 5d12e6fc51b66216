"""How well rows are reconstructed: the one place where FVU is computed."""

from dataclasses import dataclass

import numpy as np

from esm_sae.sae.inference import SAE
from esm_sae.sae.scaling import RowStatistics

# A block's (rows, L) activations are held to 128 MB.
_MOST_ROWS, _MOST_ACTIVATIONS = 4096, 2**25


@dataclass(frozen=True)
class Fidelity:
    """How well rows are reconstructed, in raw units.

    Attributes:
        rows: number of rows.
        fvu: ``sum |x - x_hat|^2 / sum |x - mu|^2``, where mu and the denominator's mean over
            rows come from the training rows.
        mean_squared_error: mean of ``(x - x_hat)^2`` over rows and dimensions.
        cosine: mean cosine between row and reconstruction.
        centred_cosine: the same after subtracting mu from both.
        dimension_errors: (D,), mean of ``(x_d - x_hat_d)^2`` over the rows.
    """

    rows: int
    fvu: float
    mean_squared_error: float
    cosine: float
    centred_cosine: float
    dimension_errors: np.ndarray


class FidelityMeter:
    """Takes rows and their reconstructions block by block; holds (D,) sums in float64."""

    def __init__(self, statistics: RowStatistics) -> None:
        self._statistics = statistics
        self._rows = 0
        self._errors = np.zeros(len(statistics.mean))
        self._cosines = self._centred_cosines = 0.0

    def add(self, rows: np.ndarray, again: np.ndarray) -> np.ndarray:
        """Count rows in, (n, D), with their reconstructions; return ``|x - x_hat|^2``, (n,)."""
        rows, again = rows.astype(np.float64), again.astype(np.float64)
        squares = np.square(rows - again)
        mean = self._statistics.mean
        self._rows += len(rows)
        self._errors += squares.sum(0)
        self._cosines += _sum_of_cosines(rows, again)
        self._centred_cosines += _sum_of_cosines(rows - mean, again - mean)
        return squares.sum(1)

    def result(self) -> Fidelity:
        """Return what the rows so far, one or more, come to."""
        errors = self._errors / self._rows
        return Fidelity(
            rows=self._rows,
            fvu=float(errors.sum() / self._statistics.variance),
            mean_squared_error=float(errors.mean()),
            cosine=self._cosines / self._rows,
            centred_cosine=self._centred_cosines / self._rows,
            dimension_errors=errors,
        )


def share_unexplained(sae: SAE, rows: np.ndarray, statistics: RowStatistics) -> float:
    """Return the FVU of an SAE on rows in memory.

    Args:
        sae: the SAE.
        rows: raw embeddings, (n, D) with n of 1 or more.
        statistics: of the training rows.
    """
    squares, size = 0.0, rows_per_block(sae.config.latent_dim)
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        squares += float(np.sum(np.square(block - sae.reconstruct(block)), dtype=np.float64))
    return squares / (len(rows) * statistics.variance)


def standardised_fvu(fidelity: Fidelity, statistics: RowStatistics) -> tuple[float, int]:
    """Return the FVU with each dimension divided by its standard deviation.

    ``sum_d |x_d - x_hat_d|^2 / var_d`` over ``sum_d |x_d - mu_d|^2 / var_d``. mu, ``var_d`` and
    the denominator's mean over rows are those of the training rows, as for the plain FVU, so
    that this is the mean of the dimensions' own FVUs: each counts the same, while in the plain
    one those of large variance decide. Dimensions that do not vary are left out.

    Args:
        fidelity: of the rows that were reconstructed.
        statistics: of the training rows, with their covariance.

    Returns:
        The FVU, and the number of dimensions left out.
    """
    variances = dimension_variances(statistics)
    # A spread below the rounding of float32 rows is no spread.
    varies = np.sqrt(variances) > np.finfo(np.float32).eps * np.abs(statistics.mean)
    shares = fidelity.dimension_errors[varies] / variances[varies]
    return float(shares.mean()), int(np.sum(~varies))


def dimension_variances(statistics: RowStatistics) -> np.ndarray:
    """Return the variance of each dimension over the training rows, (D,)."""
    return np.diagonal(covariance_of(statistics)).clip(min=0)


def covariance_of(statistics: RowStatistics) -> np.ndarray:
    """Return the covariance of the training rows, (D, D), which must have been measured."""
    if statistics.covariance is None:
        raise ValueError("the covariance of the training rows was not measured")
    return statistics.covariance


def rows_per_block(latent_dim: int) -> int:
    """Return how many rows to encode at once: a power of two, fewer where latents are many."""
    fitting = 1 << max(_MOST_ACTIVATIONS // latent_dim, 1).bit_length() - 1
    return min(fitting, _MOST_ROWS)


def _sum_of_cosines(one: np.ndarray, other: np.ndarray) -> float:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    dots = np.einsum("nd,nd->n", one, other, dtype=np.float64)
    return float(np.sum(dots / np.maximum(norms, np.finfo(np.float64).tiny)))
