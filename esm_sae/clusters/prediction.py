"""Clusters of points that HDBSCAN was not fitted on, for millions of them."""

from typing import Any

import numpy as np

from esm_sae.clusters.condensed_tree import CondensedTree

# Neighbours looked up beyond those needed: products of matrices, which find them, order points
# at the same distance by rounding.
_SPARE = 8


class Predictor:
    """Assigns points to the clusters that HDBSCAN found among others.

    The rule is that of ``approximate_predict`` and ``approximate_predict_scores`` in the package
    ``hdbscan``: a point joins the condensed tree at its nearest fitted neighbour by mutual
    reachability distance, at the inverse of that distance. Those take one point at a time; here
    the neighbours of many come from products of matrices on all cores (scikit-learn's brute
    force: in tens of dimensions a tree saves nothing), and the rest is done for all at once. Of
    neighbours at the same distance the first one fitted counts.

    Two results differ on purpose. A cluster that splits before any point has left it has two
    branches, one of which ``approximate_predict`` calls noise. And where there is no cluster,
    outlier scores are taken against the fitted points as elsewhere; it returns 1 for all.
    """

    def __init__(self, tree: CondensedTree, points: np.ndarray, min_samples: int) -> None:
        """Keep what prediction needs.

        Args:
            tree: what HDBSCAN found.
            points: the fitted points, (n, C), distinct, at least ``2 * min_samples``.
            min_samples: as in the fit.
        """
        self._points = points.astype(np.float64)
        self._min_samples = min_samples
        self._search = _exhaustive_search(self._points)
        distances, _ = self._nearest(self._points, min_samples)
        self._core = distances[:, -1]
        self._tree = tree

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return labels, probabilities and outlier scores, each (m,), of points (m, C).

        They do not depend on what other points they are predicted with.
        Memory: about 100 bytes per point and neighbour, of which there are ``2 * min_samples``.
        """
        distances, neighbours = self._nearest(points.astype(np.float64), 2 * self._min_samples)
        reachability = np.maximum(self._core[neighbours], distances)
        np.maximum(reachability, distances[:, self._min_samples, None], out=reachability)
        chosen = reachability.argmin(axis=1)[:, None]
        nearest = np.take_along_axis(neighbours, chosen, axis=1)[:, 0]
        reached = np.take_along_axis(reachability, chosen, axis=1)[:, 0]
        lambdas = np.full(len(points), np.finfo(np.float64).max)
        np.divide(1.0, reached, out=lambdas, where=reached > 0)
        labels, probabilities = self._tree.place(nearest, lambdas)
        # A point that was fitted has the score that it had.
        np.copyto(lambdas, self._tree.point_lambda[nearest], where=distances[:, 0] == 0)
        return labels, probabilities, self._tree.score(nearest, lambdas)

    def _nearest(self, points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and rows of the nearest fitted points, both (m, count)."""
        looked_up = min(count + _SPARE, len(self._points))
        rows = self._search.kneighbors(points, looked_up, return_distance=False)
        squares = np.zeros(rows.shape)
        # One coordinate at a time, since all differences at once would be C times as many.
        for ours, theirs in zip(points.T, self._points.T, strict=True):
            squares += np.square(ours[:, None] - theirs[rows])
        order = np.lexsort((rows, squares))[:, :count]
        distances = np.sqrt(np.take_along_axis(squares, order, axis=1))
        return distances, np.take_along_axis(rows, order, axis=1)


def _exhaustive_search(points: np.ndarray) -> Any:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(algorithm="brute").fit(points)
