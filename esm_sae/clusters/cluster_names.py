"""What the clusters of taxa are called: by one name each, and no two by the same."""

import polars as pl

from esm_sae.formats.clusters_json import NOISE


def name_clusters(taxa: pl.DataFrame) -> pl.DataFrame:
    """Name every cluster by its commonest name, ties by the name.

    Clusters of one name and different TaxIDs stay apart as ``Name (taxid)``; one with no name is
    ``TaxID taxid``, and one named as noise is, ``-1``, is ``taxon -1``.

    Args:
        taxa: key (TaxID of the cluster, null where it has none), name_key (the name that is its
            key then, else null), name (null where none is known) and records.

    Returns:
        key, name_key, cluster: one row per cluster.
    """
    named = (
        taxa.group_by("key", "name_key", "name")
        .agg(pl.col("records").sum())
        .sort(["records", "name"], descending=[True, False], nulls_last=True)
        .group_by("key", "name_key")
        .agg(pl.col("name").drop_nulls().first().alias("cluster"))
        .with_columns(pl.col("cluster").fill_null(pl.format("TaxID {}", "key")))
    )
    named = named.with_columns(pl.col("cluster").replace(NOISE, _other_than_noise(named)))
    # A name given apart, 'Name (taxid)', can itself be the plain name of another taxon.
    while named["cluster"].is_duplicated().any():
        shared = pl.col("cluster").is_duplicated() & pl.col("key").is_not_null()
        apart = pl.format("{} ({})", "cluster", "key")
        named = named.with_columns(
            pl.when(shared).then(apart).otherwise("cluster").alias("cluster")
        )
    return named


def _other_than_noise(named: pl.DataFrame) -> str:
    name = f"taxon {NOISE}"
    while (named["cluster"] == name).any():
        name = f"taxon {name}"
    return name
