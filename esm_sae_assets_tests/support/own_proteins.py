"""A made-up run of one's own proteins: what ``describe_proteins`` reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae.analysis import compute_activations
from esm_sae.analysis.concepts.labels import universe_path
from esm_sae.formats.analysis_tables import (
    ANNOTATION_SCHEMA,
    CONCEPT_SCHEMA,
    CONCEPTS,
    FEATURE_CONCEPT_SCHEMA,
    FEATURE_CONCEPTS,
)
from esm_sae.formats.checkpoint import SAEConfig
from esm_sae.formats.headers import parse_header
from esm_sae.formats.manifest import produce_folder
from esm_sae.formats.shards import ROW_SCHEMA, Provenance

LATENTS, K = 6, 2
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
PARENT: dict[str, Any] = {"encoder": "letters", "weights_sha256": "0" * 64, "layer": 0}


@dataclass(frozen=True)
class LetterRows:
    """Rows that are residues, each one number: that of its letter; every ``step``-th is encoded."""

    proteins: Sequence[tuple[str, str]]
    step: int = 1
    pooling: str = "residue"

    @property
    def table(self) -> pl.DataFrame:
        """One row per residue, or per protein."""
        rows = []
        for header, sequence in self.proteins:
            parsed = parse_header(header)
            positions = range(1, len(sequence) + 1, self.step)
            for position in positions if self.pooling == "residue" else [None]:
                length = len(sequence)
                rows.append(
                    (parsed.sequence_id, header, parsed.taxon, parsed.taxid, length, position)
                )
        return pl.DataFrame(rows, schema=ROW_SCHEMA, orient="row")

    @property
    def values(self) -> np.ndarray:
        """Numbers of the letters, (N, 1); of a protein that of its first."""
        step = self.step if self.pooling == "residue" else 10**6
        letters = "".join(sequence[::step] for _, sequence in self.proteins)
        return np.array([[RESIDUES.index(letter)] for letter in letters], dtype=np.float32)

    rows = property(lambda self: len(self.table))
    width = 1
    fingerprint = property(lambda self: f"{self.step}:{self.proteins}")
    provenance = property(lambda self: Provenance(**PARENT, pooling=self.pooling))
    index = property(lambda self: self.table.lazy())

    def batches(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the rows."""
        for start in range(0, self.rows, size):
            yield start, self.values[start : start + size]


class LetterSAE:
    """Latent n fires on letters whose number leaves n modulo 5, latent 5 on W and Y too."""

    def __init__(self, fingerprint: str = "letters", pooling: str = "residue") -> None:
        self.config = SAEConfig(1, LATENTS, K, **PARENT, pooling=pooling)
        self.fingerprint = fingerprint

    def encode_sparse(self, x: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
        """Encode numbers of letters: activations are 1 for A and 1/10 more for each further."""
        letter = x[:, 0]
        values = np.stack([1 + letter / 10, np.where(letter >= 18, 9.0, 0.0)], axis=1)
        return values.astype(np.float32), np.stack([letter % 5, np.full(len(x), 5)], axis=1)


def write_activations(
    folder: Path,
    proteins: Sequence[tuple[str, str]],
    *,
    pooling: str = "residue",
    step: int = 1,
    batch_rows: int = 4096,
) -> Path:
    """Write the activations on proteins, each a header and a sequence; return the folder."""
    fasta = folder.with_suffix(".fasta")
    fasta.write_text("".join(f">{header}\n{sequence}\n" for header, sequence in proteins))
    rows = LetterRows(proteins, step, pooling)
    sae = LetterSAE(pooling=pooling)
    return compute_activations(sae, rows, folder, fasta=fasta, batch_rows=batch_rows).path


def write_summary(path: Path, labels: dict[int, tuple[str, float]]) -> Path:
    """Write a summary of the latents with the given labels and scores."""
    rows = [
        {"latent": latent, "label": label, "label_kind": "family", "label_score": score}
        for latent in range(LATENTS)
        for label, score in [labels.get(latent, (None, None))]
    ]
    schema = {"label": pl.String, "label_kind": pl.String, "label_score": pl.Float64}
    pl.DataFrame(rows, schema={"latent": pl.UInt32, **schema}).write_parquet(path)
    return path


def write_concepts(folder: Path, concepts: Sequence[dict[str, Any]]) -> Path:
    """Write the folder of concepts; what is not given of one is that of a good one."""
    usual = {"source": "name", "level": "protein", "eligible": True, "trivial_f1": 0.1}
    usual |= {"latent": 5, "threshold": 1.0, "test_f1": 0.8, "f1_low": 0.6, "f1_high": 0.9}
    rows = [{name: None for name in CONCEPT_SCHEMA} | usual | concept for concept in concepts]
    table = pl.DataFrame(rows, schema=CONCEPT_SCHEMA)
    scores = [
        {name: None for name in FEATURE_CONCEPT_SCHEMA}
        | {name: row[name] for name in ("latent", "source", "concept", "level")}
        | {"test_precision": 0.7}
        for row in rows
    ]

    def build(work: Path) -> dict[str, Any]:
        table.write_parquet(work / CONCEPTS)
        scored = pl.DataFrame(scores, schema=FEATURE_CONCEPT_SCHEMA)
        scored.filter(pl.col("latent").is_not_null()).write_parquet(work / FEATURE_CONCEPTS)
        return {}

    return produce_folder(folder, kind="c", determinants={"c": list(concepts)}, build=build).path


def write_annotations(
    path: Path, rows: Sequence[tuple[str, str, str]], in_uniprot: Sequence[str] = ()
) -> Path:
    """Write annotations (source, concept, id), and beside them the proteins UniProt speaks of."""
    content = [(*row, None, None) for row in rows]
    pl.DataFrame(content, schema=ANNOTATION_SCHEMA, orient="row").write_parquet(path)
    universe = {"source": ["uniprot"] * len(in_uniprot), "sequence_id": list(in_uniprot)}
    schema = {"source": pl.String, "sequence_id": pl.String}
    pl.DataFrame(universe, schema=schema).write_parquet(universe_path(path))
    return path
