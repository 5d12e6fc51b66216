"""Clusters by taxon, from the headers of a FASTA file."""

import os
from pathlib import Path
from typing import Any, cast

import polars as pl

from esm_sae import storage
from esm_sae.clusters.tables import recorded_source
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product, manifest_beside, produce_files
from esm_sae.formats.sequence_index import index_of

STATISTICS_NAME = "cluster_statistics.json"

_ALGORITHM = "taxa-1"
_TOP = 10
_QUANTILES = {"q25": 0.25, "q75": 0.75, "q90": 0.90, "q99": 0.99}


def cluster_taxa(
    fasta: storage.PathLike,
    output_parquet: storage.PathLike,
    *,
    statistics_path: storage.PathLike | None = None,
) -> Product:
    """Cluster the records of a FASTA file by the taxon that their headers name.

    A taxon is its TaxID. A header with a name and no TaxID belongs to the one TaxID that bears
    the name in this file; where none or several do, the name is a taxon of its own. A cluster
    is called by its taxon's commonest name; taxa of one name and different TaxIDs stay apart as
    ``Name (taxid)``. Records without name and TaxID are left out and counted.

    Writes a table with one row per clustered record in file order (sequence_id, header,
    cluster, taxid, length, offset), with the path, relative to the table, and the sha256 of the
    FASTA in the parquet's metadata, and ``cluster_statistics.json``.

    Args:
        fasta: plain or gzipped FASTA file.
        output_parquet: the table to write.
        statistics_path: where the statistics go, in the table's folder; by default
            ``cluster_statistics.json``.

    Raises:
        InputError: as ``read_fasta``, or no header names a taxon.
    """
    table = Path(output_parquet)
    statistics = table.with_name(STATISTICS_NAME) if statistics_path is None else statistics_path
    statistics = Path(statistics)
    if statistics.resolve().parent != table.resolve().parent or statistics.name == table.name:
        raise InputError(
            f"{statistics}: the statistics go into the table's folder, {table.parent}, "
            "under another name"
        )
    source = recorded_source(fasta, table)

    def build(temporaries: list[Path]) -> dict[str, Any]:
        index = index_of(fasta)
        taxa = _taxa(index)
        clustered = _clustered(index, taxa)
        if clustered.is_empty():
            raise InputError(
                f"{os.fspath(fasta)}: no header names a taxon; expected Tax=, TaxID=, OS= or OX="
            )
        clusters = _clusters(clustered)
        totals = {
            "records": len(index),
            "clustered": len(clustered),
            "without_taxon": len(index) - len(clustered),
            "clusters": len(clusters),
        }
        sizes = _size_statistics(clusters["size"])
        clustered.write_parquet(temporaries[0], metadata=source)
        temporaries[1].write_bytes(
            storage.encode_json({"totals": totals, "sizes": sizes, "clusters": _by_name(clusters)})
        )
        return {
            **totals,
            "sizes": sizes,
            **_name_conflicts(taxa),
            "top_taxa": clusters.head(_TOP).select("cluster", "taxid", "size").to_dicts(),
        }

    return produce_files(
        [table, statistics],
        manifest=manifest_beside(table),
        kind="taxonomy_clusters",
        determinants={"source": source, "algorithm": _ALGORITHM},
        build=build,
    )


def _taxa(index: pl.DataFrame) -> pl.DataFrame:
    """Return one row per (taxid, taxon) pair of the headers, with its cluster.

    Columns: taxid, taxon, key (TaxID of the cluster, null where it has none), cluster.
    """
    pairs = (
        index.group_by("taxid", "taxon")
        .len("records")
        .filter(pl.col("taxid").is_not_null() | pl.col("taxon").is_not_null())
    )
    owners = (
        pairs.drop_nulls(["taxid", "taxon"])
        .group_by("taxon")
        .agg(pl.col("taxid").first().alias("owner"), pl.len().alias("owners"))
        .filter(pl.col("owners") == 1)
    )
    keyed = (
        pairs.join(owners, on="taxon", how="left")
        .with_columns(pl.coalesce("taxid", "owner").alias("key"))
        .with_columns(pl.when(pl.col("key").is_null()).then("taxon").alias("name_key"))
    )
    named = _unique_names(_commonest_names(keyed))
    return keyed.join(named, on=["key", "name_key"], how="left", nulls_equal=True).select(
        "taxid", "taxon", "key", "cluster"
    )


def _commonest_names(keyed: pl.DataFrame) -> pl.DataFrame:
    return (
        keyed.group_by("key", "name_key", "taxon")
        .agg(pl.col("records").sum())
        .sort(["records", "taxon"], descending=[True, False], nulls_last=True)
        .group_by("key", "name_key")
        .agg(pl.col("taxon").drop_nulls().first().alias("cluster"))
        .with_columns(pl.col("cluster").fill_null(pl.format("TaxID {}", "key")))
    )


def _unique_names(named: pl.DataFrame) -> pl.DataFrame:
    # A name given apart, 'Name (taxid)', can itself be the plain name of another taxon.
    while named["cluster"].is_duplicated().any():
        shared = pl.col("cluster").is_duplicated() & pl.col("key").is_not_null()
        apart = pl.format("{} ({})", "cluster", "key")
        named = named.with_columns(
            pl.when(shared).then(apart).otherwise("cluster").alias("cluster")
        )
    return named


def _clustered(index: pl.DataFrame, taxa: pl.DataFrame) -> pl.DataFrame:
    return (
        index.join(taxa, on=["taxid", "taxon"], how="left", nulls_equal=True, maintain_order="left")
        .drop_nulls("cluster")
        .select(
            "sequence_id", "header", "cluster", pl.col("key").alias("taxid"), "length", "offset"
        )
    )


def _clusters(clustered: pl.DataFrame) -> pl.DataFrame:
    """Return cluster, taxid, size and mean_length, largest first, ties by name."""
    return (
        clustered.group_by("cluster")
        .agg(
            pl.col("taxid").first(),
            pl.len().alias("size"),
            (pl.col("length").cast(pl.Int64).sum() / pl.len()).alias("mean_length"),
        )
        .sort(["size", "cluster"], descending=[True, False])
    )


def _size_statistics(sizes: pl.Series) -> dict[str, Any]:
    def quantile(q: float) -> float:
        return float(cast(float, sizes.quantile(q, interpolation="linear")))

    return {
        "mean": int(sizes.sum()) / len(sizes),
        "median": quantile(0.5),
        **{name: quantile(q) for name, q in _QUANTILES.items()},
        "max": int(cast(int, sizes.max())),
        "singletons": int((sizes == 1).sum()),
    }


def _by_name(clusters: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {
        row["cluster"]: {key: row[key] for key in ("taxid", "size", "mean_length")}
        for row in clusters.iter_rows(named=True)
    }


def _name_conflicts(taxa: pl.DataFrame) -> dict[str, int]:
    names = taxa.drop_nulls(["key", "taxon"]).select("key", "taxon").unique()
    return {
        "names_of_several_taxids": _repeated(names["taxon"]),
        "taxids_of_several_names": _repeated(names["key"]),
    }


def _repeated(values: pl.Series) -> int:
    return int(values.filter(values.is_duplicated()).n_unique())
