"""Reading activations: all of them, those of a latent, those of a protein."""

from pathlib import Path

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import BY_ROW, PROTEINS, SEQUENCES


def scan_activations(folder: storage.PathLike) -> pl.LazyFrame:
    """Return all activations of a folder by ``compute_activations``, sorted by row."""
    return pl.scan_parquet(activation_parts(folder))


def activation_parts(folder: storage.PathLike) -> list[Path]:
    """Return the files of all activations of a folder, in the order of rows."""
    return storage.list_files(Path(folder) / BY_ROW, "*.parquet")


def top_proteins(folder: storage.PathLike, latent: int, n: int = 10) -> pl.LazyFrame:
    """Return the proteins on which a latent fires most strongly.

    The table is sorted by latent, in row groups of 65,536 pairs whose ranges parquet records:
    one or two of them are read.

    Args:
        folder: of ``compute_activations``.
        latent: number of the latent.
        n: how many proteins at most.

    Returns:
        latent, protein, sequence_id, activation (its maximum over the protein's rows), position
        (of that maximum, null where a row is a protein), the strongest first.
    """
    return pl.scan_parquet(Path(folder) / PROTEINS).filter(pl.col("latent") == latent).head(n)


def latents_of(folder: storage.PathLike, sequence_id: str) -> pl.LazyFrame:
    """Return the latents that fire on a protein.

    Rows are sorted by protein, in row groups of 65,536 activations: those of the protein are
    read, after its number has been looked up.

    Args:
        folder: of ``compute_activations``.
        sequence_id: id of the protein; where several bear it, all are returned.

    Returns:
        protein, latent, activation (its maximum over the protein's rows), position (of the first
        such maximum, null where a row is a protein), firing_rows (rows on which it fires); by
        protein, the strongest latent first.

    Raises:
        InputError: no protein has that id.
    """
    sequences = pl.scan_parquet(Path(folder) / SEQUENCES)
    found = sequences.filter(pl.col("sequence_id") == sequence_id).select("protein").collect()
    if not len(found):
        raise InputError(f"{folder}: holds no protein {sequence_id}")
    strongest = pl.col("activation") == pl.col("activation").max()
    return (
        scan_activations(folder)
        .filter(pl.col("protein").is_in(found["protein"].to_list()))
        .group_by("protein", "latent")
        .agg(
            pl.col("activation").max(),
            pl.col("position").filter(strongest).first(),
            firing_rows=pl.len(),
        )
        .sort("protein", "activation", "latent", descending=[False, True, False])
    )
