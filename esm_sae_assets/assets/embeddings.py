"""Embeddings: the training sample through ESM-C, in shards."""

import dagster as dg

from esm_sae import embedding
from esm_sae.formats.shards import open_shards, parse_shard_key, publish_manifest
from esm_sae_assets import metadata
from esm_sae_assets.assets import OWNERS
from esm_sae_assets.op_tags import GPU_OP_TAGS, GPU_POOL
from esm_sae_assets.partitions import FROM_ALL, shard_partitions
from esm_sae_assets.resources import DataRoot, EncoderResource
from esm_sae_assets.settings import Settings, code_version

GROUP = "embeddings"


def embedding_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the assets of the group ``embeddings``."""
    chosen = settings.embedding

    class EmbeddingConfig(dg.Config):
        seed: int = settings.seed
        """Which residues are kept, where rows are residues."""

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"torch", "numpy"},
        partitions_def=shard_partitions(settings),
        deps=[chosen.sample],
        pool=GPU_POOL,
        op_tags=GPU_OP_TAGS,
        code_version=code_version(
            1, chosen.model_dump(exclude={"device"}), settings.shard_count, settings.seed
        ),
    )
    def embedding_shards(
        context: dg.AssetExecutionContext,
        config: EmbeddingConfig,
        data: DataRoot,
        encoder: EncoderResource,
    ) -> dg.MaterializeResult:
        """ESM-C embeddings of a contiguous run of the training sample.

        A row is a protein (mean over its residues) or a residue, as the settings say; the table
        beside the matrix names each.
        """
        with metadata.materializing() as clock:
            shard, count = parse_shard_key(context.partition_key)
            embedded = embedding.embed_shard(
                data.sample(chosen.sample),
                data.shards,
                shard=shard,
                count=count,
                encoder=encoder.load(),
                options=embedding_options(settings, config.seed),
            )
            rate = embedded.residues / embedded.seconds if embedded.seconds else 0.0
            return metadata.result(
                embedded.product,
                clock,
                rows=embedded.product.manifest.summary["rows"],
                residues_per_second=round(rate),
                seed=config.seed,
            )

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"json"},
        deps=[dg.AssetDep(embedding_shards, partition_mapping=FROM_ALL)],
        code_version=code_version(1, settings.shard_count),
    )
    def embedding_manifest(data: DataRoot) -> dg.MaterializeResult:
        """The shards as one whole: complete, of one origin, with one data version.

        What depends on all shards depends on this asset: Dagster stops comparing versions past
        100 upstream partitions.
        """
        with metadata.materializing() as clock:
            product = publish_manifest(data.shards, count=settings.shard_count)
            shards = open_shards(data.shards)
            return metadata.result(
                product, clock, rows=shards.rows, rows_are=shards.provenance.describe()
            )

    return [embedding_shards, embedding_manifest]


def embedding_options(settings: Settings, seed: int) -> "embedding.EmbeddingOptions":
    """Return the options that the shards and the taxa's samples share."""
    chosen = settings.embedding
    return embedding.EmbeddingOptions(
        rows=chosen.rows,
        # A profile's value stays when rows are set to means: the environment cannot unset it.
        residues_per_protein=chosen.residues_per_protein if chosen.rows == "residue" else None,
        layer=chosen.layer,
        dtype=chosen.dtype,
        batch_tokens=chosen.batch_tokens,
        seed=seed,
    )
