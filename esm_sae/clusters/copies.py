"""Copies: rows whose points are equal but for rounding."""

import numpy as np

_BATCH = 4096
# Points closer than this share of their spread count as equal. Embeddings of one sequence in
# different batches differ by a tenth of that, those of different sequences by far more.
_SAME = 1e-3
# With so many directions, cells of so many tolerances hold hardly more than copies.
_DIRECTIONS = 6
_TOLERANCES_PER_CELL = 20


def distinct_points(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each distinct point, ascending, and each row's number among them.

    Copies of one sequence that were embedded in different batches differ by rounding: points
    count as equal whose distance is at most a thousandth of the points' root mean square.

    Memory is about 200 bytes a row: equal points are looked for in the cells of a grid over a few
    random directions. A point so close to a cell's upper border that an equal one can lie beyond
    it is looked for there, too.

    Args:
        points: (N, C) float32; they are read in batches, so that they may be memory-mapped.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    tolerance = _tolerance(points)
    keys, rows = _cells(points, tolerance)
    one, other = _equal_pairs(points, keys, rows, tolerance)
    graph = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(len(points),) * 2)
    _, groups = connected_components(graph, directed=False)
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse]


def _tolerance(points: np.ndarray) -> float:
    squares = sum(
        float(np.square(points[start : start + _BATCH]).sum(dtype=np.float64))
        for start in range(0, len(points), _BATCH)
    )
    # Without any spread all points are equal, whatever the tolerance.
    return float(_SAME * np.sqrt(squares / len(points))) or 1.0


def _cells(points: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return keys of cells and the rows in them; of two equal points one cell holds both."""
    generator = np.random.default_rng(0)
    directions = generator.normal(size=(points.shape[1], _DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    places = np.empty((len(points), _DIRECTIONS))
    for start in range(0, len(points), _BATCH):
        batch = slice(start, start + _BATCH)
        places[batch] = points[batch].astype(np.float64) @ directions
    places /= _TOLERANCES_PER_CELL * tolerance
    cells = np.floor(places)
    near_border = places - cells >= 1 - 1 / _TOLERANCES_PER_CELL
    # Cells are told apart by 64 random bits; points that share them are compared in any case.
    weights = generator.integers(1, 2**63, _DIRECTIONS, dtype=np.uint64)
    keys = cells.astype(np.int64).astype(np.uint64) @ weights
    rows = np.arange(len(points))
    for direction in range(_DIRECTIONS):
        near = near_border[rows, direction]
        keys = np.concatenate([keys, keys[near] + weights[direction]])
        rows = np.concatenate([rows, rows[near]])
    return keys, rows


def _equal_pairs(
    points: np.ndarray, keys: np.ndarray, rows: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Compare the rows of a cell with its first row, then those that differ from it, and so on."""
    order = np.lexsort((rows, keys))
    keys, rows = keys[order], rows[order]
    pairs = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))]
    while len(rows):
        _, start, size = np.unique(keys, return_index=True, return_counts=True)
        leaders = np.repeat(rows[start], size)
        shared = np.repeat(size > 1, size)
        keys, rows, leaders = keys[shared], rows[shared], leaders[shared]
        equal = _are_equal(points, rows, leaders, tolerance)
        pairs.append((rows[equal], leaders[equal]))
        keys, rows = keys[~equal], rows[~equal]
    one, other = zip(*pairs, strict=True)
    return np.concatenate(one), np.concatenate(other)


def _are_equal(
    points: np.ndarray, rows: np.ndarray, others: np.ndarray, tolerance: float
) -> np.ndarray:
    equal = rows == others
    for start in range(0, len(rows), _BATCH):
        batch = slice(start, start + _BATCH)
        differences = points[rows[batch]].astype(np.float64) - points[others[batch]]
        equal[batch] |= np.square(differences).sum(axis=1) <= tolerance**2
    return equal
