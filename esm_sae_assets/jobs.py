"""Jobs, one per partition definition: a job cannot span two.

The whole pipeline is a backfill over all assets, or ``python -m esm_sae_assets.demo``.
"""

from typing import Any, Literal

import dagster as dg

from esm_sae_assets.settings import Settings

Stage = Literal[
    "sequences", "embedding", "collection", "clusters", "training", "analysis", "report"
]

SAMPLE, EMBED, COLLECT = "sample_sequences", "embed_shards", "collect_embeddings"
TRAIN = "train_autoencoders"

# Runs that wait in the queue: what is soon done, or waited for, before thousands of shards.
_PRIORITIES: dict[Stage, int] = {
    "sequences": 2,
    "embedding": 0,
    "collection": 1,
    "clusters": 1,
    "training": 1,
    "analysis": 2,
    "report": 3,
}

_CLUSTER_REPORT = dg.AssetSelection.assets("embedding_cluster_report")


def jobs(settings: Settings) -> list[Any]:
    """Build the jobs, in the order in which they follow on each other."""
    # Any: Dagster does not export the type.
    groups, assets = dg.AssetSelection.groups, dg.AssetSelection.assets
    shards, compared = assets("embedding_shards"), assets("sae_comparison")
    # Weights, of those in the group, are what is no table.
    trained = groups("sae") & dg.AssetSelection.kind("numpy")
    measured = groups("sae") - trained - compared
    reports = groups("report") & dg.AssetSelection.kind("html")
    for_all_k = assets(
        "concept_annotations",
        "concept_baselines",
        *(["latent_matches"] if settings.sae.replicate else []),
    )

    def job(name: str, stage: Stage, selection: dg.AssetSelection, description: str) -> Any:
        tags = {
            "esm_sae/profile": settings.profile,
            "esm_sae/stage": stage,
            "dagster/priority": str(_PRIORITIES[stage]),
        }
        return dg.define_asset_job(name, selection, tags=tags, description=description)

    return [
        job(SAMPLE, "sequences", groups("sequences"), "UniRef50 and the two samples."),
        job(
            EMBED,
            "embedding",
            shards,
            "Embedding shards, several neighbours in one run; launch as a backfill over the "
            "shards.",
        ),
        job(
            COLLECT,
            "collection",
            groups("embeddings") - shards,
            "The manifest of all shards, and the untrained encoder's embeddings.",
        ),
        job(
            "cluster_proteins",
            "clusters",
            groups("clusters") | _CLUSTER_REPORT,
            "Taxon clusters with embeddings, and density clusters with their report.",
        ),
        job(
            TRAIN,
            "training",
            trained,
            "Autoencoders, those of a range of k in one run; launch as a backfill over k.",
        ),
        job(
            "prepare_analysis",
            "analysis",
            for_all_k,
            "What the analysis of every k reads: concepts and their baselines, matched latents.",
        ),
        job(
            "analyse_autoencoders",
            "analysis",
            measured | groups("analysis") - for_all_k,
            "Metrics and analysis; launch as a backfill over k.",
        ),
        job(
            "write_reports",
            "report",
            reports - _CLUSTER_REPORT,
            "The report of each autoencoder; launch as a backfill over k.",
        ),
        job(
            "compare_autoencoders",
            "analysis",
            compared,
            "The autoencoders of all k side by side.",
        ),
    ]
