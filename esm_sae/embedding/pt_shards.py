"""Converting .pt files to embedding shards, where it is known what their rows are."""

import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.embedding.encoder import canonical_layer
from esm_sae.embedding.encoders import known_size
from esm_sae.embedding.matrices import MatrixFile
from esm_sae.embedding.options import POOLINGS
from esm_sae.embedding.pt_files import PtFile, open_pt_folder
from esm_sae.embedding.pt_matrices import ConversionReport, appending
from esm_sae.embedding.pt_order import are_in_place, trouble_with
from esm_sae.embedding.residues import all_residues
from esm_sae.embedding.shards import refuse_other_counts
from esm_sae.embedding.tables import row_table, write_table
from esm_sae.embedding.validation import names_in, require_sound
from esm_sae.errors import InputError
from esm_sae.formats.manifest import identity_of, produce_files
from esm_sae.formats.sequence_index import scan_index
from esm_sae.formats.shards import Provenance, publish_manifest, shard_key, shard_paths
from esm_sae.progress import progress

_ALGORITHM = "pt to shards 1"
_MOST_LAYER = 10_000


def convert_pt_to_shards(
    input_dir: storage.PathLike,
    output_dir: storage.PathLike,
    *,
    fasta: storage.PathLike,
    encoder: str,
    layer: int,
    pooling: str,
) -> ConversionReport:
    """Convert the ``.pt`` files of a folder, each to one embedding shard.

    The files' rows, in the order of ``open_pt_folder``, are the proteins of a FASTA file in its
    order, or with ``pooling="residue"`` all residues of all of them. The shards are as
    ``embed_fasta`` writes them, means of residue rows included; the hash of the weights and the
    precision are unknown. They are float16 where all files are, else float32. Memory is bounded
    as in ``convert_pt``, beside the lengths of all proteins and the row table of one shard. A
    rerun goes on behind the last whole shard.

    Warns where one of ``start_idx`` and ``end_idx`` does not fit while the other does.

    Args:
        input_dir: folder of ``.pt`` files, as ``open_pt`` reads them.
        output_dir: folder of the shards.
        fasta: the sequences that were embedded, all of them and no others.
        encoder: name of the encoder.
        layer: layer 0..B as in ``Encoder.layer_number``; -1 is the last one of an encoder of
            this package.
        pooling: what a row is, as in ``EmbeddingOptions``.

    Raises:
        InputError: a file holds anything else or rows that are not sound; files and FASTA differ
            in their counts; a protein's residues are in two files; the files' numbers overlap or
            leave gaps; the rows are not as wide as the encoder's, or there is no such layer.
    """
    provenance = _provenance(encoder, layer, pooling)
    files = open_pt_folder(input_dir)
    _require_width(files, encoder)
    # The index before the hash: it refuses a folder, whose manifest identity_of would ask for.
    proteins = scan_index(fasta)
    bounds = _protein_bounds(files, proteins, f"{input_dir}", f"{fasta}", pooling == "residue")
    _require_places(files, np.diff(bounds).tolist())
    refuse_other_counts(Path(output_dir), len(files))
    determinants = {
        "provenance": asdict(provenance),
        "options": {"pooling": pooling, "dtype": _dtype_of(files)},
        "source": identity_of(fasta),
        # Of all files, since shards of one whole may differ in nothing but their number.
        "files": [[file.path.name, identity_of(file.path)] for file in files],
        "algorithm": _ALGORITHM,
    }
    for shard, file in enumerate(files):
        chosen = proteins.slice(bounds[shard], bounds[shard + 1] - bounds[shard])
        _convert(file, chosen, Path(output_dir), (shard, len(files)), determinants)
    product = publish_manifest(output_dir, count=len(files))
    return ConversionReport(product, len(files), product.manifest.summary["rows"])


def _provenance(encoder: str, layer: int, pooling: str) -> Provenance:
    if pooling not in POOLINGS:
        raise InputError(f"pooling '{pooling}': expected one of {', '.join(POOLINGS)}")
    if encoder in ("", "unknown") or not encoder.isprintable():
        raise InputError(f"encoder '{encoder}': name the one that made the rows")
    size = known_size(encoder)
    if size is not None:
        layer = canonical_layer(layer, encoder, size.blocks)
    elif layer < 0:
        raise InputError(
            f"layer {layer}: how many layers {encoder} has is not known here; give the layer's "
            "own number, from 0"
        )
    elif layer > _MOST_LAYER:
        raise InputError(f"layer {layer}: no encoder has so many; give 0 to {_MOST_LAYER:,}")
    return Provenance(encoder=encoder, layer=layer, pooling=pooling)


def _require_width(files: list[PtFile], encoder: str) -> None:
    size = known_size(encoder)
    width, whose = (files[0].width, files[0].path.name) if size is None else (size.width, encoder)
    for file in files:
        if file.width != width:
            raise InputError(
                f"{file.path}: rows are {file.width} wide, those of {whose} are {width}"
            )


