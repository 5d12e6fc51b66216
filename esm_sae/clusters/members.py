"""Members of clusters as columns of numbers, so that ten million fit in memory."""

from typing import NamedTuple

import numpy as np

from esm_sae.formats.clusters_json import NOISE


class Members(NamedTuple):
    """Which cluster each of N members is in, and how long its sequence is.

    Attributes:
        names: the K clusters, in the order of their names.
        clusters: (N,) uint32, the member's cluster as its place in ``names``.
        lengths: (N,) int32, residues of the member's sequence.
    """

    names: list[str]
    clusters: np.ndarray
    lengths: np.ndarray

    def noise(self) -> np.ndarray:
        """Return which members are noise, (N,) bool."""
        if NOISE not in self.names:
            return np.zeros(len(self.clusters), dtype=bool)
        return self.clusters == self.names.index(NOISE)

    def sizes(self, counted: np.ndarray | None = None) -> np.ndarray:
        """Return the number of members of each cluster, (K,): all, or those that are counted."""
        clusters = self.clusters if counted is None else self.clusters[counted]
        return np.bincount(clusters, minlength=len(self.names))

    def by_size(self, sizes: np.ndarray) -> np.ndarray:
        """Return the clusters that have members, largest first, ties by name, noise last."""
        is_noise = np.array([name == NOISE for name in self.names], dtype=bool)
        order = np.lexsort((np.arange(len(sizes)), -sizes, is_noise))
        return order[sizes[order] > 0]

    def described(self, order: np.ndarray, sizes: np.ndarray) -> list[dict[str, str | int]]:
        """Return name and size of clusters, for summaries."""
        return [{"cluster": self.names[one], "size": int(sizes[one])} for one in order]
