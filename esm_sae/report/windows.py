"""Stretches of sequence around the residue on which a latent fires most."""

from pathlib import Path
from typing import Any

import polars as pl

FLANK = 20


def windows_of(top: pl.DataFrame, sequences: pl.DataFrame, parts: list[Path]) -> list[Any]:
    """Return the residues around each top position and the activations on them.

    Args:
        top: latent, protein and position (from 1) of each top protein of each latent.
        sequences: protein, sequence, length and rows (the number of its residues that were
            encoded) of every protein.
        parts: files of activations: protein, position, latent, activation.

    Returns:
        For each row of ``top`` None where the sequence is unknown, else a dictionary with
        ``start`` (position of the first letter), ``text``, ``fired`` (pairs of offset and
        activation) and ``seen`` (offsets of the residues that were encoded; None where all
        were).
    """
    chosen = top.with_row_index("window").join(
        sequences.select("protein", "sequence", "length", "rows"),
        on="protein",
        how="left",
        maintain_order="left",
    )
    if chosen["sequence"].null_count() or chosen["position"].null_count():
        return [None] * len(top)
    activations = pl.scan_parquet(parts)
    fired = _fired(chosen, activations)
    seen = _seen(chosen, activations)
    windows = []
    for row in chosen.iter_rows(named=True):
        start = max(row["position"] - FLANK, 1)
        windows.append(
            {
                "start": start,
                "text": row["sequence"][start - 1 : row["position"] + FLANK],
                "fired": fired.get(row["window"], []),
                "seen": seen.get(row["window"]) if row["rows"] < row["length"] else None,
            }
        )
    return windows


def _fired(chosen: pl.DataFrame, activations: pl.LazyFrame) -> dict[int, list[list[float]]]:
    wanted = chosen.lazy().select("window", "latent", "protein", peak="position")
    near = (
        activations.join(wanted, on=["latent", "protein"])
        .filter(_near_peak())
        .select("window", "activation", offset=_offset())
        .sort("window", "offset")
        .collect(engine="streaming")
    )
    fired: dict[int, list[list[float]]] = {}
    for window, activation, offset in near.iter_rows():
        fired.setdefault(window, []).append([offset, float(f"{activation:.4g}")])
    return fired


def _seen(chosen: pl.DataFrame, activations: pl.LazyFrame) -> dict[int, list[int]]:
    partly = chosen.lazy().filter(pl.col("rows") < pl.col("length"))
    wanted = partly.select("window", "protein", peak="position")
    residues = (
        activations.select("protein", "position")
        .join(wanted.select("protein").unique(), on="protein", how="semi")
        .unique()
    )
    near = (
        residues.join(wanted, on="protein")
        .filter(_near_peak())
        .select("window", offset=_offset())
        .sort("window", "offset")
        .group_by("window", maintain_order=True)
        .agg("offset")
        .collect(engine="streaming")
    )
    return dict(near.iter_rows())


def _near_peak() -> pl.Expr:
    return (pl.col("position") - pl.col("peak")).abs() <= FLANK


def _offset() -> pl.Expr:
    return pl.col("position") - pl.max_horizontal(pl.col("peak") - FLANK, 1)
