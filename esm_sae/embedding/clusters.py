"""Embedding the sampled sequences of taxa."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.embedding.encoders import Encoder
from esm_sae.embedding.matrices import MatrixFile
from esm_sae.embedding.options import EmbeddingOptions
from esm_sae.embedding.residues import ResidueRows, all_residues
from esm_sae.embedding.rows import fill_rows
from esm_sae.embedding.tables import write_table_once
from esm_sae.embedding.tokens import Vocabulary
from esm_sae.embedding.validation import require_sound
from esm_sae.errors import InputError, ResumableError
from esm_sae.formats.clusters_json import (
    EmbeddedClusters,
    encode_embedded,
    read_sequences,
)
from esm_sae.formats.headers import parse_header
from esm_sae.formats.manifest import Product, identity_of, manifest_beside, produce_files

_ALGORITHM = "embedded clusters 2"
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
    where ``embedding`` is the protein's row of the options' pooling. With residue rows it is the
    mean, and ``<stem>.residues.npy`` is written too, the rows of all residues of these proteins,
    (R, D) float32, with ``<stem>.residues.parquet``: protein (its number in the order of the
    JSON, from 0), taxon, header, position (from 1). All residues, whatever
    ``residues_per_protein`` says: an SAE of residues is max-pooled over the whole protein.
    ``dtype`` is not used either. Sequences that the options skip are left out, and so is a taxon
    that loses all. A killed call is gone on with, and so is one that had no room for the JSON.

    Raises:
        InputError: the JSON has another shape, a sequence cannot be embedded (the record is
            named), all are skipped, the disk is full, or an embedding is not sound.
    """
    target = Path(output_json)
    if options.per_residue and target.suffix != ".json":
        raise InputError(
            f"{target}: files of residues are named after it; give it a name that ends in .json"
        )
    every = _proteins(clusters_json, encoder.backbone.vocabulary)
    proteins = _kept(every, options, clusters_json)
    paths = [target]
    if options.per_residue:
        paths += [target.with_suffix(".residues.npy"), target.with_suffix(".residues.parquet")]

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


class _Proteins(NamedTuple):
    taxa: list[str]
    sequences: list[str]
    headers: list[str]


def _proteins(clusters_json: storage.PathLike, vocabulary: Vocabulary) -> _Proteins:
    proteins = _Proteins([], [], [])
    for taxon, members in read_sequences(clusters_json).items():
        for number, (sequence, header) in enumerate(members):
            name = f"{clusters_json}: entry {number + 1} of cluster '{taxon}'"
            vocabulary.require_residues(sequence, name)
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
        per_residue = MatrixFile(targets[1], finals[1], len(rows), encoder.width)
        write_table_once(_residue_table(taxa, headers, rows), targets[2], final=finals[2])
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
    with storage.naming_full_disk(finals[0], ResumableError):
        storage.publish_bytes(targets[0], encode_embedded(embedded))
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
