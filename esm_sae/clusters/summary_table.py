"""The rows of the summary of density clusters."""

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.clusters.cluster_terms import (
    parsed_headers,
    taxon_bearers,
    taxon_names,
    word_bearers,
)
from esm_sae.clusters.enrichment import enrichment
from esm_sae.formats.cluster_summary import SUMMARY_SCHEMA
from esm_sae.split import read_similarity_clusters

_WORDS, _TAXA = 8, 5
_FEWEST_LISTED = 2
_SIGNIFICANT = 0.05
# A word that fewer of a cluster's proteins bear is no label for it.
_LABEL_SHARE = 0.5


def summary_table(
    members: pl.DataFrame,
    groups: np.ndarray,
    middles: np.ndarray,
    similarity_clusters: storage.PathLike | None,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the rows of the summary, and how many words and taxa were tested and found.

    Args:
        members: the cluster table, with lengths.
        groups: the row of each protein's first copy; see ``distinct_points``.
        middles: row of each cluster's medoid, (K,).
        similarity_clusters: table of them, or None.
    """
    placed = members.select("cluster", pl.Series("group", groups))
    distinct = placed.with_row_index("row").filter(pl.col("row") == pl.col("group"))
    sizes = distinct.filter(pl.col("cluster") >= 0).group_by("cluster").len("size")
    parsed = parsed_headers(members["header"])
    word_tests = enrichment(word_bearers(parsed["name"], placed), sizes, len(distinct))
    taxon_tests = enrichment(taxon_bearers(parsed, placed), sizes, len(distinct))
    words = word_tests.pairs.rename({"term": "word"})
    named = taxon_names(parsed)
    taxa = taxon_tests.pairs.join(named, on="term", how="left", maintain_order="left")
    tables = [
        sizes.rename({"size": "distinct"}),
        _medoids(members, middles),
        _labels(words),
        _listed(words, "word", name="words", most=_WORDS),
        _listed(taxa, "taxon", "taxid", name="taxa", most=_TAXA),
        _similarity(members["sequence_id"], distinct, similarity_clusters),
    ]
    clusters = _sizes(members)
    for table in tables:
        clusters = clusters.join(table, on="cluster", how="left", maintain_order="left")
    clusters = clusters.with_columns(pl.col("words", "taxa").fill_null([]))
    counts = {
        "tested_words": word_tests.tests,
        "tested_taxa": taxon_tests.tests,
        "clusters_with_enriched_word": _enriched(words),
        "clusters_with_enriched_taxon": _enriched(taxa),
    }
    return clusters.select(list(SUMMARY_SCHEMA)).cast(pl.Schema(SUMMARY_SCHEMA)), counts


def _sizes(members: pl.DataFrame) -> pl.DataFrame:
    return (
        members.filter(pl.col("cluster") >= 0)
        .group_by("cluster")
        .agg(
            pl.len().alias("size"),
            (pl.len() / len(members)).alias("share"),
            pl.col("probability").mean().alias("mean_probability"),
            pl.col("length").mean().alias("mean_length"),
        )
        .sort("cluster")
    )


def _medoids(members: pl.DataFrame, middles: np.ndarray) -> pl.DataFrame:
    return members[middles].select(
        "cluster",
        pl.col("sequence_id").alias("medoid_id"),
        pl.col("header").alias("medoid_header"),
        pl.Series("medoid_row", middles),
    )


def _listed(pairs: pl.DataFrame, *terms: str, name: str, most: int) -> pl.DataFrame:
    return (
        pairs.filter(pl.col("count") >= _FEWEST_LISTED)
        .group_by("cluster", maintain_order=True)
        .head(most)
        .group_by("cluster", maintain_order=True)
        .agg(pl.struct(*terms, "count", "share", "fold", "q").alias(name))
    )


def _labels(words: pl.DataFrame) -> pl.DataFrame:
    return (
        words.filter((pl.col("q") <= _SIGNIFICANT) & (pl.col("share") >= _LABEL_SHARE))
        .group_by("cluster", maintain_order=True)
        .agg(pl.col("word").first().alias("label"))
    )


def _enriched(pairs: pl.DataFrame) -> int:
    return pairs.filter(pl.col("q") <= _SIGNIFICANT)["cluster"].n_unique()


def _similarity(
    ids: pl.Series, distinct: pl.DataFrame, similarity_clusters: storage.PathLike | None
) -> pl.DataFrame:
    known = {} if similarity_clusters is None else read_similarity_clusters(similarity_clusters)
    inside = distinct.filter(pl.col("cluster") >= 0)
    names = [known.get(sequence_id) for sequence_id in ids[inside["row"]]]
    return (
        inside.select("cluster", pl.Series("name", names, dtype=pl.String))
        .drop_nulls("name")
        .group_by("cluster", "name")
        .len()
        .group_by("cluster")
        .agg(
            pl.len().alias("similarity_clusters"),
            (pl.col("len").max() / pl.col("len").sum()).alias("similarity_share"),
        )
    )
