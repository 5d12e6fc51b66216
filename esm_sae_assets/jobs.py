"""Jobs, one per partition definition: a job cannot span two.

The whole pipeline is a backfill over all assets, or ``python -m esm_sae_assets.demo``.
"""

import dagster as dg

_CLUSTER_REPORT = dg.AssetSelection.assets("embedding_cluster_report")
_MEASURED = dg.AssetSelection.assets("sae_metrics", "sae_comparison")

JOBS = [
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
        selection=dg.AssetSelection.groups("sae") - _MEASURED,
        description="Autoencoders, those of a range of k in one run; launch as a backfill over k.",
    ),
    dg.define_asset_job(
        "analyse_autoencoders",
        selection=dg.AssetSelection.assets("sae_metrics")
        | dg.AssetSelection.groups("analysis", "report") - _CLUSTER_REPORT,
        description="Metrics, analysis and report; launch as a backfill over k.",
    ),
]
