"""Tables of the rows of embedding matrices."""

from pathlib import Path

import polars as pl

from esm_sae import storage
from esm_sae.embedding.residues import ResidueRows
from esm_sae.formats.shards import ROW_SCHEMA


def row_table(proteins: pl.DataFrame, residues: ResidueRows | None = None) -> pl.DataFrame:
    """Return the table of a matrix's rows: ``formats.shards.ROW_SCHEMA``.

    Args:
        proteins: the proteins' rows of a sequence index, in the order of the matrix.
        residues: which residues the rows are; None where a row is a protein.
    """
    columns = [name for name in ROW_SCHEMA if name != "position"]
    if residues is None:
        return proteins.select(*columns, pl.lit(None, dtype=pl.Int32).alias("position"))
    of_row = pl.Series(residues.sequences)
    return proteins.select(columns)[of_row].with_columns(position=residues.positions + 1)


def write_table(table: pl.DataFrame, path: Path, *, final: Path) -> None:
    """Write a table as parquet.

    Args:
        table: the table.
        path: where it is written.
        final: the path it will have, for errors.

    Raises:
        InputError: the disk is full.
    """
    with storage.naming_full_disk(final):
        table.write_parquet(path)


def write_table_once(table: pl.DataFrame, path: Path, *, final: Path) -> None:
    """Write a table into a work folder that outlives a kill; one that is there is whole.

    So a call that goes on from finished rows needs no room for what it has.

    Raises:
        InputError: as ``write_table``.
    """
    if not path.is_file():
        with storage.publish(path) as temporary:
            write_table(table, temporary, final=final)
