"""A second look at the source and at samples, on the disk: what those hold that pass."""

import itertools
from pathlib import Path
from typing import NamedTuple

import polars as pl

from esm_sae.errors import InputError
from esm_sae.formats.fasta import read_at, read_fasta
from esm_sae.formats.headers import parse_header
from esm_sae.formats.manifest import Product
from esm_sae.formats.sequence_index import SCHEMA, index_path
from esm_sae.formats.verification import (
    AGAIN,
    lacking,
    refuse_rows,
    require_equal,
    require_files,
    scan_table,
    seeded_runs,
)
from esm_sae.sequences.source import provided_source

_RECORDS_READ = 64
_RUNS, _RUN = 8, 8


class SoundSource(NamedTuple):
    """What is known of a source that can be read.

    Attributes:
        location: its path or URL.
        files: files that its manifest names.
        records_read: of its first records, those that were read.
        first_record: id of the first.
    """

    location: str
    files: int
    records_read: int
    first_record: str


class SoundSample(NamedTuple):
    """What is known of a sample whose index and FASTA agree.

    Attributes:
        read: records of its source.
        sampled: records of the sample.
        residues: of all of them.
        shortest: residues of the shortest record.
        longest: residues of the longest one.
        records_compared: records, drawn by a fixed seed, that were read from the FASTA and
            compared with the index.
    """

    read: int
    sampled: int
    residues: int
    shortest: int
    longest: int
    records_compared: int


def verify_source(product: Product) -> SoundSource:
    """Check that a provided source is as its manifest says and reads as FASTA.

    Args:
        product: as ``provide_source`` made it.

    Raises:
        InputError: it is not.
    """
    source = provided_source(product.manifest_path.parent)
    files = require_files(product)
    first = list(itertools.islice(read_fasta(source.location), _RECORDS_READ))
    return SoundSource(
        source.location, files, len(first), parse_header(first[0].header).sequence_id
    )


def verify_sample(sample: Product) -> SoundSample:
    """Check that a sample's counts add up and that its index fits its FASTA.

    All rows of the index are looked at, and some 64 records of the FASTA, drawn by a fixed seed.

    Args:
        sample: as ``sample_fasta`` made it.

    Raises:
        InputError: they do not.
    """
    require_files(sample)
    counts, chosen = sample.manifest.summary, sample.manifest.determinants
    path = index_path(sample.path)
    index = scan_table(path, SCHEMA)
    length, longest = pl.col("length"), chosen["max_length"]
    rows = refuse_rows(
        path,
        index,
        {
            **lacking("sequence_id"),
            "are shorter than the least length": length < chosen["min_length"],
            **({} if longest is None else {"are longer than the most": length > longest}),
            "do not stand in the order of the file": pl.col("offset").diff() <= 0,
        },
        named_by=["sequence_id", "length"],
    )
    totals = index.select(
        pl.col("length").cast(pl.Int64).sum().alias("sum"),
        pl.col("length").min().alias("min"),
        pl.col("length").max().alias("max"),
    )
    found = totals.collect(engine="streaming").row(0, named=True)
    dropped = sum(counts["dropped"].values())
    require_equal(
        path,
        {
            "records": (rows, counts["sampled"]),
            "residues": (found["sum"], counts["residues_sampled"]),
            "records read": (counts["read"], counts["passing"] + dropped),
            "records that pass": (counts["passing"], rows + counts["not_drawn"]),
        },
    )
    compared = _require_records(sample.path, path, rows)
    return SoundSample(counts["read"], rows, found["sum"], found["min"], found["max"], compared)


def _require_records(fasta: Path, index: Path, rows: int) -> int:
    table = seeded_runs(pl.scan_parquet(index), rows, runs=_RUNS, length=_RUN)
    records = read_at(fasta, table["offset"].to_numpy())
    for row, record in zip(table.iter_rows(named=True), records, strict=True):
        if (record.header, len(record.sequence)) != (row["header"], row["length"]):
            raise InputError(
                f"{index}: says {row['sequence_id']} of {row['length']} residues where "
                f"{fasta.name} has another record; {AGAIN}"
            )
    return len(table)
