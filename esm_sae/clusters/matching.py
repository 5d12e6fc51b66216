"""Finding the records of a cluster table that has no offsets, by their ids."""

import os

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.sequence_index import scan_index

# What a row is matched by: its id; where several records of the FASTA have the id, also the
# header; where they have that too, also the order.
_KEY = ["sequence_id", "header_key", "copy"]


def match_records(
    members: pl.DataFrame, fasta: storage.PathLike, table: storage.PathLike
) -> pl.DataFrame:
    """Return cluster, header, length and offset of the members of a table, in its order.

    Args:
        members: sequence_id, header (as its hash, as in the result) and cluster.
        fasta: the file with the records.
        table: path of the table, for errors.

    Raises:
        InputError: members are not in the FASTA, or it cannot be told which record is meant.
    """
    index = scan_index(fasta).select("sequence_id", pl.col("header").hash(), "length", "offset")
    ids = members.lazy().select(pl.col("sequence_id").unique())
    known = index.join(ids, on="sequence_id", how="semi", maintain_order="left").collect()
    shared = known.filter(pl.col("sequence_id").is_duplicated()).select(
        pl.col("sequence_id").unique(), shared=True
    )
    left, right = _with_key(members, shared), _with_key(known, shared)
    _require_same_copies(left, right, fasta, table)
    matched = left.select("sequence_id", "cluster", *_KEY[1:]).join(
        right.select(*_KEY, "header", "length", "offset"),
        on=_KEY,
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    missing = matched.filter(pl.col("offset").is_null())
    if not missing.is_empty():
        raise InputError(
            f"{os.fspath(fasta)}: lacks {len(missing)} of {len(members)} sequences of "
            f"{os.fspath(table)}, the first '{missing['sequence_id'][0]}'; name the FASTA that was "
            "embedded with --fasta"
        )
    return matched.select("cluster", "header", "length", "offset")


def _with_key(rows: pl.DataFrame, shared: pl.DataFrame) -> pl.DataFrame:
    return (
        rows.join(shared, on="sequence_id", how="left", maintain_order="left")
        .with_columns(header_key=pl.when("shared").then("header"))
        .with_columns(copy=pl.int_range(pl.len()).over("sequence_id", "header_key"))
    )


def _require_same_copies(
    left: pl.DataFrame, right: pl.DataFrame, fasta: storage.PathLike, table: storage.PathLike
) -> None:
    """Refuse a table that holds only some of the records that id and header cannot tell apart."""
    by = ["sequence_id", "header_key"]
    copies = right.filter("shared").group_by(by).agg(pl.len().alias("in_fasta"))
    held = left.filter("shared").group_by(by).agg(pl.len().alias("in_table"))
    unequal = held.join(copies, on=by, nulls_equal=True).filter(
        (pl.col("in_fasta") > 1) & (pl.col("in_fasta") != pl.col("in_table"))
    )
    if not unequal.is_empty():
        first = unequal.sort("sequence_id").row(0, named=True)
        raise InputError(
            f"{os.fspath(fasta)}: {first['in_fasta']} records have the id "
            f"'{first['sequence_id']}' and one header, {os.fspath(table)} holds "
            f"{first['in_table']} of them; make the ids unique"
        )
