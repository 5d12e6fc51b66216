"""The points that were clustered: half-whitened principal coordinates, beside the cluster table."""

import os
from pathlib import Path

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError


def points_path(table: storage.PathLike) -> Path:
    """Return the path of a cluster table's points: ``x.parquet`` -> ``x.points.npy``."""
    return Path(table).with_suffix(".points.npy")


def read_points(table: storage.PathLike) -> np.ndarray:
    """Return the points of a table that ``cluster_embeddings`` wrote, memory-mapped.

    Returns:
        (N, C) float32 in the order of the table's rows: the coordinates of each protein on the
        principal components, largest variance first, each divided by the fourth root of its
        variance.

    Raises:
        InputError: the table or its points are missing or damaged, or they differ in the number
            of rows.
    """
    rows = _rows_of(table)
    path = points_path(table)
    again = f"cluster the embeddings of {os.fspath(table)} again"
    if not path.is_file():
        raise InputError(f"{path}: no such file, the points of that table; {again}")
    try:
        points = np.load(path, mmap_mode="r", allow_pickle=False)
    # A damaged header makes NumPy raise whatever it leads its parser to.
    except Exception as error:
        raise InputError(f"{path}: not a plain .npy matrix ({error}); {again}") from None
    if points.ndim != 2 or points.dtype != np.float32 or len(points) != rows:
        raise InputError(
            f"{path}: holds {points.dtype} of shape {points.shape}, expected a float32 matrix "
            f"with the table's {rows} rows; {again}"
        )
    return points


def _rows_of(table: storage.PathLike) -> int:
    with storage.open_binary(table) as file:
        try:
            return pl.scan_parquet(file).select(pl.len()).collect().item()
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{os.fspath(table)}: not a readable parquet table ({reason})"
            ) from None
