"""The proteins of an embedded cluster JSON as embedding rows: its vectors, or their residues."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.clusters_json import EmbeddedClusters, read_embedded
from esm_sae.formats.headers import parse_header
from esm_sae.formats.manifest import fingerprint_of, identity_of, manifest_beside, read_manifest
from esm_sae.formats.shards import ROW_SCHEMA, Provenance, map_matrix, provenance_of


@dataclass(frozen=True)
class ClusterRows:
    """Embedding rows of the proteins in an embedded cluster JSON.

    Attributes:
        directory: the JSON file, to be named in errors.
        matrix: (N, D), memory-mapped where the rows are residues.
        table: one row per matrix row, as the index of shards; ``taxon`` is the key in the JSON.
        provenance: what the rows are.
        fingerprint: hash of the files.
        sequences: the amino acids of each protein, in JSON order.
        taxa: the taxon of each protein, in JSON order.
    """

    directory: Path
    matrix: np.ndarray
    table: pl.DataFrame
    provenance: Provenance
    fingerprint: str
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

    def batches(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(first row, (n, D) float32)`` in row order."""
        for start in range(0, self.rows, size):
            yield start, np.asarray(self.matrix[start : start + size], dtype=np.float32)


def open_cluster_rows(path: storage.PathLike, *, pooling: str) -> ClusterRows:
    """Open an embedded cluster JSON for an SAE of the given pooling.

    A ``residue`` SAE reads ``<stem>.residues.npy`` and ``<stem>.residues.parquet`` beside the
    JSON; every other one reads the JSON's vectors, which are means unless another pooling of
    proteins is recorded.

    Raises:
        InputError: the JSON has another shape, or residue rows are wanted and missing or do not
            belong to the JSON.
    """
    file = Path(path)
    clusters = read_embedded(file)
    proteins = _protein_table(clusters)
    provenance = _recorded_provenance(file)
    if pooling != "residue":
        return ClusterRows(
            file,
            clusters.embeddings,
            _typed(proteins.with_columns(position=None)),
            replace(provenance, pooling=_pooling_of_vectors(provenance)),
            fingerprint_of("embedded_clusters", {"json": identity_of(file)}),
            clusters.sequences,
            clusters.taxa,
        )
    matrix_file, table_file = (
        file.with_name(f"{file.stem}.residues{suffix}") for suffix in (".npy", ".parquet")
    )
    matrix, residues = _read_residues(file, matrix_file, table_file, proteins)
    hashes = {part.suffix: identity_of(part) for part in (file, matrix_file, table_file)}
    rows = proteins[residues["protein"].to_numpy()].with_columns(residues["position"])
    return ClusterRows(
        file,
        matrix,
        _typed(rows),
        replace(provenance, pooling="residue"),
        fingerprint_of("embedded_clusters", hashes),
        clusters.sequences,
        clusters.taxa,
    )


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


def _recorded_provenance(file: Path) -> Provenance:
    manifest = read_manifest(manifest_beside(file))
    if manifest is None or "provenance" not in manifest.determinants:
        return Provenance()
    return provenance_of(manifest.determinants)


def _read_residues(
    file: Path, matrix_file: Path, table_file: Path, proteins: pl.DataFrame
) -> tuple[np.ndarray, pl.DataFrame]:
    if not matrix_file.is_file() or not table_file.is_file():
        raise InputError(
            f"{file}: this is a residue SAE and {matrix_file.name} is not beside the JSON; run "
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
