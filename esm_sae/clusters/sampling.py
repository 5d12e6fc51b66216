"""Samples of equal size from the large clusters."""

import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.clusters.tables import ClusterTable, by_size, identity_of_file, is_table, open_table
from esm_sae.errors import InputError
from esm_sae.formats.clusters_json import (
    NOISE,
    SequencesByCluster,
    encode_sequences,
    read_sequences,
)
from esm_sae.formats.manifest import Product, manifest_beside, produce_files

_ALGORITHM = "subsample-1"
_LARGEST = 10


def subsample_clusters(
    clusters: storage.PathLike,
    output_json: storage.PathLike,
    *,
    fasta: storage.PathLike | None = None,
    min_size: int,
    per_cluster: int,
    min_length: int = 1,
    max_length: int | None = None,
    seed: int = 0,
) -> Product:
    """Draw members of every large enough cluster; write ``{cluster: [[sequence, header], ...]}``.

    Members are drawn uniformly, without replacement, by a generator seeded with ``seed`` and
    the cluster's name: another cluster more or less changes nothing in the others. A cluster
    JSON and a table with its FASTA give the same bytes. Clusters stand largest first, ties by
    name, members in file order. Noise (``"-1"``) is skipped.

    Args:
        clusters: cluster JSON, or cluster table (parquet).
        output_json: the file to write.
        fasta: for a table, the FASTA with the sequences; by default the one recorded in it.
        min_size: members within the length range that a cluster must have.
        per_cluster: members drawn of each; a cluster that has fewer gives all.
        min_length: shortest sequence counted, in residues.
        max_length: longest sequence counted, in residues; None for no limit.
        seed: of the draw.

    Raises:
        InputError: an option is out of range, the input cannot be used, or no cluster is large
            enough (the largest size is named).
    """
    _require_range("min_size", min_size, 1)
    _require_range("per_cluster", per_cluster, 1)
    _require_range("min_length", min_length, 1)
    if max_length is not None:
        _require_range("max_length", max_length, min_length)
    target = Path(output_json)
    load, inputs = _source(clusters, fasta)

    def build(temporaries: list[Path]) -> dict[str, Any]:
        members = load()
        named = members.rows.with_row_index("row").filter(pl.col("cluster") != NOISE)
        longest = named["length"].max() if max_length is None else max_length
        counted = named.filter(pl.col("length").is_between(min_length, longest))
        sizes = by_size(counted)
        kept = sizes.filter(pl.col("size") >= min_size)
        if kept.is_empty():
            raise _none_large_enough(clusters, sizes, min_size)
        sample = _draw(counted, kept, members, per_cluster, seed)
        temporaries[0].write_bytes(encode_sequences(sample))
        return {
            "clusters": len(sample),
            "dropped_clusters": named["cluster"].n_unique() - len(kept),
            "sequences": sum(len(pairs) for pairs in sample.values()),
            "incomplete_clusters": sum(len(pairs) < per_cluster for pairs in sample.values()),
            "outside_length_range": len(named) - len(counted),
            "noise": len(members.rows) - len(named),
            "largest": kept.head(_LARGEST).to_dicts(),
        }

    options = {
        "min_size": min_size,
        "per_cluster": per_cluster,
        "min_length": min_length,
        "max_length": max_length,
    }
    return produce_files(
        [target],
        manifest=manifest_beside(target),
        kind="cluster_sample",
        determinants={**inputs, "options": options, "seed": seed, "algorithm": _ALGORITHM},
        build=build,
    )


class _Members(NamedTuple):
    """Members of clusters, and how to get their sequences.

    Attributes:
        rows: cluster and length of each member.
        pairs: gives (sequence, header) of the members with the given row numbers, in that order.
    """

    rows: pl.DataFrame
    pairs: Callable[[list[int]], list[tuple[str, str]]]


def _source(
    clusters: storage.PathLike, fasta: storage.PathLike | None
) -> tuple[Callable[[], _Members], dict[str, str]]:
    """Return how the members are loaded, and the hashes of the files they come from."""
    inputs = {"clusters": identity_of_file(clusters)}
    if is_table(clusters):
        table = open_table(clusters, fasta)
        return lambda: _of_table(table), {**inputs, "fasta": table.fasta_sha256}
    if fasta is not None:
        raise InputError(
            f"{os.fspath(clusters)}: a JSON of clusters holds its sequences; leave out --fasta"
        )
    return lambda: _of_json(clusters), inputs


def _of_json(path: storage.PathLike) -> _Members:
    clusters = read_sequences(path)
    names = [name for name, members in clusters.items() for _ in members]
    pairs = [pair for members in clusters.values() for pair in members]
    lengths = [len(sequence) for sequence, _ in pairs]
    rows = pl.DataFrame(
        {"cluster": names, "length": lengths}, schema={"cluster": pl.String, "length": pl.Int32}
    )
    return _Members(rows, lambda chosen: [pairs[row] for row in chosen])


def _of_table(table: ClusterTable) -> _Members:
    located = table.located()

    def pairs(chosen: list[int]) -> list[tuple[str, str]]:
        found = dict(table.records(located[chosen]))
        return [(found[row].sequence, found[row].header) for row in range(len(chosen))]

    return _Members(located.select("cluster", "length"), pairs)


def _draw(
    counted: pl.DataFrame, kept: pl.DataFrame, members: _Members, per_cluster: int, seed: int
) -> SequencesByCluster:
    names = kept["cluster"].to_list()
    large = counted.filter(pl.col("cluster").is_in(names))
    rows_of = dict(large.group_by("cluster").agg("row").iter_rows())
    chosen = {name: _draw_rows(rows_of[name], per_cluster, seed, name) for name in names}
    pairs = iter(members.pairs([row for name in names for row in chosen[name]]))
    return {name: list(itertools.islice(pairs, len(chosen[name]))) for name in names}


def _draw_rows(rows: list[int], count: int, seed: int, cluster: str) -> list[int]:
    if len(rows) <= count:
        return rows
    digest = hashlib.blake2b(f"{seed}:{cluster}".encode(), digest_size=16).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "big"))
    drawn = generator.choice(len(rows), size=count, replace=False, shuffle=False)
    return [rows[position] for position in np.sort(drawn)]


def _none_large_enough(
    clusters: storage.PathLike, sizes: pl.DataFrame, min_size: int
) -> InputError:
    if sizes.is_empty():
        largest = "there is no member at all in the length range outside noise"
    else:
        name, size = sizes.row(0)
        largest = f"the largest, '{name[:60]}', has {size}"
    return InputError(
        f"{os.fspath(clusters)}: no cluster has {min_size} members in the length range, "
        f"{largest}; lower --min_size"
    )


def _require_range(option: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{option} is {value}; it must be at least {least}")
