"""A map of the clustered proteins in two dimensions."""

import warnings
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from esm_sae.errors import InputError
from esm_sae.formats.cluster_summary import MAP_SCHEMA

Layout = Literal["pca", "umap"]

_DRAWN = 20_000
_NEIGHBOURS = 15
# UMAP finds no layout of fewer points.
_FEWEST = 4


def require_layout(layout: str) -> None:
    """Check that a layout is known and its library is there.

    Raises:
        InputError: it is not.
    """
    if layout not in get_args(Layout):
        raise InputError(f"layout is '{layout}'; it must be pca or umap")
    if layout == "umap":
        _umap()


def drawn_rows(rows: int, medoids: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return the rows that a map shows, ascending: 20,000 drawn at random, and all medoids."""
    if rows <= _DRAWN:
        return np.arange(rows)
    drawn = np.random.default_rng(seed).choice(rows, size=_DRAWN, replace=False)
    return np.union1d(drawn, medoids)


def cluster_map(
    points: np.ndarray,
    table: pl.DataFrame,
    groups: np.ndarray,
    rows: np.ndarray,
    layout: Layout,
    *,
    seed: int = 0,
) -> pl.DataFrame:
    """Lay rows out in two dimensions.

    ``pca`` takes the first two coordinates as they are. ``umap`` (McInnes et al. 2018,
    arXiv:1802.03426) starts from these two, as Kobak & Linderman (2021, Nat. Biotechnol. 39:156)
    advise, is fitted to these rows alone, and runs on one thread, or it would differ from run
    to run. Copies are laid out once, in one place: each other's nearest neighbours, they would
    be islands far from all else.

    Args:
        points: (N, C), C the principal coordinates, the largest first.
        table: sequence_id and cluster of the N rows.
        groups: the row of the first copy of each of the N rows; see ``distinct_points``.
        rows: which rows, (n,) ascending.
        layout: ``pca`` or ``umap``.
        seed: of UMAP.

    Returns:
        sequence_id, row, cluster, x, y of the n rows.

    Raises:
        InputError: ``umap`` is wanted and not installed, or there are fewer than 4 distinct rows.
    """
    distinct, place = np.unique(groups[rows], return_inverse=True)
    chosen = np.asarray(points[distinct], dtype=np.float32)
    plane = np.zeros((len(distinct), 2), dtype=np.float32)
    plane[:, : min(2, chosen.shape[1])] = chosen[:, :2]
    if layout == "umap":
        plane = _umap_layout(chosen, plane, seed)
    plane = plane[place]
    drawn = table[rows].select(
        "sequence_id",
        pl.Series("row", rows),
        "cluster",
        pl.Series("x", plane[:, 0]),
        pl.Series("y", plane[:, 1]),
    )
    return drawn.select(pl.col(name).cast(dtype) for name, dtype in MAP_SCHEMA.items())


def _umap_layout(points: np.ndarray, start: np.ndarray, seed: int) -> np.ndarray:
    if len(points) < _FEWEST:
        raise InputError(
            f"UMAP needs at least {_FEWEST} distinct proteins, there are {len(points)}; "
            "take layout pca"
        )
    model = _umap().UMAP(
        n_neighbors=min(_NEIGHBOURS, len(points) - 1),
        init=start,
        random_state=seed,
        n_jobs=1,
    )
    return np.asarray(model.fit_transform(points))


def _umap() -> Any:
    with warnings.catch_warnings():
        # It says that a variant which needs TensorFlow is not there.
        warnings.simplefilter("ignore", ImportWarning)
        try:
            import umap
        except ImportError:
            raise InputError(
                "layout umap needs the package umap-learn; install it with "
                "pip install 'esm-sae[umap]', or take layout pca"
            ) from None
    return umap
