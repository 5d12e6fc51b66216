"""What is known of each latent: how it fires, and where its decoder row points."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from esm_sae.sae.inference import SAE
from esm_sae.sae.model import initial_directions

# Cosines are held in tiles of this many latents by as many.
_TILE = 2048


@dataclass(frozen=True)
class Firing:
    """How the latents fire on a set of rows.

    Attributes:
        rows: number of rows.
        counts: (L,) rows each latent fires on.
        sums: (L,) sum of its activations.
        maxima: (L,) its largest activation.
        l0: number of rows on which 0, 1, .. latents fire, up to k and to the most that do.
    """

    rows: int
    counts: np.ndarray
    sums: np.ndarray
    maxima: np.ndarray
    l0: np.ndarray

    @property
    def l0_mean(self) -> float:
        """How many latents fire on a row, in the mean."""
        return float(self.counts.sum() / self.rows)

    @property
    def fired(self) -> np.ndarray:
        """Whether each latent fires on any row, (L,)."""
        return self.counts > 0

    @property
    def densities(self) -> np.ndarray:
        """Share of the rows that each latent fires on, (L,)."""
        return self.counts / self.rows


class FiringMeter:
    """Counts how latents fire, block by block; holds (L,) sums and the histogram of L0."""

    def __init__(self, latent_dim: int, k: int) -> None:
        self._rows = 0
        self._counts, self._l0 = np.zeros(latent_dim, np.int64), np.zeros(k + 1, np.int64)
        self._sums, self._maxima = np.zeros(latent_dim), np.zeros(latent_dim, np.float32)

    def add(self, values: np.ndarray, latents: np.ndarray) -> None:
        """Count in the activations of n rows, (n, K), 0 where nothing fires, and their latents."""
        latent_dim = len(self._counts)
        fires = values > 0
        self._rows += len(values)
        l0 = np.bincount(fires.sum(1), minlength=len(self._l0))
        l0[: len(self._l0)] += self._l0
        self._l0 = l0
        self._counts += np.bincount(latents[fires], minlength=latent_dim)
        self._sums += np.bincount(latents[fires], weights=values[fires], minlength=latent_dim)
        np.maximum.at(self._maxima, latents[fires], values[fires])

    def result(self) -> Firing:
        """Return what the rows so far come to."""
        return Firing(self._rows, self._counts, self._sums, self._maxima, self._l0)


def latents_table(sae: SAE, firing: Firing) -> pl.DataFrame:
    """Return one row per latent.

    Columns: latent; density, the share of rows it fires on; mean_activation over the rows it
    fires on, 0 where there are none; max_activation; decoder_norm; max_decoder_cosine, the
    largest cosine of its decoder row with that of another latent that fires on some row, null
    where there is none; initial_cosine, the cosine of its decoder row with where it pointed
    before the training, null where the seed is not known. A decoder row of 0 has no cosines.

    Memory beside the decoder: two more matrices of its shape, (L, D) float32, and tiles of 2,048
    by 2,048 cosines, never (L, L).
    """
    norms = sae.decoder_norms
    directions = sae.decoder / np.maximum(norms, np.finfo(np.float32).tiny)[:, None]
    pointing = norms > 0
    largest = largest_cosines(directions, firing.fired & pointing)
    return pl.DataFrame(
        {
            "latent": np.arange(len(firing.counts), dtype=np.int32),
            "density": firing.densities,
            "mean_activation": firing.sums / np.maximum(firing.counts, 1),
            "max_activation": firing.maxima,
            "decoder_norm": norms,
            "max_decoder_cosine": np.where(pointing, largest, np.nan).astype(np.float32),
            "initial_cosine": np.where(pointing, _initial_cosines(sae, directions), np.nan).astype(
                np.float32
            ),
        }
    ).with_columns(pl.col("max_decoder_cosine", "initial_cosine").fill_nan(None))


def largest_cosines(directions: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Return each latent's largest cosine with another live one, NaN where there is none.

    Args:
        directions: unit decoder rows, (L, D) float32.
        live: whether a latent counts as another one, (L,) bool.

    Returns:
        (L,) float32.
    """
    everyone, others = np.arange(len(directions)), np.flatnonzero(live)
    largest = np.full(len(directions), -np.inf, dtype=np.float32)
    for start in range(0, len(others), _TILE):
        columns = _tile(directions, others[start : start + _TILE])
        for first in range(0, len(directions), _TILE):
            rows = _tile(directions, everyone[first : first + _TILE])
            place = slice(first, first + _TILE)
            found = np.asarray(_largest_of_tile(*rows, *columns))[: len(largest[place])]
            largest[place] = np.maximum(largest[place], found)
    # Of two equal unit vectors the product can come out above 1.
    return np.where(np.isfinite(largest), largest.clip(max=1), np.nan).astype(np.float32)


def _initial_cosines(sae: SAE, directions: np.ndarray) -> np.ndarray:
    if sae.config.seed is None:
        return np.full(len(directions), np.nan)
    first = initial_directions(sae.config.width, sae.config.latent_dim, seed=sae.config.seed)
    return np.einsum("ld,ld->l", directions, first)


def _tile(directions: np.ndarray, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the latents' directions and their numbers, filled up with 0 and -1 to a tile."""
    rows = np.zeros((_TILE, directions.shape[1]), dtype=np.float32)
    rows[: len(latents)] = directions[latents]
    numbers = np.full(_TILE, -1, dtype=np.int32)
    numbers[: len(latents)] = latents
    return rows, numbers


@jax.jit
def _largest_of_tile(
    rows: jax.Array, row_latents: jax.Array, columns: jax.Array, column_latents: jax.Array
) -> jax.Array:
    cosines = jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)
    counts = (column_latents >= 0) & (column_latents != row_latents[:, None])
    return jnp.where(counts, cosines, -jnp.inf).max(axis=1)
