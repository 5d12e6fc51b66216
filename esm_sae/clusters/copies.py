"""Copies: rows whose points are equal but for rounding."""

import numpy as np

_BATCH = 4096
# Rows closer than this share of the spread, in every coordinate, count as equal.
_SAME = 1e-3


def distinct_points(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each distinct point, ascending, and each row's number among them.

    Copies of one sequence that were embedded in different batches differ by rounding: points
    that fall into one cell of a grid count as equal. Memory is 40 bytes a row.

    Args:
        points: (N, C) float32; they are read in batches, so that they may be memory-mapped.
    """
    batches = [slice(start, start + _BATCH) for start in range(0, len(points), _BATCH)]
    squares = sum(float(np.square(points[batch]).sum(dtype=np.float64)) for batch in batches)
    # Without any spread all points are equal, whatever the cell.
    cell = _SAME * np.sqrt(squares / points.size) or 1.0
    # Cells are told apart by 64 random bits: among ten million, two share them with a
    # probability of 3e-6.
    weights = np.random.default_rng(0).integers(1, 2**63, points.shape[1], dtype=np.uint64)
    keys = np.empty(len(points), dtype=np.uint64)
    for batch in batches:
        cells = np.round(points[batch] / cell).astype(np.int64).astype(np.uint64)
        keys[batch] = cells @ weights
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse]
