"""Whether a protein's nearest neighbour is of its family: what a space of vectors knows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_CHUNK = 1_024
_SAMPLES = 1_000
_EIGENVALUE_FLOOR = 1e-6


class Precision(NamedTuple):
    """Precision at 1 with its 95% bootstrap interval."""

    value: float
    low: float
    high: float


def queries_of(families: Sequence[str | None], clusters: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return the numbers of the proteins that have one of their family in another cluster."""
    clusters_of: dict[str, set[str]] = {}
    for family, cluster in zip(families, clusters, strict=True):
        if family is not None:
            clusters_of.setdefault(family, set()).add(cluster)
    return np.array(
        [
            number
            for number, family in enumerate(families)
            if family is not None and len(clusters_of[family]) > 1
        ],
        dtype=np.int64,
    )


def nearest_in_other_clusters(
    vectors: np.ndarray, queries: np.ndarray, clusters: Sequence[str] | np.ndarray
) -> np.ndarray:
    """Return each query's nearest protein by cosine among those of other clusters.

    Args:
        vectors: one per protein, (N, D).
        queries: numbers of proteins, (Q,).
        clusters: similarity cluster of each protein, N of them.

    Returns:
        (Q,) int64; among equals the first.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    number_of = np.unique(np.asarray(clusters), return_inverse=True)[1]
    nearest = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), _CHUNK):
        chosen = queries[start : start + _CHUNK]
        cosine = unit[chosen] @ unit.T
        cosine[number_of[chosen][:, None] == number_of] = -np.inf
        nearest[start : start + _CHUNK] = cosine.argmax(axis=1)
    return nearest


def whiten(vectors: np.ndarray, fitted_to: np.ndarray) -> np.ndarray:
    """Centre vectors and scale their principal components to variance 1.

    Args:
        vectors: (N, D).
        fitted_to: numbers of the rows that mean and covariance are taken from.

    Returns:
        (N, R), R the number of components whose variance is above 1e-6 of the largest.
    """
    sample = vectors[fitted_to].astype(np.float64)
    mean = sample.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(sample, rowvar=False))
    kept = variances > _EIGENVALUE_FLOOR * variances[-1]
    return (vectors - mean) @ (axes[:, kept] / np.sqrt(variances[kept]))


def precision(
    hits: np.ndarray, clusters: Sequence[str] | np.ndarray, *, seed: int = 0
) -> Precision:
    """Return the share of hits; its interval is of a bootstrap over whole clusters.

    Args:
        hits: whether each query's nearest neighbour is of its family, (Q,) of 0 and 1, or of
            differences of two such.
        clusters: the query's similarity cluster, Q of them: its members are no independent draws.
        seed: of the bootstrap.
    """
    number_of = np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums = np.bincount(number_of, weights=hits)
    sizes = np.bincount(number_of)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(sizes), size=(_SAMPLES, len(sizes)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Precision(float(hits.mean()), float(low), float(high))


def composition(sequences: Sequence[str], letters: str) -> np.ndarray:
    """Return the shares of the letters and the logarithm of the length, standardised, (N, 21)."""
    counts = np.array([[sequence.count(letter) for letter in letters] for sequence in sequences])
    lengths = np.array([len(sequence) for sequence in sequences])
    features = np.column_stack([counts / lengths[:, None], np.log(lengths)])
    return (features - features.mean(axis=0)) / features.std(axis=0)


def dipeptides(sequences: Sequence[str], letters: str) -> np.ndarray:
    """Return the shares of the pairs of adjacent letters, (N, 400)."""
    number_of = np.full(256, -1)
    number_of[list(letters.encode())] = np.arange(len(letters))
    shares = np.zeros((len(sequences), len(letters) ** 2), dtype=np.float32)
    for row, sequence in zip(shares, sequences, strict=True):
        codes = number_of[np.frombuffer(sequence.encode(), dtype=np.uint8)]
        known = (codes[:-1] >= 0) & (codes[1:] >= 0)
        pairs = codes[:-1][known] * len(letters) + codes[1:][known]
        row += np.bincount(pairs, minlength=row.size) / max(len(pairs), 1)
    return shares
