"""The index of a FASTA file: one row per record, so that records are found by seeking."""

import os
from pathlib import Path
from typing import Any

import polars as pl

from esm_sae import storage
from esm_sae.formats.fasta import Record, parse_header, read_fasta
from esm_sae.formats.manifest import manifest_beside, read_manifest

SCHEMA = {
    "sequence_id": pl.String,
    "header": pl.String,
    "taxon": pl.String,
    "taxid": pl.Int64,
    "length": pl.Int32,
    "offset": pl.Int64,
}

_ROWS_PER_CHUNK = 100_000


class IndexBuilder:
    """Collects the index rows of records, in compact chunks."""

    def __init__(self) -> None:
        self._chunks: list[pl.DataFrame] = []
        self._rows: list[tuple[Any, ...]] = []

    def add(self, record: Record, offset: int) -> None:
        """Add the row of a record that starts at ``offset`` of the indexed file."""
        header = parse_header(record.header)
        self._rows.append(
            (
                header.sequence_id,
                record.header,
                header.taxon,
                header.taxid,
                len(record.sequence),
                offset,
            )
        )
        if len(self._rows) >= _ROWS_PER_CHUNK:
            self._close_chunk()

    def finish(self) -> pl.DataFrame:
        """Return the index, one row per record in the order added."""
        self._close_chunk()
        return pl.concat(self._chunks)

    def _close_chunk(self) -> None:
        self._chunks.append(pl.DataFrame(self._rows, schema=SCHEMA, orient="row"))
        self._rows = []


def index_of(fasta: storage.PathLike) -> pl.DataFrame:
    """Return the index of a FASTA file: from the table beside it, else by reading the file.

    The table is trusted only where a manifest names both and the sizes agree.

    Raises:
        InputError: as ``read_fasta``.
    """
    table = _trusted_table(fasta)
    if table is not None:
        return pl.read_parquet(table)
    builder = IndexBuilder()
    for record in read_fasta(fasta):
        builder.add(record, record.offset)
    return builder.finish()


def index_path(fasta: storage.PathLike) -> Path:
    """Return where the index of a FASTA file is kept: ``x.fasta`` -> ``x.index.parquet``."""
    path = Path(fasta)
    return path.with_name(f"{storage.stem(path)}.index.parquet")


def _trusted_table(fasta: storage.PathLike) -> Path | None:
    if storage.is_url(fasta) or not Path(fasta).is_file():
        return None
    path, table = Path(fasta), index_path(fasta)
    manifest = read_manifest(manifest_beside(path))
    if manifest is None:
        return None
    for file in (path, table):
        entry = manifest.files.get(file.name)
        if entry is None or not file.is_file() or entry["bytes"] != os.stat(file).st_size:
            return None
    return table
