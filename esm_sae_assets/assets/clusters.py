"""Clusters: proteins by taxon, samples of the taxa with embeddings, and density clusters."""

import dagster as dg

from esm_sae import clusters, embedding
from esm_sae.formats.shards import open_shards
from esm_sae_assets import metadata
from esm_sae_assets.assets import OWNERS
from esm_sae_assets.assets.embeddings import embedding_options
from esm_sae_assets.op_tags import GPU_OP_TAGS, GPU_POOL, MEMORY_POOL
from esm_sae_assets.resources import DataRoot, EncoderResource
from esm_sae_assets.settings import LARGE_SAMPLE, Settings, code_version

GROUP = "clusters"


def cluster_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the assets of the group ``clusters``."""
    chosen, samples = settings.clusters, settings.samples
    sample = settings.embedding.sample
    density = chosen.model_dump(exclude={"taxon_min_size", "per_taxon"})
    lengths = (samples.min_length, samples.small_max_length)
    # All residues of these proteins are kept, as float32.
    what_a_row_is = settings.embedding.model_dump(
        exclude={"sample", "sequences_per_shard", "residues_per_protein", "dtype", "device"}
    )

    class SampledConfig(dg.Config):
        min_size: int = chosen.taxon_min_size
        """Fewest proteins of a taxon that is sampled."""
        per_taxon: int = chosen.per_taxon
        """Proteins sampled from each taxon."""
        seed: int = settings.seed
        """Which proteins are drawn."""

    class DensityConfig(dg.Config):
        min_cluster_size: int = chosen.min_cluster_size
        """Fewest proteins of a cluster."""
        min_samples: int = chosen.min_samples
        """The larger, the more proteins are noise."""
        seed: int = settings.seed
        """Which proteins HDBSCAN is fitted to, where there are too many."""

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "parquet"},
        deps=[LARGE_SAMPLE],
        code_version="1",
    )
    def taxonomy_clusters(data: DataRoot) -> dg.MaterializeResult:
        """The large sample's proteins by taxon: one row is one protein."""
        with metadata.materializing() as clock:
            product = clusters.cluster_taxa(
                data.sample(LARGE_SAMPLE),
                data.taxonomy_clusters,
                statistics_path=data.path("cluster_statistics.json"),
            )
            return metadata.result(product, clock, table=product.path)

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"json"},
        deps=[taxonomy_clusters, LARGE_SAMPLE],
        code_version=code_version(
            1, chosen.taxon_min_size, chosen.per_taxon, lengths, settings.seed
        ),
    )
    def sampled_sequences(config: SampledConfig, data: DataRoot) -> dg.MaterializeResult:
        """As many proteins of each large taxon, within the training sample's lengths."""
        with metadata.materializing() as clock:
            product = clusters.subsample_clusters(
                data.taxonomy_clusters,
                data.sampled_sequences,
                fasta=data.sample(LARGE_SAMPLE),
                min_size=config.min_size,
                per_cluster=config.per_taxon,
                min_length=samples.min_length,
                max_length=samples.small_max_length,
                seed=config.seed,
            )
            return metadata.result(
                product, clock, rows=product.manifest.summary["sequences"], seed=config.seed
            )

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"torch", "json"},
        deps=[sampled_sequences],
        pool=GPU_POOL,
        op_tags=GPU_OP_TAGS,
        code_version=code_version(2, what_a_row_is, settings.embedding.device_kind),
    )
    def embedded_clusters(data: DataRoot, encoder: EncoderResource) -> dg.MaterializeResult:
        """The taxa's sampled proteins with their embeddings, pooled as the training rows are.

        Where those are residues, the proteins have their means, and all of their residues are
        kept beside the JSON.
        """
        with metadata.materializing() as clock:
            product = embedding.embed_clusters(
                data.sampled_sequences,
                data.embedded_clusters,
                encoder=encoder.load(),
                options=embedding_options(settings, settings.seed),
            )
            return metadata.result(product, clock, rows=product.manifest.summary["proteins"])

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"parquet"},
        deps=["embedding_manifest"],
        pool=MEMORY_POOL,
        code_version=code_version(1, density, settings.seed),
    )
    def embedding_clusters(config: DensityConfig, data: DataRoot) -> dg.MaterializeResult:
        """Density clusters (HDBSCAN) of the training sample's embeddings, one per protein.

        One row is one protein; cluster -1 is noise.
        """
        with metadata.materializing() as clock:
            shards = open_shards(data.shards)
            product = clusters.cluster_embeddings(
                shards,
                data.embedding_clusters,
                min_cluster_size=config.min_cluster_size,
                min_samples=config.min_samples,
                components=chosen.components,
                fit_rows=chosen.fit_rows,
                seed=config.seed,
            )
            embedding_map = metadata.plot(
                clusters.embedding_map(shards, product.path, seed=config.seed), "clusters"
            )
            return metadata.result(
                product, clock, table=product.path, map=embedding_map, seed=config.seed
            )

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"json"},
        deps=[embedding_clusters, sample],
        code_version="1",
    )
    def embedding_clusters_json(data: DataRoot) -> dg.MaterializeResult:
        """The density clusters as sequences and headers; noise under ``-1``."""
        with metadata.materializing() as clock:
            product = clusters.clusters_to_json(
                data.embedding_clusters,
                data.path("embedding_clusters.json"),
                fasta=data.sample(sample),
            )
            return metadata.result(product, clock)

    return [
        taxonomy_clusters,
        sampled_sequences,
        embedded_clusters,
        embedding_clusters,
        embedding_clusters_json,
    ]
