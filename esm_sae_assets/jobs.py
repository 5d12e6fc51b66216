"""Jobs, one per partition definition: a job cannot span two.

The whole pipeline is a backfill over all assets, or ``python -m esm_sae_assets.demo``.
"""

from typing import Any

import dagster as dg

from esm_sae_assets.settings import Settings

_CLUSTER_REPORT = dg.AssetSelection.assets("embedding_cluster_report")


def jobs(settings: Settings) -> list[Any]:
    """Build the jobs."""
    # Any: Dagster does not export the type.
    shards = dg.AssetSelection.assets("embedding_shards")
    measured = dg.AssetSelection.assets("sae_metrics")
    compared = dg.AssetSelection.assets("sae_comparison")
    for_all_k = dg.AssetSelection.assets(
        "concept_annotations",
        "concept_baselines",
        *(["latent_matches"] if settings.sae.replicate else []),
    )
    return [
        dg.define_asset_job(
            "sample_sequences",
            selection=dg.AssetSelection.groups("sequences"),
            description="UniRef50 and the two samples.",
        ),
        dg.define_asset_job(
            "embed_shards",
            selection=shards,
            description="Embedding shards; launch as a backfill over the shards.",
        ),
        dg.define_asset_job(
            "collect_embeddings",
            selection=dg.AssetSelection.groups("embeddings") - shards,
            description="The manifest of all shards, and the untrained encoder's embeddings.",
        ),
        dg.define_asset_job(
            "cluster_proteins",
            selection=dg.AssetSelection.groups("clusters") | _CLUSTER_REPORT,
            description="Taxon clusters with embeddings, and density clusters with their report.",
        ),
        dg.define_asset_job(
            "train_autoencoders",
            selection=dg.AssetSelection.groups("sae") - measured - compared,
            description="Autoencoders, those of a range of k in one run; launch as a backfill "
            "over k.",
        ),
        dg.define_asset_job(
            "prepare_analysis",
            selection=for_all_k,
            description="What the analysis of every k reads: concepts and their baselines, matched "
            "latents.",
        ),
        dg.define_asset_job(
            "analyse_autoencoders",
            selection=measured
            | dg.AssetSelection.groups("analysis", "report") - _CLUSTER_REPORT - for_all_k,
            description="Metrics, analysis and report; launch as a backfill over k.",
        ),
        dg.define_asset_job(
            "compare_autoencoders",
            selection=compared,
            description="The autoencoders of all k side by side.",
        ),
    ]
