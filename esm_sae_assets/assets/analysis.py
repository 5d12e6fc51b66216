"""Analysis: what each latent responds to."""

import dagster as dg

from esm_sae import analysis, sae
from esm_sae.formats.shards import open_shards
from esm_sae_assets import metadata
from esm_sae_assets.assets import OWNERS
from esm_sae_assets.op_tags import GPU_OP_TAGS, GPU_POOL
from esm_sae_assets.partitions import SAME_KEY, k_partitions
from esm_sae_assets.resources import DataRoot
from esm_sae_assets.settings import Settings

GROUP = "analysis"


def analysis_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the assets of the group ``analysis``."""
    by_k = k_partitions(settings)

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"jax", "parquet"},
        partitions_def=by_k,
        deps=[
            dg.AssetDep("sae_checkpoint", partition_mapping=SAME_KEY),
            "embedding_manifest",
            settings.embedding.sample,
        ],
        pool=GPU_POOL,
        op_tags=GPU_OP_TAGS,
        code_version="1",
    )
    def feature_activations(
        context: dg.AssetExecutionContext, data: DataRoot
    ) -> dg.MaterializeResult:
        """Every activation of a latent on a row of the shards, and its maximum per protein."""
        with metadata.materializing() as clock:
            k = int(context.partition_key)
            product = analysis.compute_activations(
                sae.load_checkpoint(data.sae(k)),
                open_shards(data.shards),
                data.analysis(k, "activations"),
                fasta=data.sample(settings.embedding.sample),
            )
            return metadata.result(product, clock, rows=product.manifest.summary["activations"])

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"jax", "parquet"},
        partitions_def=by_k,
        deps=["embedded_clusters", dg.AssetDep("sae_checkpoint", partition_mapping=SAME_KEY)],
        code_version="1",
    )
    def feature_taxonomy(context: dg.AssetExecutionContext, data: DataRoot) -> dg.MaterializeResult:
        """How often each latent fires in each taxon: one row is a latent and a taxon.

        A description, not a test: families common in one taxon can pass for taxonomy.
        """
        with metadata.materializing() as clock:
            k = int(context.partition_key)
            product = analysis.feature_taxonomy(
                sae.load_checkpoint(data.sae(k)),
                data.embedded_clusters,
                data.analysis(k, "taxonomy"),
            )
            return metadata.result(
                product,
                clock,
                table=product.path / "feature_taxonomy.parquet",
                heatmap=metadata.plot(product.path / "heatmap.png", "taxa"),
            )

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "parquet"},
        partitions_def=by_k,
        deps=[
            dg.AssetDep(feature_activations, partition_mapping=SAME_KEY),
            dg.AssetDep(feature_taxonomy, partition_mapping=SAME_KEY),
        ],
        code_version="1",
    )
    def feature_summary(context: dg.AssetExecutionContext, data: DataRoot) -> dg.MaterializeResult:
        """What is known of each latent: one row is one latent."""
        with metadata.materializing() as clock:
            k = int(context.partition_key)
            product = analysis.summarise_latents(
                data.analysis(k, "activations"),
                data.analysis(k, "taxonomy"),
                data.analysis(k, "feature_summary.parquet"),
            )
            return metadata.result(product, clock, table=product.path)

    return [feature_activations, feature_taxonomy, feature_summary]
