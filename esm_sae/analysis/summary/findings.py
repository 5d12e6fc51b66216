"""The one finding of each table of the analysis that a latent's row shows."""

from pathlib import Path

import polars as pl

from esm_sae.formats.analysis_tables import (
    CONCEPTS,
    FEATURE_CONCEPTS,
    LATENT_MAP,
    LEAST_SKILL,
    MARKED_CLUSTERS,
    NEAR_DUPLICATES,
    STABILITY,
    SUMMARY_ADDITIONS,
    TAXONOMY,
    concept_skill,
)

_OF_CONCEPT = ("source", "concept", "level")


def best_taxa(taxonomy: Path) -> pl.DataFrame:
    """Return of each latent the tested taxon with the least q, those called taxonomic first.

    Of equal q the least p, then the highest odds ratio, then the first by name. A latent of which
    no taxon was tested has no row; one that is enriched in none has its flag and no taxon.
    """
    tested = pl.scan_parquet(taxonomy / TAXONOMY).filter(pl.col("q_value").is_not_null())
    keys = ["taxonomic", "q_value", "p_value", "odds_ratio", "taxon"]
    best = _first(
        tested.filter(pl.col("odds_ratio") > 1), keys, descending=[True, False, False, True, False]
    ).select(
        "latent",
        best_taxon="taxon",
        best_taxon_odds_ratio="odds_ratio",
        best_taxon_q="q_value",
    )
    called = tested.group_by("latent").agg(pl.col("taxonomic").any()).sort("latent")
    return _typed(called.join(best, on="latent", how="left", maintain_order="left"))


def best_concepts(concepts: Path) -> pl.DataFrame:
    """Return of each latent the eligible concept it marks best on validation.

    Best is by ``concept_skill``, and none below ``LEAST_SKILL``: a latent that fires everywhere
    has a high F1 for every motif that most proteins have somewhere. F1 and AUROC are of test. Of
    equal concepts the first by source, name and level.
    """
    eligible = pl.scan_parquet(concepts / CONCEPTS).filter("eligible")
    scored = (
        pl.scan_parquet(concepts / FEATURE_CONCEPTS)
        .join(eligible.select(*_OF_CONCEPT, "validation_trivial_f1"), on=_OF_CONCEPT)
        .with_columns(concept_skill().alias("skill"))
        .filter(pl.col("skill") >= LEAST_SKILL)
    )
    keys = ["skill", *_OF_CONCEPT]
    return _typed(
        _first(scored, keys, descending=[True, False, False, False]).select(
            "latent",
            best_concept="concept",
            best_concept_source="source",
            best_concept_level="level",
            best_concept_validation_f1="validation_f1",
            best_concept_f1="test_f1",
            best_concept_auroc="auroc",
        )
    )


def marked_clusters(clusters: Path) -> pl.DataFrame:
    """Return of each latent the embedding cluster it marks with the highest F1 in training.

    No latent has one where the latents were clustered without a table of embedding clusters.
    """
    if not (clusters / MARKED_CLUSTERS).is_file():
        return pl.DataFrame(schema={"latent": pl.UInt32})
    table = pl.scan_parquet(clusters / MARKED_CLUSTERS)
    return _typed(
        _first(table, ["train_f1", "cluster"], descending=[True, False]).select(
            "latent",
            marked_cluster="cluster",
            marked_cluster_label="label",
            marked_cluster_f1="f1",
        )
    )


def map_places(clusters: Path) -> pl.DataFrame:
    """Return each latent's place on the map and its cluster by decoder rows, -1 for none."""
    table = pl.scan_parquet(clusters / LATENT_MAP)
    return _typed(table.select("latent", decoder_cluster="cluster", map_x="x", map_y="y"))


def nearest_latents(clusters: Path) -> pl.DataFrame:
    """Return of each latent its near duplicate with the highest cosine."""
    pairs = pl.scan_parquet(clusters / NEAR_DUPLICATES).select("latent", "other", "cosine")
    swapped = pairs.select(latent="other", other="latent", cosine="cosine")
    both = pl.concat([pairs, swapped])
    return _typed(
        _first(both, ["cosine", "other"], descending=[True, False]).select(
            "latent", nearest_latent="other", nearest_cosine="cosine"
        )
    )


def stabilities(matches: Path, k: int) -> pl.DataFrame:
    """Return how well each latent is found again by the training of the same k with another seed.

    No latent has a row where no such training was matched.
    """
    table = pl.scan_parquet(matches / STABILITY).filter(pl.col("k") == k)
    return _typed(
        table.select(
            "latent", "stable", stability_cosine="cosine", stability_correlation="correlation"
        )
    )


def _first(table: pl.LazyFrame, by: list[str], *, descending: list[bool]) -> pl.LazyFrame:
    """Return the first row of each latent in an order; nulls come last."""
    ordered = table.sort("latent", *by, descending=[False, *descending], nulls_last=True)
    return ordered.unique("latent", keep="first", maintain_order=True)


def _typed(table: pl.LazyFrame) -> pl.DataFrame:
    names = table.collect_schema().names()
    return table.cast(
        {name: SUMMARY_ADDITIONS[name] for name in names if name != "latent"}
    ).collect()
