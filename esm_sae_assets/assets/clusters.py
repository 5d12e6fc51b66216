"""Clusters: proteins by taxon, samples of the taxa with embeddings, and density clusters."""

from typing import cast

import dagster as dg

from esm_sae import clusters, embedding
from esm_sae.formats.shards import open_shards
from esm_sae_assets import metadata
from esm_sae_assets.assets.embeddings import embedding_options
from esm_sae_assets.catalogue.column_lineage import lineage_of
from esm_sae_assets.checks import clusters as look_at
from esm_sae_assets.checks import specs_of
from esm_sae_assets.external import download_asset, place_of, state_of
from esm_sae_assets.op_tags import GPU_POOL, MEMORY_POOL, gpu_op_tags
from esm_sae_assets.resources import DataRoot, EncoderResource
from esm_sae_assets.settings import LARGE_SAMPLE, Settings, code_version

GROUP = "clusters"

TAXONOMY, SPECIES_LIST = "taxonomy", "species_list"


def cluster_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the assets of the group ``clusters``."""
    return [*_taxon_assets(settings), *_density_assets(settings)]


def _taxon_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    chosen, samples = settings.clusters, settings.samples
    lengths = (samples.min_length, samples.small_max_length)
    # All residues of these proteins are kept, as float32.
    what_a_row_is = settings.embedding.model_dump(
        exclude={"sample", "sequences_per_shard", "residues_per_protein", "dtype", "device"}
    )
    downloads = [
        *download_asset(
            TAXONOMY,
            chosen.taxonomy,
            group=GROUP,
            description="NCBI's taxonomy as it came: ranks, names, and merged and deleted TaxIDs.",
            checksum=chosen.taxonomy_checksum,
        ),
        *download_asset(
            SPECIES_LIST,
            chosen.species_list,
            group=GROUP,
            description="UniProt's list of organism codes as it came.",
        ),
    ]

    class SampledConfig(dg.Config):
        min_size: int = chosen.taxon_min_size
        """Fewest proteins of a taxon that is sampled."""
        per_taxon: int = chosen.per_taxon
        """Proteins sampled from each taxon."""
        match_lengths: bool = chosen.match_lengths
        """Whether the samples of all taxa have the same lengths."""
        seed: int = settings.seed
        """Which proteins are drawn."""

    @dg.asset(
        group_name=GROUP,
        kinds={"polars", "parquet"},
        deps=[LARGE_SAMPLE, *downloads],
        check_specs=specs_of("taxonomy_clusters", look_at.TAXA),
        code_version=code_version(
            2,
            chosen.taxonomy,
            state_of(chosen.taxonomy),
            chosen.species_list,
            state_of(chosen.species_list),
            chosen.rank,
            chosen.organism,
        ),
    )
    def taxonomy_clusters(data: DataRoot) -> dg.MaterializeResult:
        """The large sample's proteins by taxon: one row is one protein.

        With a rank in the settings those whose taxon lies above it are left out and counted.
        """
        with metadata.materializing(data) as clock:
            product = clusters.cluster_taxa(
                data.sample(LARGE_SAMPLE),
                data.taxonomy_clusters,
                statistics_path=data.cluster_statistics,
                taxonomy=place_of(chosen.taxonomy, data, TAXONOMY),
                rank=chosen.rank or None,
                organism=chosen.organism,
                species_list=place_of(chosen.species_list, data, SPECIES_LIST),
            )
            sizes = metadata.plot(clusters.taxa_figure(data.cluster_statistics), "taxa")
            return metadata.result(
                product,
                clock,
                checks=look_at.taxa_checks(product, data.cluster_statistics, settings.checks),
                table=product.path,
                lineage=lineage_of("taxonomy_clusters", settings),
                taxa=sizes,
            )

    @dg.asset(
        group_name=GROUP,
        kinds={"json"},
        deps=[taxonomy_clusters, LARGE_SAMPLE],
        check_specs=specs_of("sampled_sequences", look_at.SAMPLES),
        code_version=code_version(
            2,
            chosen.taxon_min_size,
            chosen.per_taxon,
            chosen.match_lengths,
            lengths,
            settings.seed,
        ),
    )
    def sampled_sequences(config: SampledConfig, data: DataRoot) -> dg.MaterializeResult:
        """As many proteins of each large taxon, within the training sample's lengths.

        One row is one protein.
        """
        with metadata.materializing(data) as clock:
            product = clusters.subsample_clusters(
                data.taxonomy_clusters,
                data.sampled_sequences,
                fasta=data.sample(LARGE_SAMPLE),
                min_size=config.min_size,
                per_cluster=config.per_taxon,
                min_length=samples.min_length,
                max_length=samples.small_max_length,
                match_lengths=config.match_lengths,
                seed=config.seed,
            )
            return metadata.result(
                product,
                clock,
                checks=look_at.sample_checks(product),
                rows=product.manifest.summary["sequences"],
                seed=config.seed,
            )

    @dg.asset(
        group_name=GROUP,
        kinds={"pytorch", "json", "parquet"},
        deps=[sampled_sequences],
        pool=GPU_POOL,
        op_tags=gpu_op_tags(settings),
        check_specs=specs_of("embedded_clusters", look_at.EMBEDDED),
        code_version=code_version(
            3,
            what_a_row_is,
            state_of(settings.embedding.weights),
            settings.embedding.device_kind,
        ),
    )
    def embedded_clusters(data: DataRoot, encoder: EncoderResource) -> dg.MaterializeResult:
        """The taxa's sampled proteins with their embeddings, pooled as the training rows are.

        One row is one protein. Where training rows are residues, the proteins have their means, and
        all of their residues are kept beside the JSON. A parquet table beside it has what the JSON
        has.
        """
        with metadata.materializing(data) as clock:
            product = embedding.embed_clusters(
                data.sampled_sequences,
                data.embedded_clusters,
                encoder=encoder.load(),
                options=embedding_options(settings, settings.seed),
            )
            return metadata.result(
                product,
                clock,
                checks=look_at.embedded_checks(product, data.sampled_sequences, settings.checks),
                table=product.path.with_suffix(".parquet"),
                lineage=lineage_of("embedded_clusters", settings),
            )

    return [*downloads, taxonomy_clusters, sampled_sequences, embedded_clusters]


def _density_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    chosen = settings.clusters
    sample = settings.embedding.sample

    class DensityConfig(dg.Config):
        min_cluster_size: int = chosen.min_cluster_size
        """Fewest proteins of a cluster."""
        min_samples: int = chosen.min_samples
        """The larger, the more proteins are noise."""
        components: int = chosen.components
        """Principal components that HDBSCAN sees."""
        fit_rows: int = chosen.fit_rows
        """Most proteins that HDBSCAN is fitted to; the others are predicted."""
        selection: str = chosen.selection
        """auto, eom (persistent clusters) or leaf (the finest)."""
        backend: str = chosen.backend
        """hdbscan or fast_hdbscan."""
        seed: int = settings.seed
        """Which proteins HDBSCAN is fitted to, where there are too many."""

    @dg.asset(
        group_name=GROUP,
        kinds={"hdbscan", "parquet"},
        deps=["embedding_manifest"],
        pool=MEMORY_POOL,
        check_specs=specs_of("embedding_clusters", look_at.DENSITY),
        code_version=code_version(
            2,
            chosen.min_cluster_size,
            chosen.min_samples,
            chosen.components,
            chosen.fit_rows,
            chosen.selection,
            chosen.backend,
            settings.seed,
        ),
    )
    def embedding_clusters(config: DensityConfig, data: DataRoot) -> dg.MaterializeResult:
        """Density clusters (HDBSCAN) of the training sample's embeddings, one per protein.

        One row is one protein; cluster -1 is noise.
        """
        with metadata.materializing(data) as clock:
            shards = open_shards(data.shards)
            product = clusters.cluster_embeddings(
                shards,
                data.embedding_clusters,
                min_cluster_size=config.min_cluster_size,
                min_samples=config.min_samples,
                components=config.components,
                fit_rows=config.fit_rows,
                selection=cast(clusters.Selection, config.selection),
                backend=cast(clusters.Backend, config.backend),
                seed=config.seed,
            )
            return metadata.result(
                product,
                clock,
                checks=look_at.density_checks(product, shards, settings.checks),
                table=product.path,
                lineage=lineage_of("embedding_clusters", settings),
                seed=config.seed,
            )

    @dg.asset(
        group_name=GROUP,
        kinds={"json"},
        deps=[embedding_clusters, sample],
        check_specs=specs_of("embedding_clusters_json", look_at.DENSITY_JSON),
        code_version="1",
    )
    def embedding_clusters_json(data: DataRoot) -> dg.MaterializeResult:
        """The density clusters as sequences and headers, noise under -1.

        One entry is one protein.
        """
        with metadata.materializing(data) as clock:
            product = clusters.clusters_to_json(
                data.embedding_clusters,
                data.path("embedding_clusters.json"),
                fasta=data.sample(sample),
            )
            return metadata.result(
                product,
                clock,
                checks=look_at.json_checks(product, data.embedding_clusters),
                rows=product.manifest.summary["sequences"],
            )

    @dg.asset(
        group_name=GROUP,
        kinds={"polars", "parquet"},
        deps=[embedding_clusters],
        check_specs=specs_of("embedding_cluster_summary", look_at.SUMMARY),
        code_version=code_version(
            1,
            settings.similarity_clusters,
            state_of(settings.similarity_clusters),
            chosen.map,
            settings.seed,
        ),
    )
    def embedding_cluster_summary(data: DataRoot) -> dg.MaterializeResult:
        """What the density clusters are: one row is one cluster.

        Its size, its medoid, the taxa and the words of names that are commoner in it than
        elsewhere, and the similarity clusters it joins; beside it a map of the proteins.
        """
        with metadata.materializing(data) as clock:
            product = clusters.describe_clusters(
                data.embedding_clusters,
                data.cluster_summary,
                similarity_clusters=settings.similarity_clusters or None,
                layout=chosen.map,
                seed=settings.seed,
            )
            embedding_map = metadata.plot(clusters.embedding_map(product.path), "clusters")
            return metadata.result(
                product,
                clock,
                checks=look_at.summary_checks(product, data.embedding_clusters),
                table=product.path,
                lineage=lineage_of("embedding_cluster_summary", settings),
                map=embedding_map,
                seed=settings.seed,
            )

    return [embedding_clusters, embedding_clusters_json, embedding_cluster_summary]
