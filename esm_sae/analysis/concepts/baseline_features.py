"""Features that there are without a trained SAE: what an SAE's latents are held against."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from esm_sae.analysis.concepts.protein_rows import RowUnits
from esm_sae.analysis.encoder import SparseEncoder

# Bound on the values of a block of features: 1 GiB of float32.
_VALUES_PER_BLOCK = 1 << 28


@dataclass(frozen=True)
class Features:
    """Features of embedding rows, of which each concept chooses one.

    Attributes:
        count: F, number of features.
        of_rows: turns (n, D) rows and a range of features into (n, f) values.
        signed: whether the negative of each feature is a candidate, too.
        sparse: whether 0 means that a feature does not fire.
    """

    count: int
    of_rows: Callable[[np.ndarray, slice], np.ndarray]
    signed: bool = False
    sparse: bool = False

    @property
    def candidates(self) -> int:
        """How many features a concept chooses among."""
        return self.count * (1 + self.signed)

    def blocks(self, units: RowUnits) -> "Iterator[Block]":
        """Yield the features of U units block by block, each of at most 1 GiB.

        A unit's value is the largest of its rows. Each block costs a pass over the rows. The
        negatives of a block's features follow behind them in the same block.
        """
        step = max(_VALUES_PER_BLOCK // (max(units.count, 1) * (1 + self.signed)), 1)
        for start in range(0, self.count, step):
            wanted = slice(start, min(start + step, self.count))
            numbers = np.arange(wanted.start, wanted.stop)
            yield Block(
                units.extremes(
                    lambda x, wanted=wanted: self.of_rows(x, wanted), signed=self.signed
                ),
                np.concatenate([numbers, self.count + numbers]) if self.signed else numbers,
            )


class Block(NamedTuple):
    """Some features of all units.

    Attributes:
        values: (U, f) float32.
        numbers: number of each of these features, (f,); of n features with a sign, the negative
            of number i is n + i.
    """

    values: np.ndarray
    numbers: np.ndarray


def raw_dimensions(width: int) -> Features:
    """Return the dimensions of the embedding and their negatives."""
    return Features(width, lambda x, wanted: x[:, wanted], signed=True)


def principal_components(sample: np.ndarray) -> Features:
    """Return the projections on all principal components, and their negatives.

    Args:
        sample: training rows, (N, D) float32.
    """
    centre = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = sample - centre
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    components = np.ascontiguousarray(axes[:, ::-1], dtype=np.float32)
    return Features(
        components.shape[1], lambda x, wanted: (x - centre) @ components[:, wanted], signed=True
    )


def centroids(sample: np.ndarray, count: int, *, seed: int) -> Features:
    """Return how near a row is to each k-means centroid: minus the squared distance.

    A threshold on it is a ball around the centroid, of whichever radius serves a concept best.
    The centroids are those of mini-batch k-means (Sculley 2010, doi:10.1145/1772690.1772862) in
    ten passes over the sample.

    Args:
        sample: training rows, (N, D) float32.
        count: number of centroids; of fewer distinct rows, as many as these.
        seed: of the first centroids and the batches.
    """
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    distinct = len({row.tobytes() for row in sample})
    centre = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    # More threads add up in another order, which decides when it stops.
    with threadpool_limits(1):
        fitted = MiniBatchKMeans(
            min(count, distinct), batch_size=4_096, max_iter=10, random_state=seed
        ).fit(sample - centre)
    points = np.ascontiguousarray(fitted.cluster_centers_, dtype=np.float32)
    squares = np.einsum("nd,nd->n", points, points)

    def nearness(x: np.ndarray, wanted: slice) -> np.ndarray:
        x = x - centre
        own = np.einsum("nd,nd->n", x, x)
        return 2 * (x @ points[wanted].T) - squares[wanted] - own[:, None]

    return Features(len(points), nearness)


def latents_of(sae: SparseEncoder) -> Features:
    """Return the activations of an SAE's latents."""

    def activations(x: np.ndarray, wanted: slice) -> np.ndarray:
        values, latents = sae.encode_sparse(x)
        dense = np.zeros((len(x), sae.config.latent_dim), dtype=np.float32)
        fired = np.nonzero(np.asarray(values) > 0)
        dense[fired[0], np.asarray(latents)[fired]] = np.asarray(values)[fired]
        return dense[:, wanted]

    return Features(sae.config.latent_dim, activations, sparse=True)
