"""Cluster tables: reading them and finding their sequences in the FASTA file."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.clusters.matching import match_records
from esm_sae.clusters.members import Members
from esm_sae.errors import InputError
from esm_sae.formats.fasta import Record, read_at
from esm_sae.formats.manifest import identity_of

PATH_KEY, HASH_KEY = "fasta", "fasta_sha256"

_COLUMNS = ("sequence_id", "header", "cluster")
_PLACES = ("length", "offset")
_PARQUET_MAGIC = b"PAR1"
_RECORDS_AT_ONCE = 4096


class Located(NamedTuple):
    """The N members of a table in its order, and where their records are.

    Attributes:
        members: clusters and lengths.
        offsets: (N,) int64, the byte at which the record starts.
        headers: (N,) uint64, hashes of the headers: ten million of these fit in memory.
    """

    members: Members
    offsets: np.ndarray
    headers: np.ndarray


@dataclass(frozen=True)
class ClusterTable:
    """A cluster table and the FASTA file that holds its sequences.

    Attributes:
        path: the table's file.
        rows: its rows, lazily: sequence_id, header, cluster (string), and length and offset where
            the table has them.
        fasta: the FASTA file.
        fasta_sha256: the FASTA's content hash.
    """

    path: storage.PathLike
    rows: pl.LazyFrame
    fasta: storage.PathLike
    fasta_sha256: str

    def located(self) -> Located:
        """Find the members' records.

        A table without offsets is matched with the FASTA by sequence_id, and by header and order
        where several records of the FASTA have one id. Memory is some 30 bytes a member, and
        for a table without offsets its ids and the headers.

        Raises:
            InputError: a row lacks what is needed, members are not in the FASTA, or it cannot be
                told which record is meant.
        """
        has_places = set(_PLACES) <= set(self.rows.collect_schema().names())
        self._require_whole(_PLACES if has_places else ("sequence_id",))
        rows = self.rows.with_columns(pl.col("header").hash())
        if not has_places:
            rows = match_records(self._collect(rows), self.fasta, self.path).lazy()
        names = self._collect(rows.select(pl.col("cluster").unique().sort()))["cluster"]
        found = self._collect(
            rows.select(
                pl.col("cluster").cast(pl.Enum(names)).to_physical().cast(pl.UInt32),
                pl.col("length").cast(pl.Int32),
                pl.col("offset").cast(pl.Int64),
                "header",
            )
        )
        clusters, lengths, offsets, headers = (column.to_numpy() for column in found)
        return Located(Members(names.to_list(), clusters, lengths), offsets, headers)

    def records(self, located: Located, rows: np.ndarray) -> Iterator[tuple[int, Record]]:
        """Yield ``(place in rows, record)`` of some rows, in the FASTA's order.

        Raises:
            InputError: the record at an offset is not the one that the row names.
        """
        order = np.argsort(located.offsets[rows], kind="stable")
        records = read_at(self.fasta, located.offsets[rows[order]])
        for start in range(0, len(order), _RECORDS_AT_ONCE):
            places = order[start : start + _RECORDS_AT_ONCE]
            batch = list(itertools.islice(records, len(places)))
            headers = pl.Series([record.header for record in batch], dtype=pl.String).hash()
            other = np.flatnonzero(headers.to_numpy() != located.headers[rows[places]])
            if len(other):
                raise InputError(
                    f"{os.fspath(self.fasta)}: the record at byte {batch[other[0]].offset} is not "
                    f"the one that {os.fspath(self.path)} names; cluster this file again"
                )
            yield from zip(places.tolist(), batch, strict=True)

    def _require_whole(self, needed: tuple[str, ...]) -> None:
        """Refuse a table without rows, and rows that lack a cluster or what else is needed."""
        lacking = {name: pl.col(name).is_null() for name in ("cluster", *needed)}
        lacking |= {name: lacking[name] | (pl.col(name) < 0) for name in needed if name in _PLACES}
        sums = {name: is_lacking.sum() for name, is_lacking in lacking.items()}
        counts = self._collect(self.rows.select(pl.len().alias("rows"), **sums)).row(0, named=True)
        if not counts["rows"]:
            raise InputError(f"{os.fspath(self.path)}: holds no member of a cluster")
        for name in lacking:
            if counts[name]:
                raise InputError(
                    f"{os.fspath(self.path)}: {counts[name]} rows have no {name}"
                    + (" or one below 0" if name in _PLACES else "")
                    + "; remove them"
                )

    def _collect(self, rows: pl.LazyFrame) -> pl.DataFrame:
        try:
            return rows.collect(engine="streaming")
        except pl.exceptions.PolarsError as error:
            raise _unreadable(self.path, error) from None


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
    rows, recorded = _scan(path)
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
    return ClusterTable(path, rows, fasta, identity)


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


def _scan(path: storage.PathLike) -> tuple[pl.LazyFrame, dict[str, str]]:
    """Return the rows of a cluster table, none of them read yet, and its metadata."""
    with storage.open_binary(path):
        pass
    # A remote table is held in memory, compressed as it is.
    source = storage.read_bytes(path) if storage.is_url(path) else Path(path)
    try:
        metadata = pl.read_parquet_metadata(source)
        rows = pl.scan_parquet(source)
        schema = rows.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from None
    lacking = [name for name in _COLUMNS if name not in schema]
    if lacking:
        raise InputError(
            f"{os.fspath(path)}: lacks the column {lacking[0]}; expected a cluster table with "
            "sequence_id, header and cluster"
        )
    for name in _PLACES:
        if name in schema and not schema[name].is_integer():
            raise InputError(
                f"{os.fspath(path)}: its column {name} holds no whole numbers; cluster again"
            )
    places = [name for name in _PLACES if name in schema]
    return rows.select(pl.col(_COLUMNS).cast(pl.String), *places), metadata


def _unreadable(path: storage.PathLike, error: Exception) -> InputError:
    reason = str(error).splitlines()[0]
    return InputError(f"{os.fspath(path)}: not a readable parquet table ({reason})")


def _resolve(recorded: str, table: storage.PathLike) -> storage.PathLike:
    if storage.is_url(recorded):
        return recorded
    path = Path(os.path.normpath(Path(table).parent / recorded))
    if not path.is_file():
        raise InputError(
            f"{path}: no such file, which {os.fspath(table)} was made from; name it with --fasta"
        )
    return path
