"""A second look at the embedded samples of taxa: what those hold that pass."""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from esm_sae.errors import InputError
from esm_sae.formats.clusters_json import read_sequences
from esm_sae.formats.embedded_clusters import read_embedded_table
from esm_sae.formats.json_lists import entry_of, read_entries
from esm_sae.formats.manifest import Product
from esm_sae.formats.shards import map_matrix
from esm_sae.formats.verification import (
    AGAIN,
    lacking,
    refuse_rows,
    require_equal,
    require_files,
    scan_table,
    seeded_rows,
)

_ENTRIES_COMPARED = 200
_RESIDUES_LOOKED_AT = 50_000


class SoundVectors(NamedTuple):
    """What is known of embedded samples whose vectors are sound.

    Attributes:
        proteins: that were embedded.
        taxa: that they are of.
        width: D.
        norm_min: least norm of a vector.
        norm_max: greatest.
        residue_rows: rows of their residues, 0 where a row is a protein.
        entries_compared: first entries of the JSON that are equal to the table's rows.
    """

    proteins: int
    taxa: int
    width: int
    norm_min: float
    norm_max: float
    residue_rows: int
    entries_compared: int


def verify_embedded(product: Product, sampled: Path) -> SoundVectors:
    """Check that the vectors are those of the sampled proteins, finite, and equal in both files.

    Of the JSON, which is large, the first 200 entries are compared with the table; of the
    residues' rows 50,000 are looked at, drawn by a fixed seed.

    Args:
        product: as ``embed_clusters`` made it.
        sampled: the samples of the taxa that were embedded.

    Raises:
        InputError: they are not.
    """
    require_files(product)
    summary, table = product.manifest.summary, product.path.with_suffix(".parquet")
    embedded = read_embedded_table(table)
    vectors = embedded.embeddings
    norms = np.linalg.norm(vectors, axis=1)
    zero = np.flatnonzero(norms == 0)
    if len(zero):
        raise InputError(f"{table}: the vector of {embedded.headers[zero[0]]} is zero; {AGAIN}")
    require_equal(
        table,
        {
            "proteins": (len(vectors), summary["proteins"]),
            "taxa": (len(set(embedded.taxa)), summary["taxa"]),
            "width": (vectors.shape[1], summary["width"]),
        },
    )
    _require_sampled(table, embedded.headers, summary["skipped"], sampled)
    entries = itertools.islice(read_entries(product.path), _ENTRIES_COMPARED)
    compared = 0
    for row, (taxon, number, entry) in enumerate(entries):
        own = (embedded.taxa[row], embedded.sequences[row], embedded.headers[row])
        same = (taxon, entry["sequence"], entry["header"]) == own
        if not same or not np.array_equal(np.float32(entry["embedding"]), vectors[row]):
            raise InputError(
                f"{product.path}: {entry_of(taxon, number)} differs from row {row} of "
                f"{table.name}; {AGAIN}"
            )
        compared += 1
    return SoundVectors(
        len(vectors),
        summary["taxa"],
        vectors.shape[1],
        round(float(norms.min()), 2),
        round(float(norms.max()), 2),
        _residue_rows(product),
        compared,
    )


def _require_sampled(table: Path, headers: list[str], skipped: int, sampled: Path) -> None:
    waiting = [member.header for member in read_sequences(sampled)]
    require_equal(table, {"proteins, and those skipped": (len(headers) + skipped, len(waiting))})
    order = iter(waiting)
    for header in headers:
        if header not in order:
            raise InputError(f"{table}: {header} does not stand there in {sampled.name}; {AGAIN}")


def _residue_rows(product: Product) -> int:
    """Check the rows of the residues, where there are any; return how many."""
    matrix = product.path.with_suffix(".residues.npy")
    if matrix.name not in product.manifest.files:
        return 0
    path, summary = product.path.with_suffix(".residues.parquet"), product.manifest.summary
    table = scan_table(path, ("protein", "taxon", "header", "position"))
    follows = (pl.col("position").diff() == 1) | (pl.col("position") == 1)
    wrong = {
        **lacking("header"),
        "are of a protein that is none": ~pl.col("protein").is_between(0, summary["proteins"] - 1),
        "do not follow the residue before": ~follows,
    }
    rows = refuse_rows(path, table, wrong, named_by=["protein", "position"])
    array = map_matrix(matrix)
    require_equal(matrix, {"shape": (array.shape, (rows, summary["width"]))})
    chosen = seeded_rows(rows, _RESIDUES_LOOKED_AT)
    norms = np.linalg.norm(array[chosen], axis=1)
    off = chosen[~np.isfinite(norms) | (norms == 0)]
    if len(off):
        raise InputError(f"{matrix}: row {off[0]} is zero or not finite; {AGAIN}")
    return rows
