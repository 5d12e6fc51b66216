"""Checks of the clusters: taxa with their samples, and density clusters."""

from pathlib import Path

import dagster as dg

from esm_sae.clusters.density_verification import (
    verify_clusters,
    verify_clusters_json,
    verify_summary,
)
from esm_sae.clusters.taxa_verification import verify_samples, verify_taxa
from esm_sae.embedding.clusters_verification import verify_embedded
from esm_sae.formats.manifest import Product
from esm_sae.formats.shards import EmbeddingShards
from esm_sae_assets.checks.embeddings import whole_proteins
from esm_sae_assets.checks.looking import Check, Found, look
from esm_sae_assets.settings import CheckSettings

TAXA = (
    Check(
        "taxa_fit_sample",
        "Every protein with a taxon has one row, in the order of the FASTA, and table, statistics "
        "and counts say the same.",
    ),
    Check(
        "few_are_left_out",
        "Few proteins have no taxon, or one above the rank of the settings.",
        warns=True,
    ),
)
SAMPLES = (
    Check(
        "samples_are_whole",
        "Every taxon has as many proteins as were wanted, all within the limits of length.",
    ),
    Check("taxa_can_be_compared", "There are two taxa or more.", warns=True),
)
EMBEDDED = (
    Check(
        "vectors_are_the_samples",
        "Every sampled protein has a vector, which is finite and not zero; the first 200 entries "
        "of the JSON are equal to the table's rows; 50,000 residue rows drawn by a fixed seed are "
        "finite.",
    ),
    Check(
        "proteins_are_whole", "Few proteins were cut off or left out for their length.", warns=True
    ),
)
DENSITY = (
    Check(
        "every_protein_has_a_row",
        "The rows are the embedded proteins in their order, probabilities lie within 0 to 1, "
        "clusters are numbered without a gap, and noise adds up; points are finite.",
    ),
    Check("proteins_cluster", "There are two clusters or more, and noise is bounded.", warns=True),
)
DENSITY_JSON = (
    Check(
        "json_fits_table",
        "Clusters, proteins and noise are as many as in the table, the first 10,000 members are "
        "of their clusters there, and the file is not cut off.",
    ),
)
SUMMARY = (
    Check(
        "every_cluster_has_a_row",
        "Every density cluster has one row, with its size in the table; shares and q lie within 0 "
        "to 1; the map's proteins are of clusters that exist.",
    ),
    Check(
        "clusters_mean_something",
        "A word or a taxon is commoner in some cluster than elsewhere.",
        warns=True,
    ),
)


def taxa_checks(
    product: Product, statistics: Path, limits: CheckSettings
) -> list[dg.AssetCheckResult]:
    """Look at the taxa."""
    fits, left_out = TAXA
    return [
        look(fits, lambda: verify_taxa(product, statistics)),
        look(left_out, lambda: _left_out(product, limits.unknown_taxa_share)),
    ]


def sample_checks(product: Product) -> list[dg.AssetCheckResult]:
    """Look at the samples of the taxa."""
    whole, comparable = SAMPLES
    return [
        look(whole, lambda: verify_samples(product)),
        look(comparable, lambda: _taxa(product)),
    ]


def embedded_checks(
    product: Product, sampled: Path, limits: CheckSettings
) -> list[dg.AssetCheckResult]:
    """Look at the embedded samples of the taxa."""
    sound, whole = EMBEDDED
    return [
        look(sound, lambda: verify_embedded(product, sampled)),
        look(whole, lambda: whole_proteins(product, limits.cut_share)),
    ]


def density_checks(
    product: Product, shards: EmbeddingShards, limits: CheckSettings
) -> list[dg.AssetCheckResult]:
    """Look at the density clusters."""
    sound, clustered = DENSITY
    return [
        look(sound, lambda: verify_clusters(product, shards)),
        look(clustered, lambda: _noise(product, limits.noise_share)),
    ]


def json_checks(product: Product, table: Path) -> list[dg.AssetCheckResult]:
    """Look at the JSON of the density clusters."""
    (fits,) = DENSITY_JSON
    return [look(fits, lambda: verify_clusters_json(product, table))]


def summary_checks(product: Product, table: Path) -> list[dg.AssetCheckResult]:
    """Look at the summary of the density clusters."""
    complete, meaningful = SUMMARY
    return [
        look(complete, lambda: verify_summary(product, table)),
        look(meaningful, lambda: _meaning(product)),
    ]


def _left_out(product: Product, most: float) -> Found:
    counts = product.manifest.summary
    records = counts["records"]
    left_out = records - counts["clustered"]
    share = left_out / records
    figures = {"left_out": left_out, "share": share, "at_most": f"{most:.0%}"}
    if share <= most:
        return Found(figures)
    return Found(
        figures,
        f"{left_out:,} of {records:,} proteins ({share:.1%}) are of no taxon, more than "
        f"{most:.0%}; take a higher ESM_SAE_CLUSTERS_RANK, a taxonomy of the source's time, or "
        "raise ESM_SAE_CHECKS_UNKNOWN_TAXA_SHARE",
    )


def _taxa(product: Product) -> Found:
    counts = product.manifest.summary
    figures = {"taxa": counts["clusters"], "too_small_taxa": counts["dropped_clusters"]}
    if counts["clusters"] > 1:
        return Found(figures)
    return Found(
        figures,
        f"{counts['clusters']} taxon is large enough, {counts['dropped_clusters']:,} are too "
        "small: nothing can be compared; lower ESM_SAE_CLUSTERS_TAXON_MIN_SIZE or take a higher "
        "ESM_SAE_CLUSTERS_RANK",
    )


def _noise(product: Product, most: float) -> Found:
    counts = product.manifest.summary
    share, number = counts["noise_share"], counts["clusters"]
    figures = {"clusters": number, "noise_share": share, "at_most": f"{most:.0%}"}
    if share <= most and number > 1:
        return Found(figures)
    return Found(
        figures,
        f"{share:.1%} of the proteins are noise (at most {most:.0%} is expected) and there are "
        f"{number} clusters; lower ESM_SAE_CLUSTERS_MIN_CLUSTER_SIZE or "
        "ESM_SAE_CLUSTERS_MIN_SAMPLES, or raise ESM_SAE_CHECKS_NOISE_SHARE",
    )


def _meaning(product: Product) -> Found:
    counts = product.manifest.summary
    words, taxa = (counts[f"clusters_with_enriched_{term}"] for term in ("word", "taxon"))
    figures = {
        "clusters": counts["clusters"],
        "with_word": words,
        "with_taxon": taxa,
        "labelled": counts["labelled_clusters"],
    }
    if words or taxa:
        return Found(figures)
    return Found(
        figures,
        f"none of {counts['clusters']:,} clusters has a word or a taxon that is commoner in it: "
        "look at whether headers name proteins and organisms, and at the map for what the "
        "clusters follow",
    )
