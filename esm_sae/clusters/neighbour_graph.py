"""Graphs of nearest neighbours that hold together."""

from typing import Any

import numpy as np


def neighbour_graph(points: np.ndarray, count: int) -> Any:
    """Return a connected graph of points (n, C) with their distances, a sparse (n, n) matrix.

    Each point is joined to its ``count`` nearest others. As long as the graph falls into parts,
    each point of all parts but the largest is also joined to the ``count`` nearest ones outside
    its part: edges from part to part, which a minimum spanning tree needs.

    Memory: about 50 bytes x n x ``count``, and a copy of the points.
    """
    from scipy.sparse.csgraph import connected_components

    everything = np.arange(len(points))
    graph = _edges(points, everything, None, count)
    while True:
        parts, part_of = connected_components(graph, directed=False)
        if parts == 1:
            return graph
        largest = np.bincount(part_of).argmax()
        for part in range(parts):
            if part != largest:
                inside, outside = part_of == part, part_of != part
                graph += _edges(points, everything[inside], everything[outside], count)


def _edges(points: np.ndarray, inside: np.ndarray, outside: np.ndarray | None, count: int) -> Any:
    """Return the edges of points ``inside`` to their nearest ones ``outside``, or to all others."""
    from scipy.sparse import csr_matrix
    from sklearn.neighbors import NearestNeighbors

    others = inside if outside is None else outside
    search = NearestNeighbors(algorithm="brute").fit(points[others])
    looked_up = min(count, len(others) - (outside is None))
    # Without points to look for, each one's own is left out.
    wanted = None if outside is None else points[inside]
    distances, found = search.kneighbors(wanted, looked_up)
    rows = np.repeat(inside, looked_up)
    shape = (len(points), len(points))
    return csr_matrix((distances.ravel(), (rows, others[found].ravel())), shape=shape)
