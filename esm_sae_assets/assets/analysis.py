"""Analysis: what each latent responds to."""

import dagster as dg

from esm_sae import analysis, sae
from esm_sae.analysis.queries import activation_parts
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
from esm_sae_assets.catalogue.column_lineage import lineage_of
from esm_sae_assets.checks import analysis as look_at
from esm_sae_assets.checks import at_each, specs_of
from esm_sae_assets.external import state_of
from esm_sae_assets.op_tags import GPU_POOL, gpu_op_tags
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
        kinds={"jax", "parquet"},
        partitions_def=by_k,
        deps=[
            dg.AssetDep("sae_checkpoint", partition_mapping=SAME_KEY),
            "embedding_manifest",
            settings.embedding.sample,
        ],
        pool=GPU_POOL,
        op_tags=gpu_op_tags(settings),
        check_specs=specs_of("feature_activations", look_at.ACTIVATIONS),
        code_version="3",
    )
    def feature_activations(
        context: dg.AssetExecutionContext, data: DataRoot
    ) -> dg.MaterializeResult:
        """Every activation of a latent on a row of the shards, and its maximum per protein.

        One row is a latent and a row of the shards on which it fires.
        """
        with metadata.materializing(data) as clock:
            k = int(context.partition_key)
            product = analysis.compute_activations(
                sae.load_checkpoint(data.sae(k)),
                open_shards(data.shards),
                data.analysis(k, "activations"),
                fasta=data.sample(settings.embedding.sample),
            )
            # From object storage those of another k, which may be of gigabytes, are not brought.
            ks = settings.sae.ks if data.is_local else (k,)
            folders = at_each(ks, lambda k: data.analysis(k, "activations"))
            return metadata.result(
                product,
                clock,
                checks=look_at.activation_checks(folders, settings.checks),
                rows=product.manifest.summary["activations"],
                table=activation_parts(product.path)[0],
                lineage=lineage_of("feature_activations", settings),
            )

    @dg.asset(
        group_name=GROUP,
        kinds={"jax", "parquet"},
        partitions_def=by_k,
        deps=["embedded_clusters", dg.AssetDep("sae_checkpoint", partition_mapping=SAME_KEY)],
        check_specs=specs_of("feature_taxonomy", look_at.TAXONOMY),
        code_version=code_version(3, families, chosen.permutations, settings.seed),
    )
    def feature_taxonomy(context: dg.AssetExecutionContext, data: DataRoot) -> dg.MaterializeResult:
        """How often each latent fires in each taxon: one row is a latent and a taxon.

        With a test of enrichment in which length and composition are held fixed and each protein
        family counts once per taxon.
        """
        with metadata.materializing(data) as clock:
            k = int(context.partition_key)
            product = analysis.feature_taxonomy(
                sae.load_checkpoint(data.sae(k)),
                data.embedded_clusters,
                data.analysis(k, "taxonomy"),
                similarity_clusters=settings.similarity_clusters or None,
                permutations=chosen.permutations,
                seed=settings.seed,
            )
            folders = at_each(settings.sae.ks, lambda k: data.analysis(k, "taxonomy"))
            return metadata.result(
                product,
                clock,
                checks=look_at.taxonomy_checks(folders),
                table=product.path / TAXONOMY,
                lineage=lineage_of("feature_taxonomy", settings),
                heatmap=metadata.plot(product.path / HEATMAP, "taxa"),
            )

    @dg.asset(
        group_name=GROUP,
        kinds={"jax", "parquet"},
        partitions_def=by_k,
        deps=[
            dg.AssetDep("sae_checkpoint", partition_mapping=SAME_KEY),
            dg.AssetDep(feature_activations, partition_mapping=SAME_KEY),
            "embedding_clusters",
            "embedding_cluster_summary",
        ],
        check_specs=specs_of("feature_clusters", look_at.LATENTS),
        code_version=code_version(
            2, families, settings.split_seed, chosen.decoder_min_cluster_size, settings.seed
        ),
    )
    def feature_clusters(context: dg.AssetExecutionContext, data: DataRoot) -> dg.MaterializeResult:
        """Which latents are alike, and which mark a density cluster.

        One row is two latents that are alike, in direction or in where they fire; beside it the map
        and the clusters of the decoder rows, and a table of latents and density clusters.
        """
        with metadata.materializing(data) as clock:
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
            folders = at_each(settings.sae.ks, lambda k: data.analysis(k, "clusters"))
            return metadata.result(
                product,
                clock,
                checks=look_at.latent_checks(folders, settings.checks),
                table=product.path / NEAR_DUPLICATES,
                lineage=lineage_of("feature_clusters", settings),
                map=metadata.plot(product.path / LATENT_MAP_FIGURE, "latents"),
            )

    @dg.asset(
        group_name=GROUP,
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
        check_specs=specs_of("feature_summary", look_at.SUMMARY),
        code_version=code_version(2, families, settings.split_seed),
    )
    def feature_summary(context: dg.AssetExecutionContext, data: DataRoot) -> dg.MaterializeResult:
        """What is known of each latent: one row is one latent."""
        with metadata.materializing(data) as clock:
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
            tables = at_each(settings.sae.ks, lambda k: data.analysis(k, "feature_summary.parquet"))
            return metadata.result(
                product,
                clock,
                checks=look_at.summary_checks(tables, data.analysis(k, "activations")),
                table=product.path,
                lineage=lineage_of("feature_summary", settings),
            )

    return [feature_activations, feature_taxonomy, feature_clusters, feature_summary]


def _latent_matches(settings: Settings) -> dg.AssetsDefinition:
    chosen = settings.analysis

    @dg.asset(
        group_name=GROUP,
        kinds={"jax", "parquet"},
        deps=[
            dg.AssetDep("sae_checkpoint", partition_mapping=FROM_ALL),
            dg.AssetDep("sae_replicate", partition_mapping=FROM_ALL),
            "embedding_manifest",
        ],
        pool=GPU_POOL,
        op_tags=gpu_op_tags(settings),
        check_specs=specs_of("latent_matches", look_at.MATCHES),
        code_version=code_version(
            2,
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
        with metadata.materializing(data) as clock:
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
                checks=look_at.match_checks(product),
                table=product.path / MATCH_COMPARISON,
                matches=metadata.plot(product.path / MATCH_FIGURE, "matches"),
            )

    return latent_matches
