"""The index of a FASTA file: one row per record, so that records are found by seeking."""

from pathlib import Path

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.formats.fasta_blocks import Block
from esm_sae.formats.fasta_reading import read_blocks
from esm_sae.formats.headers import OTHER, parse_headers
from esm_sae.formats.manifest import is_untouched, manifest_beside, read_manifest

SCHEMA = {
    "sequence_id": pl.String,
    "header": pl.String,
    "taxon": pl.String,
    "taxid": pl.Int64,
    "length": pl.Int32,
    "offset": pl.Int64,
}

_UNPARSED = {name: SCHEMA[name] for name in ("header", "length", "offset")}

_ROWS_PER_PART = 200_000
_HEADER_BYTES_PER_PART = 1 << 26
_ROWS_PER_GROUP = 1 << 17


class IndexWriter:
    """Writes the index of a FASTA file as its records become known.

    Memory is bounded by some 200,000 rows, or 64 MiB of headers: finished parts wait in a folder
    until all are joined.

    Attributes:
        unrecognised: records whose header is in the style of neither UniRef nor UniProtKB.
    """

    def __init__(self, folder: Path) -> None:
        self.unrecognised = 0
        self._folder = folder
        self._parts: list[Path] = []
        self._rows: list[pl.DataFrame] = []
        self._waiting = self._waiting_bytes = 0

    def add(self, block: Block) -> None:
        """Add the records of a block; offsets are those of the indexed file."""
        self._rows.append(_unparsed(block))
        self._waiting += len(block.starts)
        self._waiting_bytes += int((block.header_ends - block.starts).sum())
        if self._waiting >= _ROWS_PER_PART or self._waiting_bytes >= _HEADER_BYTES_PER_PART:
            self._close_part()

    def finish(self, target: Path) -> None:
        """Write the table, in the order in which the records were added."""
        table = self._take_rows().lazy()
        if self._parts:
            table = pl.concat([pl.scan_parquet(self._parts), table])
        # Of zstd, level 1 makes these tables both smaller and faster than its default.
        table.sink_parquet(
            target, row_group_size=_ROWS_PER_GROUP, compression="zstd", compression_level=1
        )

    def _close_part(self) -> None:
        path = self._folder / f"index_{len(self._parts):06d}.parquet"
        self._take_rows().write_parquet(path, compression="lz4")
        self._parts.append(path)

    def _take_rows(self) -> pl.DataFrame:
        rows = _parsed(self._rows)
        self.unrecognised += int((rows["style"] == OTHER).sum())
        self._rows = []
        self._waiting = self._waiting_bytes = 0
        return rows.select(list(SCHEMA))


def index_of(fasta: storage.PathLike) -> pl.DataFrame:
    """Return the index of a FASTA file: from the table beside it, else by reading the file.

    Raises:
        InputError: as ``read_fasta``.
    """
    return scan_index(fasta).collect()


def scan_index(fasta: storage.PathLike) -> pl.LazyFrame:
    """As ``index_of``, lazily: of a table beside the file only what is asked for is read.

    The table is trusted only where a manifest names both, and both are as it records them.
    """
    table = _trusted_table(fasta)
    if table is not None:
        return pl.scan_parquet(table)
    rows = _parsed([_unparsed(block) for block in read_blocks(fasta)])
    return rows.lazy().select(list(SCHEMA))


def index_path(fasta: storage.PathLike) -> Path:
    """Return where the index of a FASTA file is kept: ``x.fasta`` -> ``x.index.parquet``."""
    path = Path(fasta)
    return path.with_name(f"{storage.stem(path)}.index.parquet")


def _unparsed(block: Block) -> pl.DataFrame:
    every = np.arange(len(block.starts))
    return pl.DataFrame(
        {
            "header": block.headers(every),
            "length": block.lengths.astype(np.int32),
            "offset": block.starts + block.offset,
        },
        schema=_UNPARSED,
    )


def _parsed(rows: list[pl.DataFrame]) -> pl.DataFrame:
    """Add what the headers say, and their style."""
    frame = pl.concat([pl.DataFrame(schema=_UNPARSED), *rows])
    names = [name for name in SCHEMA if name not in _UNPARSED]
    return frame.hstack(parse_headers(frame["header"]).select(*names, "style").collect())


def _trusted_table(fasta: storage.PathLike) -> Path | None:
    if storage.is_url(fasta) or not Path(fasta).is_file():
        return None
    path, table, beside = Path(fasta), index_path(fasta), manifest_beside(fasta)
    manifest = read_manifest(beside)
    if manifest is None:
        return None
    trusted = all(is_untouched(file, manifest, beside) for file in (path, table))
    return table if trusted else None
