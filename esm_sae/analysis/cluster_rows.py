"""The proteins of embedded clusters as embedding rows: their vectors, or their residues."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.embedded_clusters import (
    EmbeddedClusters,
    read_embedded_json,
    read_embedded_table,
)
from esm_sae.formats.headers import parse_header
from esm_sae.formats.manifest import (
    Manifest,
    fingerprint_of,
    identity_of,
    is_untouched,
    manifest_beside,
    read_manifest,
)
from esm_sae.formats.shards import ROW_SCHEMA, Provenance, map_matrix, provenance_of


@dataclass(frozen=True)
class ClusterRows:
    """Embedding rows of the proteins of embedded clusters.

    Attributes:
        directory: the JSON or table, to be named in errors.
        matrix: (N, D), memory-mapped where the rows are residues.
        table: one row per matrix row, as the index of shards; ``taxon`` is the name of the cluster.
        provenance: what the rows are.
        fingerprint: hash of the files.
        headers: the FASTA header of each protein, in the file's order.
        sequences: the amino acids of each protein, in the file's order.
        taxa: the taxon of each protein, in the file's order.
    """

    directory: Path
    matrix: np.ndarray
    table: pl.DataFrame
    provenance: Provenance
    fingerprint: str
    headers: list[str]
    sequences: list[str]
    taxa: list[str]

    @property
    def rows(self) -> int:
        """N, the number of rows."""
        return len(self.matrix)

    @property
    def width(self) -> int:
        """D, the width of a row."""
        return int(self.matrix.shape[1])

    @property
    def index(self) -> pl.LazyFrame:
        """One row per matrix row: sequence_id, header, taxon, taxid, length, position."""
        return self.table.lazy()

    def rows_at(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows of these numbers, (n, D) float32."""
        return np.asarray(self.matrix[indices], dtype=np.float32)

    def batches(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(first row, (n, D) float32)`` in row order."""
        for start in range(0, self.rows, size):
            yield start, np.asarray(self.matrix[start : start + size], dtype=np.float32)


def open_cluster_rows(path: storage.PathLike, *, pooling: str) -> ClusterRows:
    """Open embedded clusters, the JSON or the table beside it, for an SAE of the given pooling.

    Where a manifest names both and both are as it records them, the table is read, which is
    faster, and the rows and their fingerprint are the same whichever was named. Memory is bounded
    by the sequences and vectors, or the sequences and the residues' names.

    A ``residue`` SAE reads ``<stem>.residues.npy`` and ``<stem>.residues.parquet`` beside the
    file; every other one reads the file's vectors, which are means unless another pooling of
    proteins is recorded.

    Raises:
        InputError: the file has another shape, or residue rows are wanted and missing or do not
            belong to it.
    """
    file = Path(path)
    source = _read(file)
    clusters, provenance = source.clusters, source.provenance
    proteins = _protein_table(clusters)
    if pooling != "residue":
        return ClusterRows(
            file,
            clusters.embeddings,
            _typed(proteins.with_columns(position=None)),
            replace(provenance, pooling=_pooling_of_vectors(provenance)),
            fingerprint_of("embedded_clusters", {"json": source.identity}),
            clusters.headers,
            clusters.sequences,
            clusters.taxa,
        )
    matrix_file, table_file = (
        file.with_name(f"{file.stem}.residues{suffix}") for suffix in (".npy", ".parquet")
    )
    matrix, residues = _read_residues(file, matrix_file, table_file, proteins)
    hashes = {part.suffix: source.identity_of_part(part) for part in (matrix_file, table_file)}
    rows = proteins[residues["protein"].to_numpy()].with_columns(residues["position"])
    return ClusterRows(
        file,
        matrix,
        _typed(rows),
        replace(provenance, pooling="residue"),
        fingerprint_of("embedded_clusters", {".json": source.identity, **hashes}),
        clusters.headers,
        clusters.sequences,
        clusters.taxa,
    )


@dataclass(frozen=True)
class _Source:
    """Embedded clusters and what is known of them.

    Attributes:
        clusters: what was read.
        identity: hash of the JSON, also where the table written with it was read in its place;
            of the table where nothing is known of a JSON.
        manifest_path: of the output they belong to.
        manifest: the same, None where there is none.
    """

    clusters: EmbeddedClusters
    identity: str
    manifest_path: Path
    manifest: Manifest | None

    @property
    def provenance(self) -> Provenance:
        if self.manifest is None or "provenance" not in self.manifest.determinants:
            return Provenance()
        return provenance_of(self.manifest.determinants)

    def identity_of_part(self, part: Path) -> str:
        """Return the hash of a file beside them, the recorded one where it is untouched."""
        manifest = self.manifest
        if manifest is not None and is_untouched(part, manifest, self.manifest_path):
            return str(manifest.files[part.name]["sha256"])
        return identity_of(part)


def _read(file: Path) -> _Source:
    is_table = file.suffix == ".parquet"
    json_file = file.with_suffix(".json") if is_table else file
    table = file.with_suffix(".parquet")
    beside = manifest_beside(json_file)
    manifest = read_manifest(beside)
    if manifest is not None and json_file.name in manifest.files:
        recorded = str(manifest.files[json_file.name]["sha256"])
        if all(is_untouched(path, manifest, beside) for path in {file, table}):
            return _Source(read_embedded_table(table), recorded, beside, manifest)
    clusters = read_embedded_table(file) if is_table else read_embedded_json(file)
    return _Source(clusters, identity_of(file), beside, manifest)


def _pooling_of_vectors(provenance: Provenance) -> str:
    per_protein = provenance.pooling not in ("residue", "unknown")
    return provenance.pooling if per_protein else "mean"


def _protein_table(clusters: EmbeddedClusters) -> pl.DataFrame:
    parsed = [parse_header(header) for header in clusters.headers]
    return pl.DataFrame(
        {
            "sequence_id": [header.sequence_id for header in parsed],
            "header": clusters.headers,
            "taxon": clusters.taxa,
            "taxid": [header.taxid for header in parsed],
            "length": [len(sequence) for sequence in clusters.sequences],
        },
        schema_overrides={"taxid": pl.Int64},
    )


def _typed(table: pl.DataFrame) -> pl.DataFrame:
    return table.select(pl.col(name).cast(dtype) for name, dtype in ROW_SCHEMA.items())


def _read_residues(
    file: Path, matrix_file: Path, table_file: Path, proteins: pl.DataFrame
) -> tuple[np.ndarray, pl.DataFrame]:
    if not matrix_file.is_file() or not table_file.is_file():
        raise InputError(
            f"{file}: this is a residue SAE and {matrix_file.name} is not beside it; run "
            "embed_clusters with residue pooling"
        )
    matrix = map_matrix(matrix_file)
    try:
        table = pl.read_parquet(table_file, columns=["protein", "position", "header"])
    except (pl.exceptions.PolarsError, OSError):
        raise InputError(
            f"{table_file}: not the table of residue rows; run embed_clusters again"
        ) from None
    numbers = table["protein"].to_numpy()
    complete = np.array_equal(np.unique(numbers), np.arange(len(proteins)))
    if matrix.ndim != 2 or len(matrix) != len(table) or not complete:
        raise InputError(
            f"{matrix_file}: its rows are not those of the proteins in {file.name}; run "
            "embed_clusters again"
        )
    if not (table["header"] == proteins["header"].gather(table["protein"])).all():
        raise InputError(
            f"{table_file}: its headers are not those of {file.name}; run embed_clusters again"
        )
    return matrix, table
