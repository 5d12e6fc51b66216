"""Concepts: which latents mark what is known of proteins, and what else would."""

import dagster as dg

from esm_sae import analysis, sae
from esm_sae.formats.analysis_tables import (
    BASELINES,
    CONCEPT_COMPARISON,
    FEATURE_CONCEPTS,
)
from esm_sae.formats.shards import open_shards
from esm_sae_assets import metadata
from esm_sae_assets.catalogue.column_lineage import lineage_of
from esm_sae_assets.checks import at_each, specs_of
from esm_sae_assets.checks import concepts as look_at
from esm_sae_assets.external import state_of
from esm_sae_assets.op_tags import GPU_POOL, gpu_op_tags
from esm_sae_assets.partitions import FROM_ALL, SAME_KEY, k_partitions
from esm_sae_assets.resources import DataRoot
from esm_sae_assets.settings import Settings, code_version

GROUP = "analysis"


def concept_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the assets of concepts, which are of the group ``analysis``."""
    chosen = settings.analysis
    sample = settings.embedding.sample
    held_out = (
        settings.similarity_clusters,
        state_of(settings.similarity_clusters),
        settings.split_seed,
        chosen.min_positives,
        settings.seed,
    )
    untrained = settings.sae.untrained_baseline

    @dg.asset(
        group_name=GROUP,
        kinds={"polars", "parquet"},
        deps=[sample],
        check_specs=specs_of("concept_annotations", look_at.ANNOTATIONS),
        code_version=code_version(1, chosen.annotations, state_of(chosen.annotations)),
    )
    def concept_annotations(data: DataRoot) -> dg.MaterializeResult:
        """What is known of the proteins: one row is a protein, or a stretch of one, and a concept.

        Families by the names in the headers, what the sequence itself shows, and the annotations
        of a UniProt export where the settings name one.
        """
        with metadata.materializing(data) as clock:
            product = analysis.annotate_concepts(
                data.sample(sample),
                data.concept_annotations,
                annotations=chosen.annotations or None,
            )
            return metadata.result(
                product,
                clock,
                checks=look_at.annotation_checks(product, data.sample(sample)),
                table=product.path,
                lineage=lineage_of("concept_annotations", settings),
            )

    @dg.asset(
        group_name=GROUP,
        kinds={"jax", "parquet"},
        deps=[
            "embedding_manifest",
            concept_annotations,
            sample,
            dg.AssetDep("sae_checkpoint", partition_mapping=FROM_ALL),
            *(
                [
                    "untrained_embeddings",
                    dg.AssetDep("sae_untrained", partition_mapping=FROM_ALL),
                ]
                if untrained
                else []
            ),
        ],
        pool=GPU_POOL,
        op_tags=gpu_op_tags(settings),
        check_specs=specs_of("concept_baselines", look_at.BASELINES),
        code_version=code_version(2, held_out, settings.sae.ks),
    )
    def concept_baselines(data: DataRoot) -> dg.MaterializeResult:
        """What marks the concepts without a trained autoencoder: one row is a method.

        Raw dimensions, principal components, k-means, dictionaries that were never trained, an
        untrained encoder's autoencoder, and the sequence's composition, each with as many
        candidates as it has, up to the number of latents or more; and a probe on all dimensions.
        """
        with metadata.materializing(data) as clock:
            ks = settings.sae.ks
            shards = open_shards(data.shards)
            product = analysis.score_baselines(
                shards,
                data.concept_annotations,
                data.concept_baselines,
                fasta=data.sample(sample),
                latent_dim=settings.sae.latent_dim,
                random=sae.random_dictionaries(
                    {k: data.sae(k) for k in ks},
                    shards,
                    similarity_clusters=settings.similarity_clusters or None,
                    split_seed=settings.split_seed,
                ),
                untrained=(
                    (
                        open_shards(data.untrained_shards),
                        {k: sae.load_checkpoint(data.sae(k, "untrained")) for k in ks},
                    )
                    if untrained
                    else None
                ),
                similarity_clusters=settings.similarity_clusters or None,
                split_seed=settings.split_seed,
                min_positives=chosen.min_positives,
                seed=settings.seed,
            )
            return metadata.result(
                product,
                clock,
                checks=look_at.baseline_checks(product),
                table=product.path / BASELINES,
            )

    @dg.asset(
        group_name=GROUP,
        kinds={"polars", "parquet"},
        partitions_def=k_partitions(settings),
        deps=[
            dg.AssetDep("feature_activations", partition_mapping=SAME_KEY),
            concept_annotations,
            concept_baselines,
        ],
        check_specs=specs_of("feature_concepts", look_at.CONCEPTS),
        code_version=code_version(1, held_out),
    )
    def feature_concepts(context: dg.AssetExecutionContext, data: DataRoot) -> dg.MaterializeResult:
        """How well each latent marks each concept: one row is a latent and a concept.

        Threshold and latent are chosen on validation proteins, the figures are of test proteins.
        """
        with metadata.materializing(data) as clock:
            k = int(context.partition_key)
            product = analysis.score_concepts(
                data.analysis(k, "activations"),
                data.concept_annotations,
                data.analysis(k, "concepts"),
                similarity_clusters=settings.similarity_clusters or None,
                split_seed=settings.split_seed,
                min_positives=chosen.min_positives,
                baselines=data.concept_baselines,
                seed=settings.seed,
            )
            return metadata.result(
                product,
                clock,
                checks=look_at.concept_checks(
                    at_each(settings.sae.ks, lambda k: data.analysis(k, "concepts"))
                ),
                table=product.path / FEATURE_CONCEPTS,
                lineage=lineage_of("feature_concepts", settings),
                comparison=metadata.plot(product.path / CONCEPT_COMPARISON, "concepts"),
            )

    return [concept_annotations, concept_baselines, feature_concepts]
