"""A second look at density clusters, their JSON and summary: what those hold that pass."""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from esm_sae.clusters.points import read_points
from esm_sae.errors import InputError
from esm_sae.formats.cluster_summary import SUMMARY_SCHEMA, map_path, read_map
from esm_sae.formats.clusters_json import read_sequences
from esm_sae.formats.manifest import Product
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.formats.verification import (
    AGAIN,
    lacking,
    outside,
    refuse_rows,
    require_equal,
    require_files,
    scan_table,
    seeded_rows,
)

_SCHEMA = {
    "sequence_id": pl.String,
    "header": pl.String,
    "cluster": pl.Int32,
    "probability": pl.Float64,
    "outlier_score": pl.Float64,
    "length": pl.Int32,
}
_POINTS, _MEMBERS = 10_000, 10_000
_TAIL_BYTES = 64


class SoundClusters(NamedTuple):
    """What is known of a table in which every embedded protein stands once.

    Attributes:
        proteins: rows of the table.
        clusters: their number.
        noise: proteins of none.
        points_looked_at: rows of the points, drawn by a fixed seed, that are finite.
    """

    proteins: int
    clusters: int
    noise: int
    points_looked_at: int


class SoundJson(NamedTuple):
    """What is known of a JSON of clusters that fits its table.

    Attributes:
        clusters: of the table.
        proteins: of the table.
        members_compared: first members of the JSON that stand in their clusters in the table.
    """

    clusters: int
    proteins: int
    members_compared: int


class SoundSummary(NamedTuple):
    """What is known of a summary that has a row for each cluster.

    Attributes:
        clusters: rows of the summary.
        proteins: of these clusters.
        drawn: proteins on the map.
    """

    clusters: int
    proteins: int
    drawn: int


def verify_clusters(product: Product, shards: EmbeddingShards) -> SoundClusters:
    """Check that each embedded protein has one row, in the order of the shards.

    Args:
        product: as ``cluster_embeddings`` made it.
        shards: what was clustered.

    Raises:
        InputError: one has not, a probability is none, or the counts do not add up.
    """
    require_files(product)
    path, summary = product.path, product.manifest.summary
    table = scan_table(path, _SCHEMA)
    cluster = pl.col("cluster")
    wrong = {
        **lacking("sequence_id", "cluster"),
        **outside(0, 1, "probability", "outlier_score"),
        "are noise with a probability": (cluster == -1) & (pl.col("probability") > 0),
        "have a cluster that is none": ~cluster.is_between(-1, summary["clusters"] - 1),
    }
    rows = refuse_rows(path, table, wrong, named_by=["sequence_id", "cluster"])
    sizes = _sizes(table)
    require_equal(
        path,
        {
            "proteins": (rows, shards.means().rows),
            "clusters": (len(sizes.keys() - {-1}), summary["clusters"]),
            "proteins of no cluster": (sizes.get(-1, 0), summary["noise"]),
        },
    )
    _require_order(path, table, shards)
    return SoundClusters(rows, summary["clusters"], summary["noise"], _require_points(path))


def verify_clusters_json(product: Product, table: Path) -> SoundJson:
    """Check the JSON of density clusters against their table.

    Of a JSON of millions the first 10,000 members are read, and its end.

    Args:
        product: as ``clusters_to_json`` made it.
        table: the table it was made from.

    Raises:
        InputError: a member is of another cluster, or the counts differ.
    """
    require_files(product)
    path, summary = product.path, product.manifest.summary
    rows = scan_table(table, _SCHEMA)
    sizes = _sizes(rows)
    require_equal(
        path,
        {
            "clusters": (summary["clusters"], len(sizes.keys() - {-1})),
            "proteins": (summary["sequences"], sum(sizes.values())),
            "proteins of no cluster": (summary["noise"], sizes.get(-1, 0)),
        },
    )
    members = list(itertools.islice(read_sequences(path), _MEMBERS))
    named = pl.DataFrame(
        {
            "header": [member.header for member in members],
            "cluster": [int(member.cluster) for member in members],
            "is_there": True,
        },
        schema={"header": pl.String, "cluster": pl.Int32, "is_there": pl.Boolean},
    )
    known = rows.select("header", "cluster").unique().collect(engine="streaming")
    strange = named.join(known, on=["header", "cluster"], how="anti")
    if len(strange):
        header, cluster, _ = strange.row(0)
        raise InputError(
            f"{path}: {header.split()[0]} is not of cluster {cluster} in {table.name}; {AGAIN}"
        )
    _require_end(path)
    return SoundJson(summary["clusters"], summary["sequences"], len(members))


