"""HDBSCAN's condensed tree as arrays: where a new point belongs in it, and how far out."""

import numpy as np


class CondensedTree:
    """A condensed tree (Campello et al. 2013) over n fitted points.

    Each point leaves a cluster at its lambda, the inverse of a distance; so does each cluster
    its parent, at its birth. Clusters are numbered from the root, 0, and have larger numbers
    than their parents.

    Attributes:
        point_lambda: where each point leaves its cluster, (n,).
    """

    def __init__(self, records: np.ndarray, labels: np.ndarray) -> None:
        """Take over a tree.

        Args:
            records: one for each point and each cluster but the root, with the fields
                ``parent``, ``child`` and ``lambda_val``; points are numbered from 0 and
                clusters from n.
            labels: what the fit calls each point, -1 for noise, (n,).
        """
        count = len(labels)
        parent, child, lambdas = (records[name] for name in ("parent", "child", "lambda_val"))
        parent, is_point = parent - count, child < count
        points, clusters = child[is_point], child[~is_point] - count
        self._point_parent = np.empty(count, dtype=np.int64)
        self._point_parent[points] = parent[is_point]
        self.point_lambda = np.empty(count)
        self.point_lambda[points] = lambdas[is_point]
        self._parent = np.zeros(int(parent.max()) + 1, dtype=np.int64)
        self._parent[clusters] = parent[~is_point]
        self._birth = np.zeros(len(self._parent))
        self._birth[clusters] = lambdas[~is_point]
        self._death = np.zeros(len(self._parent))
        np.maximum.at(self._death, parent, lambdas)
        self._peak = self._death.copy()
        self._label = self._labels_of_clusters(labels)
        self._inherit()

    def place(self, neighbours: np.ndarray, lambdas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and probabilities of points that join fitted ones, each (m,).

        Args:
            neighbours: the fitted points, (m,).
            lambdas: inverse distances to them, (m,).
        """
        cluster = self._point_parent[neighbours]
        moving = np.flatnonzero(self.point_lambda[neighbours] > lambdas)
        while len(moving):
            here = cluster[moving]
            moving = moving[(here > 0) & (self._birth[here] >= lambdas[moving])]
            cluster[moving] = self._parent[cluster[moving]]
        labels, death = self._label[cluster], self._death[cluster]
        probabilities = np.where(labels >= 0, 1.0, 0.0)
        below = (labels >= 0) & (lambdas < death)
        probabilities[below] = lambdas[below] / death[below]
        return labels, probabilities

    def score(self, neighbours: np.ndarray, lambdas: np.ndarray) -> np.ndarray:
        """Return outlier scores (GLOSH, Campello et al. 2015), 0..1, of such points, (m,)."""
        peak = self._peak[self._point_parent[neighbours]]
        scores = np.zeros(len(neighbours))
        np.divide(peak - lambdas, peak, out=scores, where=peak > 0)
        return np.clip(scores, 0.0, 1.0)

    def score_fitted(self) -> np.ndarray:
        """Return the outlier scores of the fitted points, (n,)."""
        return self.score(np.arange(len(self.point_lambda)), self.point_lambda)

    def _labels_of_clusters(self, labels: np.ndarray) -> np.ndarray:
        """Return the label of the selected cluster that each cluster is, or is part of; else -1.

        Points below a selected cluster have one label, those above it several or are noise.
        """
        least, most = np.full(len(self._parent), len(labels)), np.full(len(self._parent), -1)
        np.minimum.at(least, self._point_parent, labels)
        np.maximum.at(most, self._point_parent, labels)
        for cluster in range(len(self._parent) - 1, 0, -1):
            above = self._parent[cluster]
            least[above] = min(least[above], least[cluster])
            most[above] = max(most[above], most[cluster])
        return np.where(least == most, least, -1)

    def _inherit(self) -> None:
        """Pass peaks on to the clusters above, and deaths of selected clusters to those below."""
        for cluster in range(len(self._parent) - 1, 0, -1):
            above = self._parent[cluster]
            self._peak[above] = max(self._peak[above], self._peak[cluster])
        for cluster in range(1, len(self._parent)):
            above = self._parent[cluster]
            if self._label[cluster] >= 0 and self._label[above] == self._label[cluster]:
                self._death[cluster] = self._death[above]
