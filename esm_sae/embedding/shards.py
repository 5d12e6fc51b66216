"""Embedding a FASTA file into shards."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.embedding.encoder import Encoder
from esm_sae.embedding.matrices import MatrixFile
from esm_sae.embedding.options import EmbeddingOptions
from esm_sae.embedding.residues import ResidueRows, drawn_residues
from esm_sae.embedding.rows import Computed, fill_rows
from esm_sae.embedding.tables import row_table, write_table_once
from esm_sae.embedding.validation import Norms, names_in, require_rows_of, require_sound
from esm_sae.errors import InputError
from esm_sae.formats.fasta import read_at
from esm_sae.formats.manifest import Product, identity_of, produce_files
from esm_sae.formats.sequence_index import scan_index
from esm_sae.formats.shards import (
    EMBEDDINGS,
    publish_manifest,
    shard_bounds,
    shard_key,
    shard_paths,
)

_ALGORITHM = "embedding 2"
_SEQUENCES_PER_SHARD = 16_384
_MOST_SHARD_BYTES = 1_000_000_000


@dataclass(frozen=True)
class ShardResult:
    """A shard that was made or found.

    Attributes:
        product: its files and manifest.
        seconds: time of this call.
        residues: residues that went through the encoder in this call, those in two windows
            twice; 0 where the shard was there already.
        batches: forward passes of this call.
        resumed: share of the residues that an earlier, killed call had computed, 0 to 1.
        padding_share: share of the tokens computed in this call that were PAD.
        batch_tokens: the token budget of a batch in the end: less than was asked for where
            memory ran out; 0 where the shard was there already.
    """

    product: Product
    seconds: float
    residues: int
    batches: int
    resumed: float
    padding_share: float
    batch_tokens: int


@dataclass(frozen=True)
class _Source:
    fasta: storage.PathLike
    state: tuple[int, ...]
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
    left as it is; one that a killed call left unfinished is gone on with. Memory is bounded by
    the encoder, one batch, the shard's sequences and its row table.

    Raises:
        InputError: the FASTA cannot be used or has fewer sequences than shards, every sequence
            is skipped, the disk is full, a sequence does not fit into the device's memory, or an
            embedding is not sound (the sequences are named). No file of the shard is left
            behind, but for a ``ResumableError`` the finished batches.
    """
    source = _open_source(fasta)
    return _embed_shard(source, Path(directory), shard, count, encoder, options)


def embed_fasta(
    fasta: storage.PathLike,
    directory: storage.PathLike,
    *,
    encoder: Encoder,
    options: EmbeddingOptions,
    sequences_per_shard: int | None = None,
) -> Product:
    """Embed a FASTA file into as many shards as it needs, then publish their common manifest.

    Args:
        fasta: plain or compressed FASTA file, or its URL.
        directory: where the shards go.
        encoder: the encoder.
        options: what the rows are to be.
        sequences_per_shard: most sequences of a shard; None takes 16,384, or fewer where a
            matrix of a shard would be larger than 1 GB.

    Raises:
        InputError: as ``embed_shard``; or the folder holds shards of another count.
    """
    source = _open_source(fasta)
    count = _shard_count(source, encoder, options, sequences_per_shard)
    # Of two calls at once the second waits: it would replace the first one's shards.
    with storage.locked(directory):
        refuse_other_counts(Path(directory), count)
        for shard in range(count):
            _embed_shard(source, Path(directory), shard, count, encoder, options)
        return publish_manifest(directory, count=count)


def _open_source(fasta: storage.PathLike) -> _Source:
    state = storage.state_of(fasta)
    # The index first: it refuses a folder, whose manifest identity_of would ask for.
    proteins = scan_index(fasta)
    count = proteins.select(pl.len()).collect().item()
    return _Source(fasta, state, identity_of(fasta), proteins, count)


def _require_unchanged(source: _Source) -> None:
    if storage.state_of(source.fasta) != source.state:
        raise InputError(
            f"{source.fasta}: was written to while it was read; run it again when it is whole"
        )


