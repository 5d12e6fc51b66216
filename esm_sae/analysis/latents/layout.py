"""Decoder rows on a map, and their clusters."""

from typing import Any

import numpy as np
import polars as pl

from esm_sae.formats.analysis_tables import LATENT_MAP_SCHEMA

_MIN_SAMPLES = 3
_PERPLEXITY = 10.0
# Fewer points have no neighbourhoods to preserve.
_FEWEST_LAID_OUT = 8


def latent_map(
    latents: np.ndarray, directions: np.ndarray, *, min_cluster_size: int, seed: int
) -> pl.DataFrame:
    """Cluster the decoder rows of latents and lay them out in two dimensions.

    The distance is the straight line between rows of unit length, sqrt(2 - 2 cosine). Clusters are
    the leaves of HDBSCAN's tree (Campello et al. 2013; ``min_samples`` 3): decoder rows are nearly
    orthogonal in the bulk, and the alternative, excess of mass, makes of that bulk one cluster.
    The layout is t-SNE (van der Maaten & Hinton 2008, perplexity 10) begun from the first two
    principal components (Kobak & Berens 2019): neighbours are to be read from it, distances
    between groups are not. Fewer than 8 latents are laid out by those components alone.

    Memory: about 40 bytes x n x n.

    Args:
        latents: numbers of n latents, ascending.
        directions: their decoder rows at unit length, (n, D).
        min_cluster_size: fewest latents of a cluster.
        seed: of the layout.

    Returns:
        A row per latent: latent, x, y, cluster (-1 for none; 0 is the largest, of equal ones that
        of the lower latent), probability (strength of membership; 0 without a cluster).
    """
    distances = _distances(directions)
    labels, probabilities = _clusters(distances, min_cluster_size)
    places = _layout(directions, distances, seed)
    return pl.DataFrame(
        {
            "latent": latents,
            "x": places[:, 0],
            "y": places[:, 1],
            "cluster": labels,
            "probability": probabilities,
        }
    ).cast(pl.Schema(LATENT_MAP_SCHEMA))


def _distances(directions: np.ndarray) -> np.ndarray:
    rows = directions.astype(np.float64)
    distances = np.sqrt(np.clip(2.0 - 2.0 * (rows @ rows.T), 0.0, None))
    np.fill_diagonal(distances, 0.0)
    return (distances + distances.T) / 2


def _clusters(distances: np.ndarray, min_cluster_size: int) -> tuple[np.ndarray, np.ndarray]:
    if len(distances) < max(min_cluster_size, 2):
        return np.full(len(distances), -1), np.zeros(len(distances))
    import hdbscan

    model = hdbscan.HDBSCAN(
        metric="precomputed",
        min_cluster_size=min_cluster_size,
        min_samples=min(_MIN_SAMPLES, len(distances) - 1),
        cluster_selection_method="leaf",
        core_dist_n_jobs=1,
    ).fit(distances)
    return _by_size(model.labels_), model.probabilities_


def _by_size(labels: np.ndarray) -> np.ndarray:
    found, first, counts = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    number = np.empty(len(found), dtype=np.int64)
    number[np.lexsort((first, -counts))] = np.arange(len(found))
    return np.where(labels >= 0, number[labels] if len(found) else -1, -1)


def _layout(directions: np.ndarray, distances: np.ndarray, seed: int) -> np.ndarray:
    components = _principal_components(directions)
    if len(directions) < _FEWEST_LAID_OUT:
        return components
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # Stubs know of names only.
    begin: Any = components / (components[:, 0].std() or 1.0) * 1e-4
    model = TSNE(
        metric="precomputed",
        init=begin,
        perplexity=min(_PERPLEXITY, (len(directions) - 1) / 3),
        random_state=seed,
    )
    # Threads would add up forces in the order in which they finish.
    with threadpool_limits(1):
        return model.fit_transform(distances)


def _principal_components(directions: np.ndarray) -> np.ndarray:
    """Return the first two coordinates of each row, (n, 2), zeros where there is no such axis."""
    places = np.zeros((len(directions), 2))
    if len(directions) > 1:
        centred = directions.astype(np.float64) - directions.mean(axis=0, dtype=np.float64)
        left, values, _ = np.linalg.svd(centred, full_matrices=False)
        # The sign of a singular vector is arbitrary.
        signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
        count = min(2, left.shape[1])
        places[:, :count] = (left * signs * values)[:, :count]
    return places