def _protein_bounds(
    files: list[PtFile], proteins: pl.LazyFrame, folder: str, fasta: str, per_residue: bool
) -> list[int]:
    """Return the number of each file's first protein, and the number of proteins at the end."""
    lengths = proteins.select("length").collect()["length"].to_numpy()
    rows_of = lengths.astype(np.int64) if per_residue else np.ones(len(lengths), np.int64)
    ends_of_proteins = np.cumsum(rows_of)
    ends_of_files = np.cumsum([file.rows for file in files])
    rows, expected = int(ends_of_files[-1]), int(ends_of_proteins[-1])
    if rows != expected:
        raise InputError(
            f"{folder}: its {len(files)} files hold {rows:,} rows, {fasta} has {expected:,} "
            f"{'residues' if per_residue else 'sequences'}; name the FASTA file and the pooling "
            "that they were embedded with"
        )
    last = np.searchsorted(ends_of_proteins, ends_of_files)
    for file, protein, end in zip(files, last.tolist(), ends_of_files.tolist(), strict=True):
        if ends_of_proteins[protein] != end:
            name = proteins.select("sequence_id").slice(protein, 1).collect().item()
            raise InputError(
                f"{file.path}: ends among the residues of {name}, and shards hold whole proteins; "
                "join this file with the next, or embed the sequences again"
            )
    return [0, *(last + 1).tolist()]


def _require_places(files: list[PtFile], proteins: list[int]) -> None:
    """Check the files' numbers, which count rows, or proteins though rows are residues."""
    rows = [file.rows for file in files]
    trouble = trouble_with(files, rows, first=0)
    if trouble is None or trouble_with(files, proteins, first=0) is None:
        return
    if not (are_in_place(files, rows) or are_in_place(files, proteins)):
        raise InputError(
            f"{trouble}; the files are not all there, or not the rows of the FASTA file in order"
        )
    warnings.warn(
        f"{trouble}; the other numbers and all counts fit, and the files are taken in that order",
        stacklevel=3,
    )


def _dtype_of(files: list[PtFile]) -> str:
    return "float16" if all(file.dtype == np.float16 for file in files) else "float32"


def _convert(
    file: PtFile,
    proteins: pl.LazyFrame,
    folder: Path,
    shard: tuple[int, int],
    determinants: dict[str, Any],
) -> None:
    paths = shard_paths(folder, *shard, with_means=determinants["options"]["pooling"] == "residue")

    def build(targets: list[Path]) -> dict[str, Any]:
        dtype = determinants["options"]["dtype"]
        description = f"converting {file.path.name} to shard {shard_key(*shard)}"
        return _write_shard(file, proteins.collect(), targets, paths, dtype, description)

    produce_files(
        paths,
        manifest=paths[0].with_suffix(".json"),
        kind="embedding_shard",
        determinants=determinants | {"shard": list(shard)},
        build=build,
    )


def _write_shard(
    file: PtFile,
    proteins: pl.DataFrame,
    targets: list[Path],
    finals: list[Path],
    dtype: str,
    description: str,
) -> dict[str, Any]:
    lengths = proteins["length"].to_numpy()
    matrix = MatrixFile(targets[0], finals[0], file.rows, file.width, dtype)
    matrices, tables = [matrix], targets[1::2]
    # The tables first, so that a full disk is known before anything is copied.
    if len(tables) == 1:
        write_table(row_table(proteins), tables[0], final=finals[1])
        _copy(file, matrix, description)
    else:
        residues = all_residues(lengths)
        write_table(row_table(proteins, residues), tables[0], final=finals[1])
        write_table(row_table(proteins), tables[1], final=finals[3])
        means = MatrixFile(targets[2], finals[2], len(proteins), file.width, dtype)
        _copy_with_means(file, matrix, means, residues.counts, description)
        matrices.append(means)
    norms = [
        require_sound(made, names_in(table)) for made, table in zip(matrices, tables, strict=True)
    ]
    return {
        "rows": file.rows,
        "width": file.width,
        "proteins": len(proteins),
        "residues": int(lengths.sum()),
        **norms[0]._asdict(),
    }


def _copy(file: PtFile, matrix: MatrixFile, description: str) -> None:
    with (
        appending(matrix) as append,
        progress(file.rows, unit="rows", description=description) as shown,
    ):
        for rows in file.read(file.chunks()):
            append(rows)
            shown.update(len(rows))


def _copy_with_means(
    file: PtFile, matrix: MatrixFile, means: MatrixFile, counts: np.ndarray, description: str
) -> None:
    """Copy residue rows, ``counts`` of each protein, and write the mean of each protein's."""
    ends = np.cumsum(counts)
    groups = list(_groups(ends, file.rows_per_chunk))
    bounds = [(int(ends[group][0] - counts[group][0]), int(ends[group][-1])) for group in groups]
    with (
        appending(matrix) as append,
        appending(means) as append_means,
        progress(file.rows, unit="rows", description=description) as shown,
    ):
        for group, (first, _), rows in zip(groups, bounds, file.read(bounds), strict=True):
            append(rows)
            starts = ends[group] - counts[group] - first
            sums = np.add.reduceat(rows.astype(np.float64), starts, axis=0)
            append_means(sums / counts[group, None])
            shown.update(len(rows))


def _groups(ends: np.ndarray, most: int) -> Iterator[slice]:
    """Yield runs of proteins with at most ``most`` rows each, or of one protein with more."""
    start = behind = 0
    while start < len(ends):
        stop = max(start + 1, int(np.searchsorted(ends, behind + most, side="right")))
        yield slice(start, stop)
        start, behind = stop, int(ends[stop - 1])