def _shard_count(
    source: _Source, encoder: Encoder, options: EmbeddingOptions, sequences_per_shard: int | None
) -> int:
    if sequences_per_shard is not None:
        if sequences_per_shard < 1:
            raise InputError(f"sequences_per_shard {sequences_per_shard}: expected 1 or more")
        return -(-source.count // sequences_per_shard)
    least = -(-source.count // _SEQUENCES_PER_SHARD)
    if not options.per_residue:
        return least
    lengths = source.proteins.select("length").collect()["length"].to_numpy()
    rows = options.embedded_lengths(lengths.astype(np.int64))
    if options.residues_per_protein is not None:
        rows = np.minimum(rows, options.residues_per_protein)
    ends = np.concatenate([[0], np.cumsum(rows)])
    most = _MOST_SHARD_BYTES // (encoder.width * np.dtype(options.dtype).itemsize)
    count = max(least, -(-int(ends[-1]) // most))
    while count < source.count and _largest(ends, count) > most:
        # Steps of a hundredth: one at a time would take minutes where there are many shards.
        count = min(source.count, count + max(1, count // 100))
    return count


def _largest(ends: np.ndarray, count: int) -> int:
    """Return the rows of the largest of ``count`` shards."""
    firsts, lasts = shard_bounds(np.arange(count), count, len(ends) - 1)
    return int((ends[lasts] - ends[firsts]).max())


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
    paths = shard_paths(directory, shard, count, with_means=options.per_residue)
    computed = Computed()

    def build(targets: list[Path]) -> dict[str, Any]:
        nonlocal computed
        summary, computed = _write_shard(
            source, proteins, targets, paths, encoder, options, name=shard_key(shard, count)
        )
        return summary

    product = produce_files(
        paths,
        manifest=paths[0].with_suffix(".json"),
        kind="embedding_shard",
        determinants={
            "provenance": asdict(options.provenance(encoder)),
            "options": options.determinants(encoder),
            "source": source.sha256,
            "shard": [shard, count],
            "algorithm": _ALGORITHM,
        },
        build=build,
        resumable=True,
    )
    return ShardResult(product, time.monotonic() - started, *computed)


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
    source: _Source,
    proteins: pl.DataFrame,
    targets: list[Path],
    finals: list[Path],
    encoder: Encoder,
    options: EmbeddingOptions,
    *,
    name: str,
) -> tuple[dict[str, Any], Computed]:
    every = len(proteins)
    proteins = proteins[
        options.kept(proteins["length"].to_numpy(), f"{source.fasta}: shard {name}")
    ]
    sequences = [record.sequence for record in read_at(source.fasta, proteins["offset"].to_list())]
    _require_unchanged(source)
    files = _matrix_files(targets, finals, proteins, encoder, options)
    # The tables first, so that a full disk is known before anything is computed.
    for file in files:
        write_table_once(row_table(proteins, file.residues), file.table, final=file.final_table)
    counts, computed = fill_rows(
        sequences,
        proteins["sequence_id"].to_list(),
        encoder,
        options,
        folder=targets[0].parent,
        per_protein=files[-1].matrix,
        per_residue=files[0].matrix if options.per_residue else None,
        residues=files[0].residues,
        description=f"embedding shard {name}",
    )
    norms = [file.require_sound() for file in files]
    summary = {
        "rows": files[0].matrix.rows,
        "width": encoder.width,
        "proteins": len(proteins),
        "skipped": every - len(proteins),
        **counts._asdict(),
        **norms[0]._asdict(),
    }
    return summary, computed


@dataclass(frozen=True)
class _ShardFile:
    """A matrix with its row table."""

    matrix: MatrixFile
    table: Path
    final_table: Path
    residues: ResidueRows | None

    def require_sound(self) -> Norms:
        require_rows_of(self.table, self.matrix.rows, file=self.final_table)
        return require_sound(self.matrix, names_in(self.table))


def _matrix_files(
    targets: list[Path],
    finals: list[Path],
    proteins: pl.DataFrame,
    encoder: Encoder,
    options: EmbeddingOptions,
) -> list[_ShardFile]:
    """Return the residues' matrix, where rows are residues, then that of the proteins."""
    rows: list[ResidueRows | None] = [None]
    if options.per_residue:
        drawn = drawn_residues(
            options.embedded_lengths(proteins["length"].to_numpy()),
            options.residues_per_protein,
            ids=proteins["sequence_id"].to_list(),
            seed=options.seed,
        )
        rows = [drawn, None]
    files = []
    for number, residues in enumerate(rows):
        path, table = targets[2 * number : 2 * number + 2]
        final, final_table = finals[2 * number : 2 * number + 2]
        count = len(proteins) if residues is None else len(residues)
        matrix = MatrixFile(path, final, count, encoder.width, options.dtype)
        files.append(_ShardFile(matrix, table, final_table, residues))
    return files


def refuse_other_counts(directory: Path, count: int) -> None:
    """Refuse a folder that holds shards of a split into another number.

    Raises:
        InputError: it holds one; it is named.
    """
    if not directory.is_dir():
        return
    for path in storage.list_files(directory, f"{EMBEDDINGS}_*-of-*.npy"):
        if not path.stem.endswith(f"-of-{count:04d}"):
            raise InputError(
                f"{path}: a shard of another split, {count} shards are to be written; name an "
                "empty folder or remove it"
            )
