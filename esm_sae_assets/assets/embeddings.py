"""Embeddings: the training sample through ESM-C, in shards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from esm_sae import embedding
from esm_sae.embedding.figures import lengths_figure, map_figure
from esm_sae.formats.manifest import Product
from esm_sae.formats.shards import (
    parse_shard_key,
    provenance_of,
    publish_manifest,
    shard_paths,
)
from esm_sae_assets import metadata
from esm_sae_assets.catalogue.column_lineage import lineage_of
from esm_sae_assets.checks import at_each, specs_of
from esm_sae_assets.checks import embeddings as look_at
from esm_sae_assets.external import state_of
from esm_sae_assets.op_tags import GPU_POOL, gpu_op_tags
from esm_sae_assets.partition_ranges import PartitionEvent, one_by_one, record_each
from esm_sae_assets.partitions import FROM_ALL, shard_partitions
from esm_sae_assets.resources import DataRoot, EncoderResource
from esm_sae_assets.settings import Settings, code_version
from esm_sae_assets.shard_changes import CHANGES, change_of, changes_asset

GROUP = "embeddings"


def embedding_assets(settings: Settings) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Build the assets of the group ``embeddings``."""
    chosen = settings.embedding

    class EmbeddingConfig(dg.Config):
        seed: int = settings.seed
        """Which residues are kept, where rows are residues."""

    @dg.asset(
        group_name=GROUP,
        kinds={"pytorch", "numpy"},
        partitions_def=shard_partitions(settings),
        backfill_policy=dg.BackfillPolicy.multi_run(settings.schedules.shards_per_run),
        # record_each records the partitions.
        output_required=False,
        deps=[chosen.sample],
        pool=GPU_POOL,
        op_tags=gpu_op_tags(settings),
        check_specs=specs_of("embedding_shards", look_at.SHARD),
        code_version=code_version(
            2,
            chosen.model_dump(exclude={"device", "sequences_per_shard"}),
            state_of(chosen.weights),
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
    ) -> Iterator[PartitionEvent]:
        """ESM-C embeddings of a contiguous run of the training sample.

        A row is a protein (pooled as the settings say, by default its residues' mean) or a
        residue; the table beside the matrix names each.
        """
        made: dict[str, Product] = {}
        with metadata.materializing(data) as clock:
            model = encoder.load()

            def embed(partition: str) -> dg.MaterializeResult:
                clock.restart()
                shard, count = parse_shard_key(partition)
                embedded = embedding.embed_shard(
                    data.sample(chosen.sample),
                    data.shard_folder(partition),
                    shard=shard,
                    count=count,
                    encoder=model,
                    options=embedding_options(settings, config.seed),
                )
                product = made[partition] = embedded.product
                result = metadata.result(
                    product,
                    clock,
                    table=product.path.with_suffix(".parquet"),
                    lineage=lineage_of("embedding_shards", settings),
                    map=metadata.plot(map_figure(product), "proteins by taxon"),
                    lengths=metadata.plot(lengths_figure(product), "lengths"),
                    **_speed(embedded),
                    **metadata.peak_device_memory(model.device),
                    seed=config.seed,
                )
                # Last: by then the shard is in the data root, wherever that is.
                change = change_of(
                    partition, product.manifest.data_version, context.asset_key, context.instance
                )
                if change:
                    context.log_event(change)
                return result

            results = one_by_one(context.partition_keys, embed)
            yield from record_each(
                context,
                results,
                lambda: look_at.shard_checks(
                    at_each(made, made.__getitem__), data.sample(chosen.sample)
                ),
            )

    @dg.asset(
        group_name=GROUP,
        kinds={"json"},
        deps=[dg.AssetDep(embedding_shards, partition_mapping=FROM_ALL), CHANGES],
        check_specs=specs_of("embedding_manifest", look_at.MANIFEST),
        code_version=code_version(1, settings.shard_count),
    )
    def embedding_manifest(data: DataRoot) -> dg.MaterializeResult:
        """The shards as one whole: complete, of one origin, with one data version.

        A row is one of a shard. What depends on all shards depends on this asset: Dagster stops
        comparing versions past 100 upstream partitions.
        """
        with metadata.materializing(data) as clock:
            count = settings.shard_count
            here = data.is_local
            product = publish_manifest(data.shard_tables(count), count=count, matrices=here)
            provenance = provenance_of(product.manifest.determinants)
            return metadata.result(
                product,
                clock,
                rows=product.manifest.summary["rows"],
                table=_first_rows(product.path, count),
                lineage=lineage_of("embedding_manifest", settings),
                checks=look_at.manifest_checks(product, count, settings.checks, matrices=here),
                rows_are=provenance.describe(),
            )

    return [
        embedding_shards,
        changes_asset(embedding_shards, GROUP),
        embedding_manifest,
        *_untrained_assets(settings),
    ]


def _untrained_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    chosen = settings.embedding

    class UntrainedConfig(dg.Config):
        seed: int = settings.seed
        """Which residues are kept, where rows are residues."""

    @dg.asset(
        group_name=GROUP,
        kinds={"pytorch", "numpy"},
        deps=[chosen.sample],
        pool=GPU_POOL,
        op_tags=gpu_op_tags(settings),
        check_specs=specs_of("untrained_embeddings", look_at.MANIFEST),
        code_version=code_version(
            1, chosen.model_dump(exclude={"device", "weights"}), chosen.device_kind, settings.seed
        ),
    )
    def untrained_embeddings(
        config: UntrainedConfig, data: DataRoot, untrained_encoder: EncoderResource
    ) -> dg.MaterializeResult:
        """The rows of embedding_shards as the encoder gives them with random weights.

        What can be found in them is not owed to what the encoder learned.
        """
        with metadata.materializing(data) as clock:
            model = untrained_encoder.load()
            product = embedding.embed_fasta(
                data.sample(chosen.sample),
                data.untrained_shards,
                encoder=model,
                options=embedding_options(settings, config.seed),
                sequences_per_shard=chosen.sequences_per_shard,
            )
            provenance = provenance_of(product.manifest.determinants)
            count = product.manifest.summary["shards"]
            return metadata.result(
                product,
                clock,
                rows=product.manifest.summary["rows"],
                table=_first_rows(data.untrained_shards, count),
                lineage=lineage_of("untrained_embeddings", settings),
                checks=look_at.manifest_checks(product, count, settings.checks),
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


def _first_rows(folder: Path, count: int) -> Path:
    """Return the row table of the first shard, which has the columns of all."""
    return shard_paths(folder, 0, count, with_means=False)[1]


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
