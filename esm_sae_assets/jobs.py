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
    measured = dg.AssetSelection.assets("sae_metrics")
    over_k = dg.AssetSelection.assets(
        "sae_comparison",
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
            selection=dg.AssetSelection.assets("embedding_shards"),
            description="Embedding shards; launch as a backfill over the shards.",
        ),
        dg.define_asset_job(
            "cluster_proteins",
            selection=dg.AssetSelection.groups("clusters") | _CLUSTER_REPORT,
            description="Taxon clusters with embeddings, and density clusters with their report.",
        ),
        dg.define_asset_job(
            "train_autoencoders",
            selection=dg.AssetSelection.groups("sae") - measured - over_k,
            description="Autoencoders, those of a range of k in one run; launch as a backfill "
            "over k.",
        ),
        dg.define_asset_job(
            "compare_autoencoders",
            selection=over_k,
            description="What is made once for all k: comparison, matched latents, concepts and "
            "their baselines.",
        ),
        dg.define_asset_job(
            "analyse_autoencoders",
            selection=measured
            | dg.AssetSelection.groups("analysis", "report") - _CLUSTER_REPORT - over_k,
            description="Metrics, analysis and report; launch as a backfill over k.",
        ),
    ]
