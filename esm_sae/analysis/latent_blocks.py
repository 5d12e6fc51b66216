"""The latents' proteins, some latents at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from esm_sae.formats.analysis_tables import LATENTS, PROTEINS

_PAIRS = 4_000_000


class LatentBlock(NamedTuple):
    """Some consecutive latents and the proteins that each fires on, the strongest first.

    Attributes:
        latents: their numbers, n of them.
        starts: (n + 1) int64, where the pairs of each latent start.
        pairs: protein, activation, position.
    """

    latents: range
    starts: np.ndarray
    pairs: pl.DataFrame

    def firing(self, proteins: int, above: np.ndarray) -> Any:
        """Return which proteins each latent fires on, a sparse matrix (n, proteins) of 0 and 1.

        Args:
            proteins: number of all proteins.
            above: (n,), the activation that each latent has to exceed.
        """
        latent = np.repeat(np.arange(len(self.latents)), np.diff(self.starts))
        fires = self.pairs["activation"].to_numpy() > above[latent]
        # A latent's strongest proteins come first, so that those left are consecutive.
        counts = np.bincount(latent[fires], minlength=len(self.latents))
        starts = np.concatenate([[0], np.cumsum(counts)])
        return self._matrix(
            np.ones(starts[-1]), self.pairs["protein"].filter(fires), starts, proteins
        )

    def masses(self, proteins: int) -> Any:
        """Return the activations as a sparse matrix (n, proteins) of float64."""
        values = self.pairs["activation"].to_numpy().astype(np.float64)
        return self._matrix(values, self.pairs["protein"], self.starts, proteins)

    def _matrix(
        self, values: np.ndarray, numbers: pl.Series, starts: np.ndarray, proteins: int
    ) -> Any:
        from scipy.sparse import csr_array

        columns = numbers.to_numpy().astype(np.int64)
        return csr_array((values, columns, starts), shape=(len(self.latents), proteins))


def latent_blocks(activations: Path, *, pairs: int = _PAIRS) -> Iterator[LatentBlock]:
    """Yield all latents of a folder of activations in blocks, the silent ones too.

    Memory: one block, 12 bytes a pair; of ``pairs`` pairs, or more where one latent has more.
    """
    firing = pl.read_parquet(activations / LATENTS, columns=["firing_proteins"])
    ends = np.concatenate([[0], firing["firing_proteins"].cast(pl.Int64).cum_sum().to_numpy()])
    table = pl.scan_parquet(activations / PROTEINS).select("protein", "activation", "position")
    first = 0
    while first < len(firing):
        last = int(np.searchsorted(ends, ends[first] + pairs, side="right")) - 1
        last = max(last, first + 1)
        part = table.slice(int(ends[first]), int(ends[last] - ends[first])).collect()
        yield LatentBlock(range(first, last), ends[first : last + 1] - ends[first], part)
        first = last
