"""A second look at finished shards, on the disk: what those hold that pass."""

from typing import NamedTuple

import polars as pl

from esm_sae.embedding.matrices import MatrixFile
from esm_sae.embedding.validation import Norms, names_in, require_rows_of, require_sound
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product
from esm_sae.formats.shards import EmbeddingShards, means_path, open_shards


class SoundRows(NamedTuple):
    """What is known of a shard whose rows are sound.

    Attributes:
        rows: N, the number of rows.
        index_rows: rows of the table that names them.
        width: D, the width of a row.
        dtype: number format of the matrix.
        norm_min: least Euclidean norm of a row.
        norm_median: median of the norms.
        norm_max: greatest norm.
    """

    rows: int
    index_rows: int
    width: int
    dtype: str
    norm_min: float
    norm_median: float
    norm_max: float


class CompleteShards(NamedTuple):
    """What is known of shards that are all there.

    Attributes:
        shards: their number.
        rows: rows of all matrices.
        index_rows: rows of the tables that name them.
        proteins: proteins that the rows are of.
        rows_are: what a row is.
    """

    shards: int
    rows: int
    index_rows: int
    proteins: int
    rows_are: str


def verify_shard(shard: Product) -> SoundRows:
    """Check a shard's files as was done before its manifest was written.

    Args:
        shard: as ``embed_shard`` made it.

    Raises:
        InputError: a matrix or its row table does not pass; the rows at fault are named.
    """
    summary = shard.manifest.summary
    dtype = shard.manifest.determinants["options"]["dtype"]
    rows, width = summary["rows"], summary["width"]
    index_rows, norms = _verify(MatrixFile(shard.path, shard.path, rows, width, dtype))
    means = means_path(shard.path)
    if means.name in shard.manifest.files:
        _verify(MatrixFile(means, means, summary["proteins"], width, dtype))
    return SoundRows(rows, index_rows, width, dtype, *norms)


def verify_shards(manifest: Product, *, count: int) -> CompleteShards:
    """Check that a folder's shards are all there, each row named and each protein counted.

    Args:
        manifest: of the folder, as ``publish_manifest`` made it.
        count: how many shards there should be.

    Raises:
        InputError: shards are missing, or matrices, tables and counts do not fit.
    """
    shards = open_shards(manifest.path)
    found = CompleteShards(
        shards=len(shards.paths),
        rows=shards.rows,
        index_rows=_index_rows(shards),
        proteins=shards.means().rows,
        rows_are=shards.provenance.describe(),
    )
    for what, number, expected in (
        ("shards", found.shards, count),
        ("rows in their tables", found.index_rows, found.rows),
        ("proteins", found.proteins, manifest.manifest.summary["proteins"]),
    ):
        if number != expected:
            raise InputError(
                f"{manifest.path}: has {number:,} {what}, expected {expected:,}; embed it again"
            )
    return found


def _verify(matrix: MatrixFile) -> tuple[int, Norms]:
    """Return the rows that a matrix's table names, and the norms of its own."""
    table = matrix.path.with_suffix(".parquet")
    named = require_rows_of(table, matrix.rows, file=table)
    return named, require_sound(matrix, names_in(table))


def _index_rows(shards: EmbeddingShards) -> int:
    return int(shards.index.select(pl.len()).collect().item())
