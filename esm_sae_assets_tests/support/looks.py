"""How the checks of each asset are called: on which output of the small graph, with what inputs."""

from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg

from esm_sae.formats.manifest import Product
from esm_sae.formats.shards import open_shards
from esm_sae_assets.checks import (
    Outputs,
    analysis,
    clusters,
    concepts,
    embeddings,
    reports,
    sae,
    sequences,
)
from esm_sae_assets.resources import DataRoot
from esm_sae_assets.settings import CheckSettings

SHARD = "0001-of-0002"


@dataclass(frozen=True)
class Looked:
    """How an asset's checks are called: on which output, and with which inputs."""

    at: str
    checks: Callable[[Product, DataRoot, CheckSettings], list[dg.AssetCheckResult]]


def _ks(product: Product) -> Outputs:
    return {"4": lambda: product.path}


LOOKED = {
    "uniref50_fasta": Looked(
        "uniref50.source.json", lambda product, data, limits: sequences.source_checks(product)
    ),
    "uniref50_1M_sample": Looked(
        "uniref50_1M_sample.fasta",
        lambda product, data, limits: sequences.sample_checks(product, limits),
    ),
    "embedding_shards": Looked(
        f"embeddings3/embeddings_{SHARD}.npy",
        lambda product, data, limits: embeddings.shard_checks(
            {SHARD: lambda: product}, data.sample("uniref50_1M_sample")
        ),
    ),
    "embedding_manifest": Looked(
        "embeddings3",
        lambda product, data, limits: embeddings.manifest_checks(product, 2, limits),
    ),
    "sae_checkpoint": Looked(
        "L64_k4", lambda product, data, limits: sae.training_checks(_ks(product), limits)
    ),
    "sae_metrics": Looked(
        "L64_k4/metrics",
        lambda product, data, limits: sae.metrics_checks(
            _ks(product), dg.DagsterInstance.ephemeral(), limits
        ),
    ),
    "sae_release": Looked(
        "release/L64_k4",
        lambda product, data, limits: sae.release_checks(_ks(product), data.sae),
    ),
    "sae_model_fidelity": Looked(
        "analysis/L64_k4/model_fidelity",
        lambda product, data, limits: sae.fidelity_checks(_ks(product)),
    ),
    "sae_comparison": Looked(
        "comparison",
        lambda product, data, limits: sae.comparison_checks(
            product, {k: data.metrics(k) for k in (4, 8)}
        ),
    ),
    "taxonomy_clusters": Looked(
        "taxonomy_clusters.parquet",
        lambda product, data, limits: clusters.taxa_checks(
            product, product.path.with_name("cluster_statistics.json"), limits
        ),
    ),
    "sampled_sequences": Looked(
        "sampled_sequences.json", lambda product, data, limits: clusters.sample_checks(product)
    ),
    "embedded_clusters": Looked(
        "embedded_clusters.json",
        lambda product, data, limits: clusters.embedded_checks(
            product, data.sampled_sequences, limits
        ),
    ),
    "embedding_clusters": Looked(
        "embedding_clusters.parquet",
        lambda product, data, limits: clusters.density_checks(
            product, open_shards(data.shards), limits
        ),
    ),
    "embedding_clusters_json": Looked(
        "embedding_clusters.json",
        lambda product, data, limits: clusters.json_checks(product, data.embedding_clusters),
    ),
    "embedding_cluster_summary": Looked(
        "embedding_clusters.summary.parquet",
        lambda product, data, limits: clusters.summary_checks(product, data.embedding_clusters),
    ),
    "embedding_cluster_report": Looked(
        "embedding_clusters.html",
        lambda product, data, limits: reports.cluster_report_checks(product),
    ),
    "feature_activations": Looked(
        "analysis/L64_k4/activations",
        lambda product, data, limits: analysis.activation_checks(_ks(product), limits),
    ),
    "feature_taxonomy": Looked(
        "analysis/L64_k4/taxonomy",
        lambda product, data, limits: analysis.taxonomy_checks(_ks(product)),
    ),
    "feature_clusters": Looked(
        "analysis/L64_k4/clusters",
        lambda product, data, limits: analysis.latent_checks(_ks(product), limits),
    ),
    "feature_summary": Looked(
        "analysis/L64_k4/feature_summary.parquet",
        lambda product, data, limits: analysis.summary_checks(
            _ks(product), data.analysis(4, "activations")
        ),
    ),
    "feature_concepts": Looked(
        "analysis/L64_k4/concepts",
        lambda product, data, limits: concepts.concept_checks(_ks(product)),
    ),
    "feature_report": Looked(
        "analysis/L64_k4/report.html",
        lambda product, data, limits: reports.report_checks(_ks(product)),
    ),
    "concept_annotations": Looked(
        "concept_annotations.parquet",
        lambda product, data, limits: concepts.annotation_checks(
            product, data.sample("uniref50_1M_sample")
        ),
    ),
    "concept_baselines": Looked(
        "concept_baselines", lambda product, data, limits: concepts.baseline_checks(product)
    ),
    "latent_matches": Looked(
        "latent_matches", lambda product, data, limits: analysis.match_checks(product)
    ),
}
# Looked at as those are.
ALIKE = {
    "uniref50_10M_sample": "uniref50_1M_sample",
    "untrained_embeddings": "embedding_manifest",
    "sae_replicate": "sae_checkpoint",
    "sae_untrained": "sae_checkpoint",
}
