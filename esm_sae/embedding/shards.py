"""Embedding a FASTA file into shards."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.embedding.encoders import Encoder
from esm_sae.embedding.options import EmbeddingOptions
from esm_sae.embedding.residues import chosen_positions
from esm_sae.embedding.rows import Embedded, create_matrix, fill_rows
from esm_sae.errors import InputError
from esm_sae.formats.fasta import read_at
from esm_sae.formats.manifest import Product, identity_of, produce_files
from esm_sae.formats.sequence_index import scan_index
from esm_sae.formats.shards import (
    EMBEDDINGS,
    MEANS,
    ROW_SCHEMA,
    publish_manifest,
    shard_bounds,
    shard_key,
    shard_name,
)

_ALGORITHM = "embedding 1"


@dataclass(frozen=True)
class ShardResult:
    """A shard that was made or found.

    Attributes:
        product: its files and manifest.
        seconds: time of this call.
        residues: residues embedded in this call; 0 where the shard was there already.
    """

    product: Product
    seconds: float
    residues: int


@dataclass(frozen=True)
class _Source:
    fasta: storage.PathLike
    sha256: str
    proteins: pl.LazyFrame
    count: int


def embed_shard(
    fasta: storage.PathLike,
    directory: storage.PathLike,
    *,
    shard: int,
    count: int,
    encoder: Encoder,
    options: EmbeddingOptions,
) -> ShardResult:
    """Embed one of ``count`` contiguous runs of a FASTA file's sequences.

    Writes ``embeddings_0007-of-0064.npy`` with its row table ``.parquet`` and its manifest
    ``.json``; with residue rows also ``means_0007-of-0064.npy`` and ``.parquet``, one row per
    protein, from the same forward pass. A shard that is there with the same determinants is
    left as it is.

    Raises:
        InputError: the FASTA cannot be used, has fewer sequences than shards, or an embedding
            is not finite (the sequences are named). No file of the shard is left behind.
    """
    source = _open_source(fasta)
    return _embed_shard(source, Path(directory), shard, count, encoder, options)


def embed_fasta(
    fasta: storage.PathLike,
    directory: storage.PathLike,
    *,
    encoder: Encoder,
    options: EmbeddingOptions,
    sequences_per_shard: int,
) -> Product:
    """Embed a FASTA file into as many shards as it needs, then publish their common manifest.

    Raises:
        InputError: as ``embed_shard``; or the folder holds shards of another count.
    """
    source = _open_source(fasta)
    if sequences_per_shard < 1:
        raise InputError(f"sequences_per_shard {sequences_per_shard}: expected 1 or more")
    count = -(-source.count // sequences_per_shard)
    _refuse_other_counts(Path(directory), count)
    for shard in range(count):
        _embed_shard(source, Path(directory), shard, count, encoder, options)
    return publish_manifest(directory, count=count)


def _open_source(fasta: storage.PathLike) -> _Source:
    # The index first: it refuses a folder, whose manifest identity_of would ask for.
    proteins = scan_index(fasta)
    count = proteins.select(pl.len()).collect().item()
    return _Source(fasta, identity_of(fasta), proteins, count)


def _embed_shard(
    source: _Source,
    directory: Path,
    shard: int,
    count: int,
    encoder: Encoder,
    options: EmbeddingOptions,
) -> ShardResult:
    started = time.monotonic()
    proteins = _proteins_of(source, shard, count)
    matrix = directory / f"{shard_name(shard, count)}.npy"
    paths = [matrix, matrix.with_suffix(".parquet")]
    if options.rows == "residue":
        means = directory / f"{shard_name(shard, count, MEANS)}.npy"
        paths += [means, means.with_suffix(".parquet")]

    def build(targets: list[Path]) -> dict[str, Any]:
        records = read_at(source.fasta, proteins["offset"].to_list())
        sequences = [record.sequence for record in records]
        return _write_shard(
            targets, proteins, sequences, encoder, options, name=shard_key(shard, count)
        )

    product = produce_files(
        paths,
        manifest=matrix.with_suffix(".json"),
        kind="embedding_shard",
        determinants={
            "provenance": asdict(options.provenance(encoder)),
            "options": options.determinants(),
            "source": source.sha256,
            "shard": [shard, count],
            "algorithm": _ALGORITHM,
        },
        build=build,
    )
    residues = 0 if product.unchanged else product.manifest.summary["residues"]
    return ShardResult(product, time.monotonic() - started, residues)


def _proteins_of(source: _Source, shard: int, count: int) -> pl.DataFrame:
    if not 0 <= shard < count:
        raise InputError(f"shard {shard}: expected 0 to {count - 1}, there are {count} shards")
    first, last = shard_bounds(shard, count, source.count)
    if first == last:
        raise InputError(
            f"{source.fasta}: {source.count} sequences are too few for {count} shards; "
            "set fewer shards"
        )
    return source.proteins.slice(first, last - first).collect()


def _write_shard(
    targets: list[Path],
    proteins: pl.DataFrame,
    sequences: Sequence[str],
    encoder: Encoder,
    options: EmbeddingOptions,
    *,
    name: str,
) -> dict[str, Any]:
    ids = proteins["sequence_id"].to_list()
    shape = {"width": encoder.width, "dtype": options.dtype}
    per_protein = _row_table(proteins, None)
    description = f"embedding shard {name}"
    if options.rows == "mean":
        matrix, table = targets
        means = create_matrix(matrix, len(proteins), **shape)
        embedded = fill_rows(sequences, ids, encoder, options, means=means, description=description)
        means.flush()
        per_protein.write_parquet(table)
        return _summary(embedded, len(proteins), means)
    matrix, table, means_matrix, means_table = targets
    positions = _positions(ids, sequences, options)
    residues = create_matrix(matrix, sum(map(len, positions)), **shape)
    means = create_matrix(means_matrix, len(proteins), **shape)
    embedded = fill_rows(
        sequences,
        ids,
        encoder,
        options,
        means=means,
        residues=residues,
        positions=positions,
        description=description,
    )
    residues.flush()
    means.flush()
    _row_table(proteins, positions).write_parquet(table)
    per_protein.write_parquet(means_table)
    return _summary(embedded, len(proteins), residues)


def _positions(
    ids: Sequence[str], sequences: Sequence[str], options: EmbeddingOptions
) -> list[np.ndarray]:
    return [
        chosen_positions(
            options.used_length(len(sequence)),
            options.residues_per_protein,
            sequence_id=sequence_id,
            seed=options.seed,
        )
        for sequence_id, sequence in zip(ids, sequences, strict=True)
    ]


def _row_table(proteins: pl.DataFrame, positions: list[np.ndarray] | None) -> pl.DataFrame:
    columns = [name for name in ROW_SCHEMA if name != "position"]
    if positions is None:
        return proteins.select(*columns, pl.lit(None, dtype=pl.Int32).alias("position"))
    repeats = [len(chosen) for chosen in positions]
    protein_of_row = np.repeat(np.arange(len(proteins)), repeats)
    numbers = np.concatenate(positions).astype(np.int32) + 1
    return proteins.select(columns)[protein_of_row].with_columns(position=numbers)


def _summary(embedded: Embedded, proteins: int, matrix: np.ndarray) -> dict[str, Any]:
    rows, width = matrix.shape
    return {"rows": rows, "width": width, "proteins": proteins, **embedded._asdict()}


def _refuse_other_counts(directory: Path, count: int) -> None:
    if not directory.is_dir():
        return
    for path in storage.list_files(directory, f"{EMBEDDINGS}_*-of-*.npy"):
        if not path.stem.endswith(f"-of-{count:04d}"):
            raise InputError(
                f"{path}: a shard of another split, {count} shards are to be written; name an "
                "empty folder or remove it"
            )
