"""A second look at taxon clusters and the samples of them: what those hold that pass."""

from pathlib import Path
from typing import NamedTuple

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.clusters_json import Member, read_sequences
from esm_sae.formats.json_lists import entry_of
from esm_sae.formats.manifest import Product
from esm_sae.formats.verification import (
    AGAIN,
    lacking,
    refuse_rows,
    require_equal,
    require_files,
    scan_table,
)

_SCHEMA = {
    "sequence_id": pl.String,
    "header": pl.String,
    "cluster": pl.String,
    "taxid": pl.Int64,
    "length": pl.Int32,
    "offset": pl.Int64,
}
_NO_COUNT_OF_RECORDS = ("records", "clustered", "clusters")


class SoundTaxa(NamedTuple):
    """What is known of a table of taxa that fits its statistics.

    Attributes:
        records: proteins of the sample.
        clustered: those that have a taxon, a row each.
        taxa: their number.
        largest: size of the largest.
    """

    records: int
    clustered: int
    taxa: int
    largest: int


class SoundSamples(NamedTuple):
    """What is known of taxon samples that are whole.

    Attributes:
        taxa: that were sampled.
        proteins: of all samples.
        per_taxon: proteins of each; fewer only where the manifest counts an incomplete one.
        shortest: residues of the shortest.
        longest: residues of the longest.
    """

    taxa: int
    proteins: int
    per_taxon: int
    shortest: int
    longest: int


def verify_taxa(product: Product, statistics: Path) -> SoundTaxa:
    """Check that the table of taxa, its statistics and its counts say the same.

    Args:
        product: as ``cluster_taxa`` made it.
        statistics: the JSON beside it.

    Raises:
        InputError: they do not.
    """
    require_files(product)
    summary = product.manifest.summary
    table = scan_table(product.path, _SCHEMA)
    wrong = lacking("sequence_id", "cluster") | {
        "have a length below 1": pl.col("length") < 1,
        "do not stand in the order of the FASTA": pl.col("offset").diff() <= 0,
    }
    rows = refuse_rows(product.path, table, wrong, named_by=["sequence_id", "cluster"])
    sizes = table.group_by("cluster").len("size").collect(engine="streaming")
    left_out = sum(
        count for name, count in _totals(statistics).items() if name not in _NO_COUNT_OF_RECORDS
    )
    largest = int(sizes["size"].max() or 0)  # pyright: ignore[reportArgumentType]
    require_equal(
        product.path,
        {
            "proteins with a taxon": (rows, summary["clustered"]),
            "proteins, and those left out": (rows + left_out, summary["records"]),
            "taxa": (len(sizes), summary["clusters"]),
            "proteins of the largest taxon": (largest, summary["sizes"]["max"]),
        },
    )
    return SoundTaxa(summary["records"], rows, len(sizes), largest)


def verify_samples(product: Product) -> SoundSamples:
    """Check that the sample of every taxon has its proteins, of the lengths that were wanted.

    Args:
        product: as ``subsample_clusters`` made it.

    Raises:
        InputError: one has not; the taxon is named.
    """
    require_files(product)
    summary, options = product.manifest.summary, product.manifest.determinants["options"]
    sizes: dict[str, int] = {}
    lengths = []
    for member in read_sequences(product.path):
        _require_member(product.path, member, options["min_length"], options["max_length"])
        sizes[member.cluster] = sizes.get(member.cluster, 0) + 1
        lengths.append(len(member.sequence))
    short = [name for name, size in sizes.items() if size < options["per_cluster"]]
    require_equal(
        product.path,
        {
            "taxa": (len(sizes), summary["clusters"]),
            "proteins": (len(lengths), summary["sequences"]),
            "taxa with fewer proteins than were wanted": (
                len(short),
                summary["incomplete_clusters"],
            ),
            "taxa with more": (sum(size > options["per_cluster"] for size in sizes.values()), 0),
        },
    )
    return SoundSamples(
        len(sizes), len(lengths), options["per_cluster"], min(lengths), max(lengths)
    )


def _require_member(path: Path, member: Member, shortest: int, longest: int | None) -> None:
    length = len(member.sequence)
    if length < shortest or (longest is not None and length > longest):
        raise InputError(
            f"{path}: {entry_of(member.cluster, member.number)} has {length} residues, expected "
            f"{shortest} to {'any' if longest is None else longest}; {AGAIN}"
        )


def _totals(statistics: Path) -> dict[str, int]:
    content = storage.read_json(statistics)
    totals = content.get("totals") if isinstance(content, dict) else None
    if not isinstance(totals, dict) or not all(type(count) is int for count in totals.values()):
        raise InputError(f"{statistics}: has no totals; {AGAIN}")
    return totals
