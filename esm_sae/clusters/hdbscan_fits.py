"""Fits of HDBSCAN by the packages that have it, in one form."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from esm_sae.clusters.condensed_tree import CondensedTree
from esm_sae.clusters.neighbour_graph import neighbour_graph
from esm_sae.errors import InputError

Backend = Literal["hdbscan", "fast_hdbscan"]
Selection = Literal["auto", "eom", "leaf"]

# A cluster with more than this share of the points says that these have one bulk.
_BULK = 0.8


@dataclass(frozen=True)
class Fit:
    """A clustering of n points by HDBSCAN.

    Attributes:
        labels: cluster of each point, -1 for noise, (n,).
        probabilities: strength of membership, 0..1, (n,).
        tree: the condensed tree of the points.
        selection: how clusters were chosen from it, ``eom`` or ``leaf``.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    tree: CondensedTree
    selection: str


def fit_hdbscan(
    points: np.ndarray,
    *,
    min_cluster_size: int,
    min_samples: int,
    selection: Selection = "auto",
    backend: Backend = "hdbscan",
) -> Fit:
    """Cluster distinct points (n, C), n > 1, by HDBSCAN (Campello et al. 2013).

    Args:
        points: the points.
        min_cluster_size: fewest points of a cluster.
        min_samples: neighbours that make a point's density; at most all others do.
        selection: ``auto`` takes ``eom`` unless that puts over 80% of the points into one
            cluster, and then ``leaf``.
        backend: ``hdbscan`` searches the points' minimum spanning tree with a k-d tree,
            ``fast_hdbscan`` in the graph of their nearest neighbours, which takes a fraction of
            the time in tens of dimensions. They choose differently between edges of the same
            length, of which mutual reachability makes many.
    """
    options: dict[str, Any] = {
        "min_cluster_size": min_cluster_size,
        "min_samples": min(min_samples, len(points) - 1),
    }
    if backend == "fast_hdbscan":
        fit_by = _fast_hdbscan(points, options)
    else:
        fit_by = _hdbscan(points, options)
    if selection != "auto":
        return fit_by(selection)
    fit = fit_by("eom")
    return fit_by("leaf") if _has_bulk(fit.labels) else fit


def require_backend(backend: str) -> None:
    """Raise InputError where there is no such backend, or it is not installed."""
    if backend not in get_args(Backend):
        raise InputError(f"backend is '{backend}'; it must be hdbscan or fast_hdbscan")
    if importlib.util.find_spec(backend) is None:
        raise InputError(
            "backend is 'fast_hdbscan', which is not installed; pip install 'esm-sae[fast]'"
        )


def _hdbscan(points: np.ndarray, options: dict[str, Any]) -> Callable[[str], Fit]:
    import hdbscan

    memory: Any = _Memory()

    def fit(selection: str) -> Fit:
        model = hdbscan.HDBSCAN(
            cluster_selection_method=selection, memory=memory, core_dist_n_jobs=1, **options
        )
        return _fit_of(model.fit(points), selection)

    return fit


class _Memory:
    """What ``hdbscan`` keeps its spanning tree in, the costly part, from one fit to the next.

    In the place of joblib's, which goes by way of files and warns where they are slow.
    """

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def cache(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that calls the given one the first time only."""

        def remembering(*arguments: Any, **named: Any) -> Any:
            if not self._kept:
                self._kept.append(function(*arguments, **named))
            return self._kept[0]

        return remembering


def _fast_hdbscan(points: np.ndarray, options: dict[str, Any]) -> Callable[[str], Fit]:
    import fast_hdbscan

    # As many neighbours as the package itself takes where it searches them.
    graph = neighbour_graph(points, max(3 * options["min_samples"], 15))

    def fit(selection: str) -> Fit:
        model = fast_hdbscan.HDBSCAN(
            cluster_selection_method=selection,
            metric="precomputed",
            algorithm="kruskal",
            **options,
        )
        return _fit_of(model.fit(graph), selection)

    return fit


def _fit_of(model: Any, selection: str) -> Fit:
    tree = CondensedTree(model.condensed_tree_.to_numpy(), model.labels_)
    return Fit(model.labels_, model.probabilities_.astype(np.float64), tree, selection)


def _has_bulk(labels: np.ndarray) -> bool:
    clustered = labels[labels >= 0]
    return len(clustered) > 0 and np.bincount(clustered).max() > _BULK * len(labels)
