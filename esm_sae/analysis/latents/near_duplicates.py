"""Pairs of latents that are nearly the same: by their decoder rows, or by where they fire."""

from pathlib import Path

import numpy as np
import polars as pl

from esm_sae.analysis.latents.correlation import LatentColumns, correlation_blocks, latent_columns
from esm_sae.analysis.queries import scan_activations
from esm_sae.formats.analysis_tables import NEAR_DUPLICATE_SCHEMA, SEQUENCES

# Of decoder rows: two latents write nearly the same into the reconstruction.
NEAR_COSINE = 0.7
# Of activations: each tells over 80% of the other's variance.
NEAR_CORRELATION = 0.9

_PAIRS_PER_LATENT = 10
_SPANS, _SPAN_ROWS = 16, 4096


def near_duplicates(
    activations_folder: Path, latents: np.ndarray, directions: np.ndarray
) -> pl.DataFrame:
    """List the pairs of latents with a cosine above 0.7 or a correlation above 0.9.

    The correlation is Pearson's, of the activations over all rows, 0 where a latent is silent;
    where there are more than 65,536 rows, over 16 evenly spaced runs of 4,096. Of each latent the
    10 most alike are listed, by the larger of the two figures.

    Memory: 24 bytes an activation of these rows, and 24 bytes x 256 x n.

    Args:
        activations_folder: of ``compute_activations``.
        latents: numbers of the n latents to compare, ascending.
        directions: their decoder rows at unit length, (n, D).

    Returns:
        A row per pair, ``latent`` below ``other``, sorted by these: latent, other, cosine,
        correlation.
    """
    columns = _evenly_spaced_activations(activations_folder, latents)
    found = [np.empty((0, 4))]
    for block, correlations in correlation_blocks(columns, columns):
        cosines = np.clip(directions[block] @ directions.T, -1.0, 1.0)
        for row, latent in enumerate(range(block.start, block.stop)):
            found.append(_alike(latent, cosines[row], correlations[row]))
    table = np.concatenate(found)
    pairs, first = np.unique(np.sort(table[:, :2], axis=1), axis=0, return_index=True)
    numbers = latents[pairs.astype(np.int64)]
    return pl.DataFrame(
        {
            "latent": numbers[:, 0],
            "other": numbers[:, 1],
            "cosine": table[first, 2],
            "correlation": table[first, 3],
        }
    ).cast(pl.Schema(NEAR_DUPLICATE_SCHEMA))


def _alike(latent: int, cosines: np.ndarray, correlations: np.ndarray) -> np.ndarray:
    alike = (cosines > NEAR_COSINE) | (correlations > NEAR_CORRELATION)
    alike[latent] = False
    others = np.flatnonzero(alike)
    likeness = np.maximum(cosines[others], correlations[others])
    others = others[np.argsort(-likeness, kind="stable")[:_PAIRS_PER_LATENT]]
    same = np.full(len(others), latent)
    return np.column_stack([same, others, cosines[others], correlations[others]])


def _evenly_spaced_activations(folder: Path, latents: np.ndarray) -> LatentColumns:
    rows = int(pl.read_parquet(folder / SEQUENCES, columns=["rows"])["rows"].sum())
    entries = [
        _entries(folder, latents, start, stop).with_columns(pl.col("row") + (before - start))
        for before, start, stop in _spans(rows)
    ]
    table = pl.concat(entries)
    return latent_columns(
        table["row"].to_numpy(),
        np.searchsorted(latents, table["latent"].to_numpy()),
        table["activation"].to_numpy(),
        (min(rows, _SPANS * _SPAN_ROWS), len(latents)),
    )


def _spans(rows: int) -> list[tuple[int, int, int]]:
    """Return the runs of rows: how many are before it among those read, first, past the last."""
    if rows <= _SPANS * _SPAN_ROWS:
        return [(0, 0, rows)]
    starts = np.linspace(0, rows - _SPAN_ROWS, _SPANS).astype(np.int64).tolist()
    return [(n * _SPAN_ROWS, start, start + _SPAN_ROWS) for n, start in enumerate(starts)]


def _entries(folder: Path, latents: np.ndarray, start: int, stop: int) -> pl.DataFrame:
    return (
        scan_activations(folder)
        .filter(pl.col("row").is_between(start, stop, closed="left"))
        .filter(pl.col("latent").is_in(latents.tolist()))
        .select(pl.col("row").cast(pl.Int64), "latent", "activation")
        .collect()
    )
