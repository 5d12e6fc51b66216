"""Checks of finished matrices, before anything says that they are complete."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from esm_sae.embedding.matrices import MatrixFile
from esm_sae.errors import InputError
from esm_sae.formats.shards import map_matrix

_CHUNK_BYTES = 1 << 26
_NAMED = 3
_MOST_TIMES_MEDIAN = 1000.0

Namer = Callable[[np.ndarray], list[str]]


class Norms(NamedTuple):
    """Least, median and greatest Euclidean norm of a matrix's rows, to four digits."""

    norm_min: float
    norm_median: float
    norm_max: float


def require_sound(matrix: MatrixFile, names: Namer) -> Norms:
    """Check a finished matrix: its shape and type, all values finite, and its rows' norms.

    No row may be zero, and none may have a norm beyond 1,000 times the median or below a
    thousandth of it. Memory is bounded by 64 MiB and the rows' norms.

    Args:
        matrix: the matrix as it was to be made.
        names: gives the names of rows by their numbers.

    Raises:
        InputError: the matrix does not pass; the first such rows are named.
    """
    rows, file = map_matrix(matrix.path), matrix.final
    expected = (matrix.rows, matrix.width)
    if rows.shape != expected or rows.dtype != np.dtype(matrix.dtype):
        raise InputError(
            f"{file}: holds {rows.dtype} of shape {rows.shape}, expected {matrix.dtype} of shape "
            f"{expected}; embed it again"
        )
    norms = _norms(rows)
    _refuse(~np.isfinite(norms), "not finite", file, names)
    _refuse(norms == 0, "zero", file, names)
    median = float(np.median(norms))
    beyond = (norms > median * _MOST_TIMES_MEDIAN) | (norms < median / _MOST_TIMES_MEDIAN)
    _refuse(beyond, f"of a norm more than 1,000 times off the median of {median:.4g}", file, names)
    return Norms(*(float(f"{value:.4g}") for value in (norms.min(), median, norms.max())))


def require_rows_of(table: Path, rows: int, *, file: Path) -> int:
    """Check that a row table has as many rows as its matrix; return how many it has.

    Raises:
        InputError: it has not.
    """
    found = pl.scan_parquet(table).select(pl.len()).collect().item()
    if found != rows:
        raise InputError(f"{file}: names {found} rows, its matrix has {rows}; embed it again")
    return found


def names_in(table: Path) -> Namer:
    """Return the function that reads the names of rows from their table."""

    def names(rows: np.ndarray) -> list[str]:
        chosen = pl.read_parquet(table, columns=["sequence_id", "position"])[rows]
        return [
            name if position is None else f"{name} at residue {position}"
            for name, position in chosen.iter_rows()
        ]

    return names


def _norms(matrix: np.ndarray) -> np.ndarray:
    """Return the rows' norms in float64: not finite where a value is not."""
    rows = max(1, _CHUNK_BYTES // (matrix.shape[1] * 8))
    norms = np.empty(len(matrix))
    for start in range(0, len(matrix), rows):
        chunk = matrix[start : start + rows].astype(np.float64)
        norms[start : start + rows] = np.sqrt(np.einsum("nd,nd->n", chunk, chunk))
    return norms


def _refuse(wrong: np.ndarray, what: str, file: Path, names: Namer) -> None:
    count = int(wrong.sum())
    if not count:
        return
    named = ", ".join(names(np.flatnonzero(wrong)[:_NAMED]))
    more = f" and {count - _NAMED} more" if count > _NAMED else ""
    raise InputError(
        f"{file}: rows are {what}: {named}{more}; embed in float32, and if they stay so leave "
        "these sequences out or use other weights"
    )
