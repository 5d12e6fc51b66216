"""Embedding the sampled sequences of taxa."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.embedding.encoders import Encoder
from esm_sae.embedding.options import EmbeddingOptions
from esm_sae.embedding.rows import create_matrix, fill_rows
from esm_sae.embedding.tokens import Vocabulary
from esm_sae.errors import InputError
from esm_sae.formats.clusters_json import (
    EmbeddedClusters,
    encode_embedded,
    read_sequences,
)
from esm_sae.formats.headers import parse_header
from esm_sae.formats.manifest import Product, identity_of, manifest_beside, produce_files

_ALGORITHM = "embedded clusters 1"


def embed_clusters(
    clusters_json: storage.PathLike,
    output_json: storage.PathLike,
    *,
    encoder: Encoder,
    options: EmbeddingOptions,
) -> Product:
    """Embed ``{taxon: [[sequence, header], ...]}`` into embedded clusters.

    Writes ``{taxon: [{"sequence", "header", "embedding"}, ...]}`` in the order of the input,
    where ``embedding`` is the mean over the protein's residues. With residue rows it also writes
    ``<stem>.residues.npy``, the rows of all residues of these proteins, (R, D) float32, and
    ``<stem>.residues.parquet``: protein (its number in the order of the JSON, from 0), taxon,
    header, position (from 1). All residues, whatever ``residues_per_protein`` says: an SAE of
    residues is max-pooled over the whole protein. ``dtype`` is not used either.

    Raises:
        InputError: the JSON has another shape, a sequence cannot be embedded (the record is
            named), or an embedding is not finite.
    """
    proteins = _proteins(clusters_json, encoder.backbone.vocabulary)
    target = Path(output_json)
    paths = [target]
    if options.rows == "residue":
        paths += [target.with_suffix(".residues.npy"), target.with_suffix(".residues.parquet")]

    def build(targets: list[Path]) -> dict[str, Any]:
        return _write(targets, proteins, encoder, options)

    return produce_files(
        paths,
        manifest=manifest_beside(target),
        kind="embedded_clusters",
        determinants={
            "provenance": asdict(options.provenance(encoder)),
            "batch_tokens": options.batch_tokens,
            "max_length": options.max_length,
            "clusters": identity_of(clusters_json),
            "algorithm": _ALGORITHM,
        },
        build=build,
    )


class _Proteins(NamedTuple):
    taxa: list[str]
    sequences: list[str]
    headers: list[str]


def _proteins(clusters_json: storage.PathLike, vocabulary: Vocabulary) -> _Proteins:
    proteins = _Proteins([], [], [])
    for taxon, members in read_sequences(clusters_json).items():
        for number, (sequence, header) in enumerate(members):
            try:
                vocabulary.encode(sequence)
            except InputError as error:
                where = f"entry {number + 1} of cluster '{taxon}'"
                raise InputError(f"{clusters_json}: {where}: {error}") from None
            proteins.taxa.append(taxon)
            proteins.sequences.append(sequence)
            proteins.headers.append(header)
    if not proteins.taxa:
        raise InputError(f"{clusters_json}: its clusters hold no sequence")
    return proteins


def _write(
    targets: list[Path], proteins: _Proteins, encoder: Encoder, options: EmbeddingOptions
) -> dict[str, Any]:
    taxa, sequences, headers = proteins
    means = np.empty((len(taxa), encoder.width), dtype=np.float32)
    residues = positions = None
    if options.rows == "residue":
        lengths = [options.used_length(len(sequence)) for sequence in sequences]
        positions = [np.arange(length) for length in lengths]
        residues = create_matrix(targets[1], sum(lengths), encoder.width)
    embedded = fill_rows(
        sequences,
        [parse_header(header).sequence_id for header in headers],
        encoder,
        options,
        means=means,
        residues=residues,
        positions=positions,
        description="embedding clusters",
    )
    targets[0].write_bytes(encode_embedded(EmbeddedClusters(taxa, sequences, headers, means)))
    if residues is not None and positions is not None:
        residues.flush()
        _residue_table(taxa, headers, positions).write_parquet(targets[2])
    return {
        "proteins": len(taxa),
        "taxa": len(set(taxa)),
        "width": encoder.width,
        **embedded._asdict(),
    }


def _residue_table(
    taxa: list[str], headers: list[str], positions: list[np.ndarray]
) -> pl.DataFrame:
    proteins = pl.DataFrame(
        {"protein": np.arange(len(taxa), dtype=np.int32), "taxon": taxa, "header": headers}
    )
    protein_of_row = np.repeat(np.arange(len(taxa)), [len(chosen) for chosen in positions])
    numbers = np.concatenate(positions).astype(np.int32) + 1
    return proteins[protein_of_row].with_columns(position=numbers)
