"""Stretches of sequence around the residue on which a latent fires most in a protein."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

FLANK = 20
SILENT, UNSEEN = ".", "_"
# Activations are shown in 35 steps up to the latent's highest: the digits of base 36 but 0.
_STEPS = "123456789abcdefghijklmnopqrstuvwxyz"

Window = tuple[int, str, str]


def windows_of(
    chosen: pl.DataFrame, sequences: pl.DataFrame, parts: Sequence[Path]
) -> list[Window | None]:
    """Return the residues around each chosen position and the activations on them.

    Memory: the chosen rows and what fires around them; the activations are streamed.

    Args:
        chosen: latent, protein, position (from 1) and highest (the latent's highest activation).
        sequences: protein, sequence, length and rows (the number of its residues that were
            encoded) of at least the chosen proteins.
        parts: files of activations: protein, position, latent, activation.

    Returns:
        For each row None where the sequence is unknown, else the position of the first letter,
        the letters, and a mark for each letter: ``.`` where the latent is silent, ``_`` where
        the residue was not encoded, else the activation over ``highest`` in steps of 1/35, as a
        digit of base 36.
    """
    if not len(chosen):
        return []
    rows = chosen.with_row_index("window").join(
        sequences.select("protein", "sequence", "length", "rows"),
        on="protein",
        how="left",
        maintain_order="left",
    )
    if rows["sequence"].null_count() or rows["position"].null_count():
        return [None] * len(chosen)
    activations = pl.scan_parquet(list(parts))
    fired = _fired(rows, activations)
    seen = _seen(rows, activations)
    windows: list[Window | None] = []
    for row in rows.iter_rows(named=True):
        start = max(row["position"] - FLANK, 1)
        text = row["sequence"][start - 1 : row["position"] + FLANK]
        everything = row["rows"] >= row["length"]
        marks = [SILENT if everything else UNSEEN] * len(text)
        for offset in seen.get(row["window"], []):
            marks[offset] = SILENT
        for offset, step in fired.get(row["window"], []):
            marks[offset] = _STEPS[step]
        windows.append((start, text, "".join(marks)))
    return windows


def _fired(rows: pl.DataFrame, activations: pl.LazyFrame) -> dict[int, list[tuple[int, int]]]:
    """Return offset and step of each activation, by window."""
    wanted = rows.lazy().select("window", "latent", "protein", "highest", peak="position")
    steps = len(_STEPS)
    step = (pl.col("activation") / pl.col("highest") * steps).ceil().cast(pl.Int32) - 1
    near = (
        activations.select("latent", "protein", "position", "activation")
        .join(wanted, on=["latent", "protein"])
        .filter(_near_peak())
        .select("window", offset=_offset(), step=step.clip(0, steps - 1))
        .collect(engine="streaming")
    )
    fired: dict[int, list[tuple[int, int]]] = {}
    for window, offset, at in near.iter_rows():
        fired.setdefault(window, []).append((offset, at))
    return fired


def _seen(rows: pl.DataFrame, activations: pl.LazyFrame) -> dict[int, list[int]]:
    """Return the offsets of the residues that were encoded, by window, where not all were."""
    partly = rows.lazy().filter(pl.col("rows") < pl.col("length"))
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
        .group_by("window")
        .agg("offset")
        .collect(engine="streaming")
    )
    return dict(near.iter_rows())


def _near_peak() -> pl.Expr:
    return (pl.col("position") - pl.col("peak")).abs() <= FLANK


def _offset() -> pl.Expr:
    return pl.col("position") - pl.max_horizontal(pl.col("peak") - FLANK, 1)
