"""Embedding the sampled sequences of taxa."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.embedding.encoder import Encoder
from esm_sae.embedding.matrices import MatrixFile
from esm_sae.embedding.options import EmbeddingOptions
from esm_sae.embedding.residues import ResidueRows, all_residues
from esm_sae.embedding.rows import fill_rows
from esm_sae.embedding.tables import write_table_once
from esm_sae.embedding.tokens import Vocabulary
from esm_sae.embedding.validation import require_sound
from esm_sae.errors import InputError, ResumableError
from esm_sae.formats.clusters_json import read_sequences
from esm_sae.formats.embedded_clusters import (
    EmbeddedClusters,
    is_embedded_table,
    write_embedded_json,
    write_embedded_table,
)
from esm_sae.formats.headers import parse_header
from esm_sae.formats.json_lists import entry_of
from esm_sae.formats.manifest import (
    Product,
    identity_of,
    manifest_beside,
    produce_files,
    require_unclaimed,
)

_ALGORITHM = "embedded clusters 3"
_VECTORS = "vectors.npy"


def embed_clusters(
    clusters_json: storage.PathLike,
    output_json: storage.PathLike,
    *,
    encoder: Encoder,
    options: EmbeddingOptions,
) -> Product:
    """Embed ``{taxon: [[sequence, header], ...]}`` into embedded clusters.

    Writes ``{taxon: [{"sequence", "header", "embedding"}, ...]}`` in the order of the input,
    where ``embedding`` is the protein's row of the options' pooling, and the same as a table,
    ``<stem>.parquet``: taxon, sequence_id, header, sequence, embedding (an array of D float32).
    With residue rows the embedding is the mean, and ``<stem>.residues.npy`` is written too, the
    rows of all residues of these proteins, (R, D) float32, with ``<stem>.residues.parquet``:
    protein (its number in the order of the JSON, from 0), taxon, header, position (from 1). All
    residues, whatever ``residues_per_protein`` says: an SAE of residues is max-pooled over the
    whole protein. ``dtype`` is not used either. Sequences that the options skip are left out,
    and so is a taxon that loses all. A killed call is gone on with, and so is one that had no
    room for the last files. Memory beyond the encoder's is bounded by the sequences, their
    residues' positions, one batch and some 4,096 rows; the vectors are a mapped file.

    Args:
        clusters_json: ``{taxon: [[sequence, header], ...]}``.
        output_json: the file to write; its name ends in ``.json``.
        encoder: the encoder.
        options: pooling, layer, greatest length and token budget.

    Raises:
        InputError: the JSON has another shape, a sequence cannot be embedded (the record is
            named), all are skipped, another table is in the place of the one to write, the disk
            is full, or an embedding is not sound.
    """
    target = Path(output_json)
    if target.suffix != ".json":
        raise InputError(
            f"{target}: the table beside it is named after it; give it a name that ends in .json"
        )
    paths = [target, target.with_suffix(".parquet")]
    if options.per_residue:
        paths += [target.with_suffix(".residues.npy"), target.with_suffix(".residues.parquet")]
    require_unclaimed(paths, manifest_beside(target))
    _require_own(paths[1])
    every = _proteins(clusters_json, encoder.backbone.vocabulary)
    proteins = _kept(every, options, clusters_json)

    def build(targets: list[Path]) -> dict[str, Any]:
        skipped = len(every.taxa) - len(proteins.taxa)
        return {"skipped": skipped, **_write(targets, paths, proteins, encoder, options)}

    return produce_files(
        paths,
        manifest=manifest_beside(target),
        kind="embedded_clusters",
        determinants={
            "provenance": asdict(options.provenance(encoder)),
            "options": replace(options, residues_per_protein=None, dtype="float32").determinants(
                encoder
            ),
            "clusters": identity_of(clusters_json),
            "algorithm": _ALGORITHM,
        },
        build=build,
        resumable=True,
    )


def _require_own(table: Path) -> None:
    """Refuse to write over a table that only shares the JSON's stem, such as that of clusters."""
    if table.is_file() and not is_embedded_table(table):
        raise InputError(
            f"{table}: is no table of embedded clusters and would be lost; give the JSON another "
            "name, or remove it"
        )


class _Proteins(NamedTuple):
    taxa: list[str]
    sequences: list[str]
    headers: list[str]


def _proteins(clusters_json: storage.PathLike, vocabulary: Vocabulary) -> _Proteins:
    proteins = _Proteins([], [], [])
    for taxon, number, sequence, header in read_sequences(clusters_json):
        vocabulary.require_residues(sequence, f"{clusters_json}: {entry_of(taxon, number)}")
        proteins.taxa.append(taxon)
        proteins.sequences.append(sequence)
        proteins.headers.append(header)
    if not proteins.taxa:
        raise InputError(f"{clusters_json}: its clusters hold no sequence")
    return proteins


def _kept(
    proteins: _Proteins, options: EmbeddingOptions, clusters_json: storage.PathLike
) -> _Proteins:
    lengths = np.array([len(sequence) for sequence in proteins.sequences])
    kept = options.kept(lengths, f"{clusters_json}").tolist()
    return _Proteins(*([column[number] for number in kept] for column in proteins))


def _write(
    targets: list[Path],
    finals: list[Path],
    proteins: _Proteins,
    encoder: Encoder,
    options: EmbeddingOptions,
) -> dict[str, Any]:
    taxa, sequences, headers = proteins
    ids = [parse_header(header).sequence_id for header in headers]
    folder = targets[0].parent
    vectors = MatrixFile(folder / _VECTORS, finals[0], len(taxa), encoder.width)
    rows = per_residue = None
    if options.per_residue:
        lengths = np.array([len(sequence) for sequence in sequences])
        rows = all_residues(options.embedded_lengths(lengths))
        per_residue = MatrixFile(targets[2], finals[2], len(rows), encoder.width)
        write_table_once(_residue_table(taxa, headers, rows), targets[3], final=finals[3])
    counts, _ = fill_rows(
        sequences,
        ids,
        encoder,
        options,
        folder=folder,
        per_protein=vectors,
        per_residue=per_residue,
        residues=rows,
        description="embedding clusters",
    )
    norms = require_sound(vectors, lambda numbers: [ids[number] for number in numbers])
    if per_residue is not None and rows is not None:
        owners = rows.sequences
        require_sound(per_residue, lambda numbers: [ids[number] for number in owners[numbers]])
    embedded = EmbeddedClusters(taxa, sequences, headers, np.load(vectors.path, mmap_mode="r"))
    # Only now it is known what room this takes; where there is none, the vectors are kept.
    writers = (write_embedded_json, write_embedded_table)
    for path, final, write in zip(targets, finals, writers, strict=False):
        with storage.naming_full_disk(final, ResumableError), storage.publish(path) as temporary:
            write(temporary, embedded)
    return {
        "proteins": len(taxa),
        "taxa": len(set(taxa)),
        "width": encoder.width,
        **counts._asdict(),
        **norms._asdict(),
    }


def _residue_table(taxa: list[str], headers: list[str], rows: ResidueRows) -> pl.DataFrame:
    proteins = pl.DataFrame(
        {"protein": np.arange(len(taxa), dtype=np.int32), "taxon": taxa, "header": headers}
    )
    return proteins[pl.Series(rows.sequences)].with_columns(position=rows.positions + 1)
