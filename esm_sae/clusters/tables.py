"""Cluster tables: reading them and finding their sequences in the FASTA file."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.clusters_json import NOISE
from esm_sae.formats.fasta import Record, read_at
from esm_sae.formats.manifest import identity_of
from esm_sae.formats.sequence_index import index_of

PATH_KEY, HASH_KEY = "fasta", "fasta_sha256"

_COLUMNS = ("sequence_id", "header", "cluster")
_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True)
class ClusterTable:
    """A cluster table and the FASTA file that holds its sequences.

    Attributes:
        path: the table's file.
        members: one row per member in the table's order: cluster (string), sequence_id, header,
            and length and offset where the table has them.
        fasta: the FASTA file.
        fasta_sha256: the FASTA's content hash.
    """

    path: storage.PathLike
    members: pl.DataFrame
    fasta: storage.PathLike
    fasta_sha256: str

    def located(self) -> pl.DataFrame:
        """Return the members as cluster, header, length, offset, in the table's order.

        A table without offsets is matched with the FASTA by sequence_id, and by header and order
        where several records of the FASTA have one id.

        Raises:
            InputError: members are not in the FASTA, or it cannot be told which record is meant.
        """
        columns = ["cluster", "header", "length", "offset"]
        if {"length", "offset"} <= set(self.members.columns):
            return self.members.select(columns)
        return _match(self.members, index_of(self.fasta), self).select(columns)

    def records(self, rows: pl.DataFrame) -> Iterator[tuple[int, Record]]:
        """Yield ``(row number, record)`` of rows that ``located`` gave, in file order.

        Raises:
            InputError: the record at an offset is not the one that the row names.
        """
        ordered = rows.with_row_index("row").sort("offset").select("row", "offset", "header")
        records = read_at(self.fasta, ordered["offset"].to_list())
        for (row, offset, header), record in zip(ordered.iter_rows(), records, strict=True):
            if record.header != header:
                raise InputError(
                    f"{os.fspath(self.fasta)}: the record at byte {offset} is not the one that "
                    f"{os.fspath(self.path)} names; cluster this file again"
                )
            yield row, record


def is_table(path: storage.PathLike) -> bool:
    """Whether a file is a parquet table, by its first bytes."""
    with storage.open_binary(path) as file:
        return file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC


def open_table(path: storage.PathLike, fasta: storage.PathLike | None = None) -> ClusterTable:
    """Open a cluster table with the FASTA file given, or else with the one that it records.

    Raises:
        InputError: the file is not a cluster table, no FASTA is known, or the FASTA is not the
            one that was clustered.
    """
    frame, recorded = _read(path)
    if fasta is None:
        if PATH_KEY not in recorded:
            raise InputError(f"{os.fspath(path)}: records no FASTA file; name it with --fasta")
        fasta = _resolve(recorded[PATH_KEY], path)
    identity = identity_of_file(fasta)
    if recorded.get(HASH_KEY, identity) != identity:
        raise InputError(
            f"{os.fspath(fasta)}: not the file that {os.fspath(path)} was made from (another "
            "sha256); name that one with --fasta or cluster this one"
        )
    return ClusterTable(path, frame, fasta, identity)


def recorded_source(fasta: storage.PathLike, table: Path) -> dict[str, str]:
    """Return what a table's metadata says of its FASTA: path relative to the table, and sha256."""
    path = os.fspath(fasta)
    if not storage.is_url(fasta):
        path = Path(os.path.relpath(path, table.parent)).as_posix()
    return {PATH_KEY: path, HASH_KEY: identity_of_file(fasta)}


def identity_of_file(path: storage.PathLike) -> str:
    """Return the content hash of an input file.

    Raises:
        InputError: there is no such file, or it is a directory.
    """
    with storage.open_binary(path):
        return identity_of(path)


def by_size(members: pl.DataFrame) -> pl.DataFrame:
    """Return (cluster, size) of a member table, largest first, ties by name, noise last."""
    return (
        members.group_by("cluster")
        .agg(pl.len().alias("size"))
        .sort(
            [pl.col("cluster") == NOISE, "size", "cluster"],
            descending=[False, True, False],
        )
    )


def _read(path: storage.PathLike) -> tuple[pl.DataFrame, dict[str, str]]:
    with storage.open_binary(path) as file:
        try:
            metadata = pl.read_parquet_metadata(file)
            file.seek(0)
            frame = pl.read_parquet(file)
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{os.fspath(path)}: not a readable parquet table ({reason})"
            ) from None
    lacking = [name for name in _COLUMNS if name not in frame.columns]
    if lacking:
        raise InputError(
            f"{os.fspath(path)}: lacks the column {lacking[0]}; expected a cluster table with "
            "sequence_id, header and cluster"
        )
    if frame.is_empty():
        raise InputError(f"{os.fspath(path)}: holds no member of a cluster")
    unnamed = frame["cluster"].null_count()
    if unnamed:
        raise InputError(f"{os.fspath(path)}: {unnamed} rows have no cluster; remove them")
    return frame.with_columns(pl.col("cluster").cast(pl.String)), metadata


def _resolve(recorded: str, table: storage.PathLike) -> storage.PathLike:
    if storage.is_url(recorded):
        return recorded
    path = Path(os.path.normpath(Path(table).parent / recorded))
    if not path.is_file():
        raise InputError(
            f"{path}: no such file, which {os.fspath(table)} was made from; name it with --fasta"
        )
    return path


def _match(members: pl.DataFrame, index: pl.DataFrame, table: ClusterTable) -> pl.DataFrame:
    ids = members.select(pl.col("sequence_id").unique())
    known = index.join(ids, on="sequence_id", how="semi", maintain_order="left")
    shared = known.filter(pl.col("sequence_id").is_duplicated()).select(
        pl.col("sequence_id").unique(), shared=True
    )
    left, right = _with_key(members, shared), _with_key(known, shared)
    _require_same_copies(left, right, table)
    matched = left.select("cluster", *_KEY).join(
        right.select(*_KEY, "header", "length", "offset"),
        on=_KEY,
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    missing = matched.filter(pl.col("offset").is_null())
    if not missing.is_empty():
        raise InputError(
            f"{os.fspath(table.fasta)}: lacks {len(missing)} of {len(members)} sequences of "
            f"{os.fspath(table.path)}, the first '{missing['sequence_id'][0]}'; name the FASTA "
            "that was embedded with --fasta"
        )
    return matched


# What a row is matched by: its id; where several records of the FASTA have the id, also the
# header; where they have that too, also the order.
_KEY = ["sequence_id", "header_key", "copy"]


def _with_key(rows: pl.DataFrame, shared: pl.DataFrame) -> pl.DataFrame:
    return (
        rows.join(shared, on="sequence_id", how="left", maintain_order="left")
        .with_columns(header_key=pl.when("shared").then("header"))
        .with_columns(copy=pl.int_range(pl.len()).over("sequence_id", "header_key"))
    )


def _require_same_copies(left: pl.DataFrame, right: pl.DataFrame, table: ClusterTable) -> None:
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
            f"{os.fspath(table.fasta)}: {first['in_fasta']} records have the id "
            f"'{first['sequence_id']}' and one header, {os.fspath(table.path)} holds "
            f"{first['in_table']} of them; make the ids unique"
        )
