"""Embeddings: the training sample through ESM-C, in shards."""

from typing import Any

import dagster as dg

from esm_sae import embedding
from esm_sae.embedding.figures import lengths_figure, map_figure
from esm_sae.embedding.verification import verify_shard, verify_shards
from esm_sae.formats.shards import parse_shard_key, provenance_of, publish_manifest
from esm_sae_assets import metadata
from esm_sae_assets.assets import OWNERS
from esm_sae_assets.checks import look_again
from esm_sae_assets.op_tags import GPU_OP_TAGS, GPU_POOL
from esm_sae_assets.partitions import FROM_ALL, shard_partitions
from esm_sae_assets.resources import DataRoot, EncoderResource
from esm_sae_assets.settings import Settings, code_version

GROUP = "embeddings"

_SOUND, _COMPLETE = "rows_are_sound", "shards_are_complete"


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
        check_specs=[
            dg.AssetCheckSpec(
                _SOUND,
                asset="embedding_shards",
                description="Of the latest shard: its shape and number format are as recorded, "
                "every row is named in the table, all values are finite, no row is zero, and "
                "every norm is within 1,000 times the median.",
            )
        ],
        code_version=code_version(
            2,
            chosen.model_dump(exclude={"device"}),
            chosen.device_kind,
            settings.shard_count,
            settings.seed,
        ),
    )
    def embedding_shards(
        context: dg.AssetExecutionContext,
        config: EmbeddingConfig,
        data: DataRoot,
        encoder: EncoderResource,
    ) -> dg.MaterializeResult:
        """ESM-C embeddings of a contiguous run of the training sample.

        A row is a protein (pooled as the settings say, by default its residues' mean) or a
        residue; the table beside the matrix names each.
        """
        with metadata.materializing() as clock:
            shard, count = parse_shard_key(context.partition_key)
            model = encoder.load()
            embedded = embedding.embed_shard(
                data.sample(chosen.sample),
                data.shards,
                shard=shard,
                count=count,
                encoder=model,
                options=embedding_options(settings, config.seed),
            )
            product = embedded.product
            return metadata.result(
                product,
                clock,
                rows=product.manifest.summary["rows"],
                checks=[
                    look_again(_SOUND, lambda: verify_shard(product), shard=context.partition_key)
                ],
                map=metadata.plot(map_figure(product), "proteins by taxon"),
                lengths=metadata.plot(lengths_figure(product), "lengths"),
                **_speed(embedded),
                **metadata.peak_device_memory(model.device),
                seed=config.seed,
            )

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"json"},
        deps=[dg.AssetDep(embedding_shards, partition_mapping=FROM_ALL)],
        check_specs=[
            dg.AssetCheckSpec(
                _COMPLETE,
                asset="embedding_manifest",
                description="All shards are there and of one origin, every row is named in a "
                "table, and the proteins add up.",
            )
        ],
        code_version=code_version(1, settings.shard_count),
    )
    def embedding_manifest(data: DataRoot) -> dg.MaterializeResult:
        """The shards as one whole: complete, of one origin, with one data version.

        What depends on all shards depends on this asset: Dagster stops comparing versions past
        100 upstream partitions.
        """
        with metadata.materializing() as clock:
            count = settings.shard_count
            product = publish_manifest(data.shards, count=count)
            provenance = provenance_of(product.manifest.determinants)
            return metadata.result(
                product,
                clock,
                rows=product.manifest.summary["rows"],
                checks=[look_again(_COMPLETE, lambda: verify_shards(product, count=count))],
                rows_are=provenance.describe(),
            )

    return [embedding_shards, embedding_manifest, *_untrained_assets(settings)]


def _untrained_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    chosen = settings.embedding

    class UntrainedConfig(dg.Config):
        seed: int = settings.seed
        """Which residues are kept, where rows are residues."""

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"torch", "numpy"},
        deps=[chosen.sample],
        pool=GPU_POOL,
        op_tags=GPU_OP_TAGS,
        code_version=code_version(
            1, chosen.model_dump(exclude={"device"}), chosen.device_kind, settings.seed
        ),
    )
    def untrained_embeddings(
        config: UntrainedConfig, data: DataRoot, untrained_encoder: EncoderResource
    ) -> dg.MaterializeResult:
        """The rows of ``embedding_shards`` as the encoder gives them with random weights.

        What can be found in them is not owed to what the encoder learned.
        """
        with metadata.materializing() as clock:
            model = untrained_encoder.load()
            product = embedding.embed_fasta(
                data.sample(chosen.sample),
                data.untrained_shards,
                encoder=model,
                options=embedding_options(settings, config.seed),
                sequences_per_shard=chosen.sequences_per_shard,
            )
            provenance = provenance_of(product.manifest.determinants)
            return metadata.result(
                product,
                clock,
                rows=product.manifest.summary["rows"],
                rows_are=provenance.describe(),
                **metadata.peak_device_memory(model.device),
                seed=config.seed,
            )

    return [untrained_embeddings] if settings.sae.untrained_baseline else []


def embedding_options(settings: Settings, seed: int) -> "embedding.EmbeddingOptions":
    """Return the options that the shards and the taxa's samples share."""
    chosen = settings.embedding
    return embedding.EmbeddingOptions(
        pooling=chosen.pooling,
        # A profile's value stays when rows are proteins: the environment cannot unset it.
        residues_per_protein=chosen.residues_per_protein if chosen.pooling == "residue" else None,
        layer=chosen.layer,
        dtype=chosen.dtype,
        batch_tokens=chosen.batch_tokens,
        max_length=chosen.max_length,
        long_sequences=chosen.long_sequences,
        seed=seed,
    )


def _speed(embedded: "embedding.ShardResult") -> dict[str, Any]:
    """Return how this run computed; nothing where the shard was there."""
    if not embedded.batches:
        return {}
    return {
        "residues_per_second": round(embedded.residues / embedded.seconds),
        "batches": embedded.batches,
        "resumed_share": embedded.resumed,
        "padding_share": embedded.padding_share,
        "batch_tokens": embedded.batch_tokens,
    }
