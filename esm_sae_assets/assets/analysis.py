"""Analysis: what each latent responds to."""

import dagster as dg

from esm_sae import analysis, sae
from esm_sae.formats.analysis_tables import (
    HEATMAP,
    LATENT_MAP_FIGURE,
    MATCH_COMPARISON,
    MATCH_FIGURE,
    NEAR_DUPLICATES,
    TAXONOMY,
)
from esm_sae.formats.shards import open_shards
from esm_sae_assets import metadata
from esm_sae_assets.assets import OWNERS
from esm_sae_assets.external import state_of
from esm_sae_assets.op_tags import GPU_OP_TAGS, GPU_POOL
from esm_sae_assets.partitions import FROM_ALL, SAME_KEY, k_partitions
from esm_sae_assets.resources import DataRoot
from esm_sae_assets.settings import Settings, code_version

GROUP = "analysis"


def analysis_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the assets of the group ``analysis`` that are about latents themselves."""
    return [
        *_per_autoencoder(settings),
        *([_latent_matches(settings)] if settings.sae.replicate else []),
    ]


def _per_autoencoder(settings: Settings) -> list[dg.AssetsDefinition]:
    by_k = k_partitions(settings)
    chosen = settings.analysis
    replicate = settings.sae.replicate
    families = (settings.similarity_clusters, state_of(settings.similarity_clusters))

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
        code_version="2",
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
        code_version=code_version(2, families, chosen.permutations, settings.seed),
    )
    def feature_taxonomy(context: dg.AssetExecutionContext, data: DataRoot) -> dg.MaterializeResult:
        """How often each latent fires in each taxon: one row is a latent and a taxon.

        With a test of enrichment in which length and composition are held fixed and each protein
        family counts once per taxon.
        """
        with metadata.materializing() as clock:
            k = int(context.partition_key)
            product = analysis.feature_taxonomy(
                sae.load_checkpoint(data.sae(k)),
                data.embedded_clusters,
                data.analysis(k, "taxonomy"),
                similarity_clusters=settings.similarity_clusters or None,
                permutations=chosen.permutations,
                seed=settings.seed,
            )
            return metadata.result(
                product,
                clock,
                table=product.path / TAXONOMY,
                heatmap=metadata.plot(product.path / HEATMAP, "taxa"),
            )

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"jax", "parquet"},
        partitions_def=by_k,
        deps=[
            dg.AssetDep("sae_checkpoint", partition_mapping=SAME_KEY),
            dg.AssetDep(feature_activations, partition_mapping=SAME_KEY),
            "embedding_clusters",
            "embedding_cluster_summary",
        ],
        code_version=code_version(
            1, families, settings.split_seed, chosen.decoder_min_cluster_size, settings.seed
        ),
    )
    def feature_clusters(context: dg.AssetExecutionContext, data: DataRoot) -> dg.MaterializeResult:
        """Which latents are alike, and which mark a density cluster.

        One row is two latents that are alike, in direction or in where they fire; beside it the map
        and the clusters of the decoder rows, and a table of latents and density clusters.
        """
        with metadata.materializing() as clock:
            k = int(context.partition_key)
            product = analysis.cluster_latents(
                sae.load_checkpoint(data.sae(k)),
                data.analysis(k, "activations"),
                data.embedding_clusters,
                data.analysis(k, "clusters"),
                cluster_summary=data.cluster_summary,
                similarity_clusters=settings.similarity_clusters or None,
                split_seed=settings.split_seed,
                min_cluster_size=chosen.decoder_min_cluster_size,
                seed=settings.seed,
            )
            return metadata.result(
                product,
                clock,
                table=product.path / NEAR_DUPLICATES,
                map=metadata.plot(product.path / LATENT_MAP_FIGURE, "latents"),
            )

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "parquet"},
        partitions_def=by_k,
        deps=[
            dg.AssetDep(feature_activations, partition_mapping=SAME_KEY),
            dg.AssetDep(feature_taxonomy, partition_mapping=SAME_KEY),
            dg.AssetDep("feature_concepts", partition_mapping=SAME_KEY),
            dg.AssetDep(feature_clusters, partition_mapping=SAME_KEY),
            "concept_annotations",
            *(["latent_matches"] if replicate else []),
        ],
        code_version=code_version(2, families, settings.split_seed),
    )
    def feature_summary(context: dg.AssetExecutionContext, data: DataRoot) -> dg.MaterializeResult:
        """What is known of each latent: one row is one latent."""
        with metadata.materializing() as clock:
            k = int(context.partition_key)
            product = analysis.summarise_latents(
                data.analysis(k, "activations"),
                data.analysis(k, "taxonomy"),
                data.analysis(k, "feature_summary.parquet"),
                concepts=data.analysis(k, "concepts"),
                clusters=data.analysis(k, "clusters"),
                matches=data.latent_matches if replicate else None,
                annotations=data.concept_annotations,
                similarity_clusters=settings.similarity_clusters or None,
                split_seed=settings.split_seed,
            )
            return metadata.result(product, clock, table=product.path)

    return [feature_activations, feature_taxonomy, feature_clusters, feature_summary]


def _latent_matches(settings: Settings) -> dg.AssetsDefinition:
    chosen = settings.analysis

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"jax", "parquet"},
        deps=[
            dg.AssetDep("sae_checkpoint", partition_mapping=FROM_ALL),
            dg.AssetDep("sae_replicate", partition_mapping=FROM_ALL),
            "embedding_manifest",
        ],
        pool=GPU_POOL,
        op_tags=GPU_OP_TAGS,
        code_version=code_version(
            1,
            settings.sae.ks,
            settings.similarity_clusters,
            state_of(settings.similarity_clusters),
            settings.split_seed,
            chosen.match_rows,
            settings.seed,
        ),
    )
    def latent_matches(data: DataRoot) -> dg.MaterializeResult:
        """Which latents autoencoders of different seeds share: one row is two autoencoders.

        Across values of k, with two seeds of one k beside them, which is as much as can be shared.
        """
        with metadata.materializing() as clock:
            ks = settings.sae.ks
            product = analysis.match_latents(
                {k: sae.load_checkpoint(data.sae(k)) for k in ks},
                {k: sae.load_checkpoint(data.sae(k, "replicate")) for k in ks},
                open_shards(data.shards),
                data.latent_matches,
                similarity_clusters=settings.similarity_clusters or None,
                split_seed=settings.split_seed,
                max_rows=chosen.match_rows,
                seed=settings.seed,
            )
            return metadata.result(
                product,
                clock,
                table=product.path / MATCH_COMPARISON,
                matches=metadata.plot(product.path / MATCH_FIGURE, "matches"),
            )

    return latent_matches
