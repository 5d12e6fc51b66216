"""Embedded clusters: proteins by taxon with a vector each, as JSON and as a table."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.headers import parse_headers
from esm_sae.formats.json_lists import encode_json, entry_of, entry_writer, read_entries

_ENTRY_KEYS = ("sequence", "header", "embedding")
_TEXTS = {name: pl.String for name in ("taxon", "sequence_id", "header", "sequence")}
# Rows that are written at once, and a row group of the table.
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class EmbeddedClusters:
    """Sequences by taxon with one vector each, as parallel columns.

    Attributes:
        taxa: taxon of each protein, N names; the proteins of a taxon stand together.
        sequences: N amino-acid sequences.
        headers: N FASTA headers.
        embeddings: (N, D) float32.
    """

    taxa: list[str]
    sequences: list[str]
    headers: list[str]
    embeddings: np.ndarray


def read_embedded_json(path: storage.PathLike) -> EmbeddedClusters:
    """Read ``{taxon: [{"sequence", "header", "embedding"}, ...]}``.

    Memory beyond what is returned is bounded as that of ``read_entries``.

    Raises:
        InputError: as ``read_entries``, or an entry is of another shape, its vector is not finite
            or of another width than the first one; or there is no entry.
    """
    taxa, sequences, headers, values = [], [], [], bytearray()
    width = None
    for taxon, number, entry in read_entries(path):
        where = f"{os.fspath(path)}: {entry_of(taxon, number)}"
        if not isinstance(entry, dict) or not all(key in entry for key in _ENTRY_KEYS):
            raise InputError(f"{where} lacks sequence, header or embedding")
        if not isinstance(entry["sequence"], str) or not isinstance(entry["header"], str):
            raise InputError(f"{where} has a sequence or header that is not text")
        vector = _vector(entry["embedding"], where)
        width = width or len(vector)
        if len(vector) != width:
            raise InputError(f"{where} has an embedding of width {len(vector)}, others {width}")
        taxa.append(taxon)
        sequences.append(entry["sequence"])
        headers.append(entry["header"])
        values += vector.data
    if width is None:
        raise InputError(f"{os.fspath(path)}: holds no embedded protein")
    embeddings = np.frombuffer(values, dtype=np.float32).reshape(-1, width)
    return EmbeddedClusters(taxa, sequences, headers, embeddings)


def write_embedded_json(path: Path, clusters: EmbeddedClusters) -> None:
    """Write ``{taxon: [{"sequence", "header", "embedding"}, ...]}``, some rows at a time.

    The vectors must be finite. Each float32 is written with the fewest digits that restore it.
    """
    with entry_writer(path) as writer:
        for taxon, rows in _runs(clusters.taxa):
            vectors = _as_texts(clusters.embeddings[rows])
            entries = zip(clusters.sequences[rows], clusters.headers[rows], vectors, strict=True)
            writer.add(taxon, [_encode_entry(*entry) for entry in entries])


def read_embedded_table(path: Path) -> EmbeddedClusters:
    """Read the table that ``write_embedded_table`` writes.

    Memory is bounded by what is returned.

    Raises:
        InputError: the file is missing or not such a table, is empty, lacks values or holds
            vectors that are not finite.
    """
    with storage.open_binary(path):
        pass
    if not is_embedded_table(path):
        raise InputError(
            f"{path}: not a table of embedded clusters (taxon, sequence_id, header, sequence, and "
            "embedding as an array of float32); run embed_clusters again"
        )
    frame = pl.read_parquet(path)
    if frame.is_empty():
        raise InputError(f"{path}: holds no embedded protein")
    embeddings = frame["embedding"].to_numpy()
    if any(frame.null_count().row(0)) or not np.isfinite(embeddings).all():
        raise InputError(
            f"{path}: holds values that are missing or not finite; run embed_clusters again"
        )
    taxa, sequences, headers = (frame[name].to_list() for name in ("taxon", "sequence", "header"))
    return EmbeddedClusters(taxa, sequences, headers, embeddings)


def is_embedded_table(path: Path) -> bool:
    """Whether a file is a table of embedded clusters, by its columns."""
    try:
        schema = pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError):
        return False
    embedding = schema.pop("embedding", None)
    is_matrix = isinstance(embedding, pl.Array) and embedding.inner == pl.Float32
    return is_matrix and dict(schema) == _TEXTS


def write_embedded_table(path: Path, clusters: EmbeddedClusters) -> None:
    """Write taxon, sequence_id, header, sequence and embedding, one row per protein.

    The embedding is an array of D float32. Memory is bounded by some rows at a time, which wait
    in a folder beside the file.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        parts = []
        for start in range(0, len(clusters.taxa), _ROWS_AT_ONCE):
            parts.append(Path(folder, f"{start:012d}.parquet"))
            rows = slice(start, start + _ROWS_AT_ONCE)
            _frame(clusters, rows).write_parquet(parts[-1], compression="uncompressed")
        pl.scan_parquet(parts).sink_parquet(
            path, row_group_size=_ROWS_AT_ONCE, compression="zstd", compression_level=1
        )


def _runs(taxa: list[str]) -> Iterator[tuple[str, slice]]:
    """Yield runs of rows of one taxon, of at most so many rows as are written at once."""
    start = 0
    for row in range(1, len(taxa) + 1):
        if row == len(taxa) or taxa[row] != taxa[start] or row - start == _ROWS_AT_ONCE:
            yield taxa[start], slice(start, row)
            start = row


def _as_texts(vectors: np.ndarray) -> list[str]:
    """Return the numbers of each vector, (n, D), as they stand between the brackets of JSON."""
    numbers = _array_series(vectors).arr.to_list().cast(pl.List(pl.String))
    return numbers.list.join(", ").to_list()


def _encode_entry(sequence: str, header: str, numbers: str) -> bytes:
    texts = encode_json({"sequence": sequence, "header": header})
    return b'%s, "embedding": [%s]}' % (texts[:-1], numbers.encode())


def _array_series(vectors: np.ndarray) -> pl.Series:
    values = np.asarray(vectors, dtype=np.float32)
    return pl.Series("embedding", values, dtype=pl.Array(pl.Float32, values.shape[1]))


def _frame(clusters: EmbeddedClusters, rows: slice) -> pl.DataFrame:
    headers = pl.Series("header", clusters.headers[rows], dtype=pl.String)
    return pl.DataFrame(
        {
            "taxon": pl.Series(clusters.taxa[rows], dtype=pl.String),
            "sequence_id": parse_headers(headers).select("sequence_id").collect().to_series(),
            "header": headers,
            "sequence": pl.Series(clusters.sequences[rows], dtype=pl.String),
            "embedding": _array_series(clusters.embeddings[rows]),
        }
    )


def _vector(value: Any, where: str) -> np.ndarray:
    try:
        # NumPy would read text and truth values as numbers.
        is_numbers = isinstance(value, list) and set(map(type, value)) <= {int, float}
        with np.errstate(over="ignore"):
            vector = np.array(value if is_numbers else [], dtype=np.float32)
    except OverflowError:
        vector = np.empty(0, dtype=np.float32)
    if not len(vector) or not np.isfinite(vector).all():
        raise InputError(f"{where} has an embedding that is not a list of finite numbers")
    return vector