def verify_summary(product: Product, table: Path) -> SoundSummary:
    """Check that each density cluster has one row, with its size and a medoid of its own.

    Args:
        product: as ``describe_clusters`` made it.
        table: the table that it describes.

    Raises:
        InputError: one has not, or a share or a q is none.
    """
    require_files(product)
    path = product.path
    summary = scan_table(path, SUMMARY_SCHEMA)
    terms = {
        f"have {what} with a q or a share outside 0 to 1": pl.col(what)
        .list.eval(
            ~(
                pl.element().struct.field("q").is_between(0, 1)
                & pl.element().struct.field("share").is_between(0, 1)
            )
        )
        .list.any()
        for what in ("words", "taxa")
    }
    wrong = {
        **lacking("cluster", "medoid_id"),
        **outside(0, 1, "share", "mean_probability", "similarity_share"),
        "have more distinct proteins than proteins": pl.col("distinct") > pl.col("size"),
        **terms,
    }
    rows = refuse_rows(path, summary, wrong, named_by=["cluster"])
    sizes = _sizes(scan_table(table, _SCHEMA))
    noise = sizes.pop(-1, 0)
    described = summary.select("cluster", "size").collect()
    require_equal(
        path,
        {
            "clusters": (rows, len(sizes)),
            "sizes of the clusters": (dict(described.iter_rows()) == sizes, True),
            "proteins of no cluster": (product.manifest.summary["noise"], noise),
        },
    )
    drawn, _ = read_map(path)
    numbers = pl.Series([-1, *sizes], dtype=pl.Int32)
    wrong = {
        "are of a cluster that is none": ~pl.col("cluster").is_in(numbers.implode()),
        "have no place": ~(pl.col("x").is_finite() & pl.col("y").is_finite()),
    }
    refuse_rows(map_path(path), drawn.lazy(), wrong, named_by=["sequence_id", "cluster"])
    return SoundSummary(rows, sum(sizes.values()), len(drawn))


def _sizes(table: pl.LazyFrame) -> dict[int, int]:
    return dict(table.group_by("cluster").len("size").collect(engine="streaming").iter_rows())


def _require_order(path: Path, table: pl.LazyFrame, shards: EmbeddingShards) -> None:
    """Check that the proteins are those of the means' tables, in their order, by a hash of each."""
    of_table, of_shards = (
        rows.select(pl.col("sequence_id").hash()).collect(engine="streaming")["sequence_id"]
        for rows in (table, shards.means().index)
    )
    off = np.flatnonzero((of_table != of_shards).to_numpy())
    if len(off):
        name = table.select("sequence_id").slice(int(off[0]), 1).collect().item()
        raise InputError(
            f"{path}: row {off[0]} is {name}, another protein than in the embeddings; {AGAIN}"
        )


def _require_points(table: Path) -> int:
    points = read_points(table)
    chosen = seeded_rows(len(points), _POINTS)
    off = chosen[~np.isfinite(points[chosen]).all(axis=1)]
    if len(off):
        raise InputError(f"{table}: the point of row {off[0]} is not finite; {AGAIN}")
    return len(chosen)


def _require_end(path: Path) -> None:
    """Check that a JSON of clusters, of which only the beginning was read, is not cut off."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        tail = file.read()
    if not tail.endswith(b"]}\n"):
        raise InputError(f"{path}: does not end as a JSON of clusters does; {AGAIN}")
