"""What the tables of an analysis say of each latent, cut to what its panel shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from esm_sae.formats.analysis_tables import (
    CONCEPTS,
    FEATURE_CONCEPTS,
    LEAST_SKILL,
    MAIN,
    MARKED_CLUSTERS,
    MATCH_COMPARISON,
    MATCHES,
    NEAR_DUPLICATES,
    TAXONOMY,
    concept_skill,
)

_TAXA_SHOWN = 10
_CONCEPTS_SHOWN = 8
_NEAR_SHOWN = 6


def taxa_of(taxonomy: Path, latents: int, taxa: dict[str, int]) -> list[list[Any]]:
    """Return the 10 taxa to show of each latent, the most surely enriched first.

    Each is [taxon, firing proteins, proteins, lowest and highest frequency by its interval,
    frequency in the other taxa, odds ratio, its lower and upper end, q, q under dependence,
    similarity clusters that fire, whether taxonomic]. Taxa are numbers in ``taxa``, which grows.
    """
    table = pl.scan_parquet(taxonomy / TAXONOMY).sort(
        "latent",
        "q_value",
        "p_value",
        "firing_frequency",
        "taxon",
        descending=[False, False, False, True, False],
        nulls_last=True,
    )
    columns = [
        pl.col("taxon"),
        pl.col("firing_proteins"),
        pl.col("proteins"),
        *map(
            rounded,
            (
                "frequency_low",
                "frequency_high",
                "other_frequency",
                "odds_ratio",
                "odds_ratio_low",
                "odds_ratio_high",
                "q_value",
                "q_value_dependent",
            ),
        ),
        pl.col("firing_clusters"),
        pl.col("taxonomic"),
    ]
    shown = _first(table, _TAXA_SHOWN, columns, latents)
    for entry in (entry for entries in shown for entry in entries):
        entry[0] = taxa.setdefault(entry[0], len(taxa))
    return shown


def eligible_concepts(concepts: Path) -> pl.DataFrame:
    """Return the concepts that are frequent enough to be shown singly, the best first.

    They are in the order of ``concept_skill`` of their best latents: an order by test F1 would put
    first those that were lucky on the test proteins.
    """
    of = ("source", "concept", "level")
    return (
        pl.read_parquet(concepts / CONCEPTS)
        .filter("eligible")
        .sort(concept_skill(), *of, descending=[True, False, False, False], nulls_last=True)
    )


def concepts_of(concepts: Path, eligible: pl.DataFrame, latents: int) -> list[list[Any]]:
    """Return up to 8 concepts of each latent by ``concept_skill``, those with any.

    Each is [number in ``eligible``, validation F1, test precision, test recall, test F1, AUROC,
    whether the latent is the concept's best on validation].
    """
    numbered = eligible.lazy().select("source", "concept", "level", "validation_trivial_f1")
    table = (
        pl.scan_parquet(concepts / FEATURE_CONCEPTS)
        .join(numbered.with_row_index("number"), on=["source", "concept", "level"])
        .filter(concept_skill() >= LEAST_SKILL)
        .sort("latent", concept_skill(), "number", descending=[False, True, False])
    )
    figures = ("validation_f1", "test_precision", "test_recall", "test_f1", "auroc")
    columns = [pl.col("number"), *map(rounded, figures), pl.col("chosen")]
    return _first(table, _CONCEPTS_SHOWN, columns, latents)


def near_duplicates_of(clusters: Path, latents: int) -> list[list[Any]]:
    """Return up to 6 other latents that are nearly the same as each: [other, cosine, r].

    The most alike come first, by cosine of the decoder rows or correlation of the activations.
    """
    table = pl.scan_parquet(clusters / NEAR_DUPLICATES)
    swapped = table.select(
        latent="other", other="latent", cosine="cosine", correlation="correlation"
    )
    both = pl.concat([table, swapped]).sort(
        "latent",
        pl.max_horizontal("cosine", "correlation"),
        "other",
        descending=[False, True, False],
    )
    columns = [pl.col("other"), rounded("cosine"), rounded("correlation")]
    return _first(both, _NEAR_SHOWN, columns, latents)


def marked_clusters_of(clusters: Path, latents: int) -> list[list[Any]]:
    """Return the density cluster that each latent marks, if one.

    Each is [cluster, label, size, and on held-out proteins precision, recall, F1].
    """
    path = clusters / MARKED_CLUSTERS
    if not path.exists():
        return [[] for _ in range(latents)]
    figures = map(rounded, ("precision", "recall", "f1"))
    columns = [pl.col("cluster"), pl.col("label"), pl.col("size"), *figures]
    return _first(pl.scan_parquet(path).sort("latent", "cluster"), None, columns, latents)


def matches_of(matches: Path, k: int, latents: int) -> list[list[Any]]:
    """Return the best match of each latent in every SAE of another seed, by k.

    Each is [k of the other, its latent by cosine, cosine, whether mutual, its latent by
    correlation, correlation, whether mutual].
    """
    table = (
        pl.scan_parquet(matches / MATCHES)
        .filter(pl.col("sae") == MAIN, pl.col("k") == k)
        .sort("latent", "other_k", "other")
    )
    columns = [
        pl.col("other_k"),
        pl.col("cosine_latent"),
        rounded("cosine"),
        pl.col("cosine_mutual"),
        pl.col("correlation_latent"),
        rounded("correlation"),
        pl.col("correlation_mutual"),
    ]
    return _first(table, None, columns, latents)


def comparison_of(matches: Path, k: int) -> pl.DataFrame:
    """Return the comparison of an SAE with those of another seed, by their k."""
    return (
        pl.read_parquet(matches / MATCH_COMPARISON)
        .filter(pl.col("sae") == MAIN, pl.col("k") == k)
        .sort("other_k")
    )


def rounded(name: str) -> pl.Expr:
    """Round to four significant digits; NaN and infinity become null."""
    value = pl.col(name).cast(pl.Float64)
    return pl.when(value.is_finite()).then(value.round_sig_figs(4)).alias(name)


def _first(
    table: pl.LazyFrame, count: int | None, columns: Sequence[pl.Expr], latents: int
) -> list[list[Any]]:
    """Return the first rows of each latent of a sorted table as lists."""
    if count is not None:
        table = table.group_by("latent", maintain_order=True).head(count)
    shown: list[list[Any]] = [[] for _ in range(latents)]
    for latent, *entry in table.select("latent", *columns).collect().iter_rows():
        shown[latent].append(entry)
    return shown
