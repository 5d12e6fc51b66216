"""What the clusters of taxa are called: by one name each, and no two by the same."""

import polars as pl


def name_clusters(taxa: pl.DataFrame) -> pl.DataFrame:
    """Name every cluster by its commonest name, ties by the name.

    Clusters of one name and different TaxIDs stay apart as ``Name (taxid)``; one with no name is
    ``TaxID taxid``.

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
    # A name given apart, 'Name (taxid)', can itself be the plain name of another taxon.
    while named["cluster"].is_duplicated().any():
        shared = pl.col("cluster").is_duplicated() & pl.col("key").is_not_null()
        apart = pl.format("{} ({})", "cluster", "key")
        named = named.with_columns(
            pl.when(shared).then(apart).otherwise("cluster").alias("cluster")
        )
    return named
