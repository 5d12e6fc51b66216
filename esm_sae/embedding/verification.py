"""A second look at finished shards, on the disk: what those hold that pass."""

from pathlib import Path
from typing import NamedTuple

import polars as pl

from esm_sae.embedding.matrices import MatrixFile
from esm_sae.embedding.validation import Norms, names_in, require_rows_of, require_sound
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product
from esm_sae.formats.sequence_index import scan_index
from esm_sae.formats.shards import EmbeddingShards, means_path, open_shards, shard_bounds
from esm_sae.formats.verification import require_equal, scan_table


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


class NamedProteins(NamedTuple):
    """What is known of a shard whose proteins are those of the sample.

    Attributes:
        proteins: that have rows.
        skipped: proteins too long for the options.
        first_record: number of the sample's record that the shard begins with, from 0.
        last_record: number of the one that it ends with.
    """

    proteins: int
    skipped: int
    first_record: int
    last_record: int


class CompleteShards(NamedTuple):
    """What is known of shards that are all there.

    Attributes:
        shards: their number.
        files: files that the manifest names, all there and of the right size.
        rows: rows of all matrices.
        index_rows: rows of the tables that name them.
        proteins: proteins that the rows are of.
        rows_are: what a row is.
    """

    shards: int
    files: int
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


def verify_proteins(shard: Product, fasta: Path) -> NamedProteins:
    """Check that a shard's rows are of the proteins of its part of the sample, in their order.

    Args:
        shard: as ``embed_shard`` made it.
        fasta: the sample that was embedded.

    Raises:
        InputError: they are not.
    """
    number, count = shard.manifest.determinants["shard"]
    summary = shard.manifest.summary
    index = scan_index(fasta).select("sequence_id", "length")
    first, end = shard_bounds(number, count, int(index.select(pl.len()).collect().item()))
    sampled = index.slice(first, end - first).collect()["sequence_id"].to_list()
    means = means_path(shard.path)
    table = (means if means.name in shard.manifest.files else shard.path).with_suffix(".parquet")
    named = scan_table(table, ("sequence_id",)).select("sequence_id").collect()
    embedded = named["sequence_id"].to_list()
    require_equal(
        table,
        {
            "proteins": (len(embedded), summary["proteins"]),
            "proteins, and those skipped": (
                len(embedded) + summary["skipped"],
                len(sampled),
            ),
        },
    )
    waiting = iter(sampled)
    for name in embedded:
        if name not in waiting:
            raise InputError(
                f"{table}: {name} does not stand there in {fasta.name}, which was embedded; embed "
                "it again"
            )
    return NamedProteins(len(embedded), summary["skipped"], first, end - 1)


def verify_shards(manifest: Product, *, count: int, matrices: bool = True) -> CompleteShards:
    """Check that a folder's shards are all there, each row named and each protein counted.

    Args:
        manifest: of the folder, as ``publish_manifest`` made it.
        count: how many shards there should be.
        matrices: whether the matrices are there too, and not on object storage alone.

    Raises:
        InputError: shards are missing, or matrices, tables and counts do not fit.
    """
    shards = open_shards(manifest.path, matrices=matrices)
    found = CompleteShards(
        shards=len(shards.paths),
        files=_require_in_place(manifest, matrices),
        rows=shards.rows,
        index_rows=_index_rows(shards),
        proteins=shards.proteins,
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


def _require_in_place(product: Product, matrices: bool) -> int:
    """Return how many files a manifest names: of thousands, hashing all would take hours."""
    files = product.manifest.files
    for name, entry in files.items():
        path = product.path / name
        if path.suffix == ".npy" and not matrices:
            continue
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise InputError(
                f"{path}: is gone or not of the {entry['bytes']:,} bytes that the manifest says; "
                "embed that shard again"
            )
    return len(files)


def _index_rows(shards: EmbeddingShards) -> int:
    return int(shards.index.select(pl.len()).collect().item())
