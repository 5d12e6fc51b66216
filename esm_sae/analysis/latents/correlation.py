"""Pearson correlations of the activations of latents over the same rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

_LATENTS_AT_ONCE = 256
_ROUNDING = 1e-12


@dataclass(frozen=True)
class LatentColumns:
    """The activations of n latents over N rows.

    Attributes:
        matrix: (N, n) scipy CSC array of float32, without stored zeros.
        means: of each latent over all rows, (n,) float64.
        norms: square root of each latent's sum of squared deviations, (n,) float64.
    """

    matrix: Any
    means: np.ndarray
    norms: np.ndarray

    @property
    def rows(self) -> int:
        """N, the number of rows."""
        return int(self.matrix.shape[0])

    @property
    def firing_rows(self) -> np.ndarray:
        """On how many rows each latent fires, (n,)."""
        return np.diff(self.matrix.indptr)

    def of_latent(self, column: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows on which a latent fires, ascending, and its activations there."""
        part = slice(self.matrix.indptr[column], self.matrix.indptr[column + 1])
        return self.matrix.indices[part], self.matrix.data[part]

    def take(self, columns: np.ndarray) -> "LatentColumns":
        """Return some of the latents."""
        return LatentColumns(self.matrix[:, columns], self.means[columns], self.norms[columns])

    def with_rows_permuted(self, generator: np.random.Generator) -> "LatentColumns":
        """Return the same latents with their rows in a random order, one for all of them."""
        order = generator.permutation(self.rows)
        permuted = self.matrix.tocsr()[order].tocsc()
        return LatentColumns(permuted, self.means, self.norms)


def latent_columns(
    rows: np.ndarray, latents: np.ndarray, values: np.ndarray, shape: tuple[int, int]
) -> LatentColumns:
    """Gather activations of latents.

    Memory: about 24 bytes an activation meanwhile, 8 in the end.

    Args:
        rows: row of each activation, from 0; a pair of row and latent comes once.
        latents: latent of each.
        values: float32, above 0.
        shape: (N, L).
    """
    from scipy.sparse import coo_array

    matrix = coo_array((values, (rows, latents)), shape=shape).tocsc()
    matrix.sort_indices()
    data = matrix.data.astype(np.float64)
    latent = np.repeat(np.arange(shape[1]), np.diff(matrix.indptr))
    sums, squares = (np.bincount(latent, of, minlength=shape[1]) for of in (data, data**2))
    means = sums / max(shape[0], 1)
    deviations = squares - sums * means
    # What rounding leaves of a latent that never varies is no variance.
    varies = deviations > _ROUNDING * squares
    return LatentColumns(matrix, means, np.sqrt(np.where(varies, deviations, 0.0)))


def correlation_blocks(
    one: LatentColumns, other: LatentColumns
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield Pearson correlations of all latents of one with all of the other, some rows at a time.

    A latent whose activation never varies correlates with nothing: 0.

    Memory: one block of 256 latents, 20 bytes x 256 x m, and 16 bytes an activation of ``other``.

    Yields:
        which latents of ``one``, and (b, m) float32.
    """
    right = other.matrix.tocsr().astype(np.float64)
    scale = 1.0 / np.where(other.norms > 0, other.norms, np.inf)
    for start in range(0, len(one.means), _LATENTS_AT_ONCE):
        block = slice(start, min(start + _LATENTS_AT_ONCE, len(one.means)))
        left = one.matrix[:, block].T.astype(np.float64)
        products = (left @ right).toarray()
        products -= one.rows * np.outer(one.means[block], other.means)
        products *= scale
        products /= np.where(one.norms[block] > 0, one.norms[block], np.inf)[:, None]
        yield block, np.clip(products, -1.0, 1.0).astype(np.float32)
