"""SAE: TopK sparse autoencoders over k, their metrics, and the comparison over k."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from esm_sae import sae
from esm_sae.figures import png_bytes
from esm_sae.formats.manifest import Product
from esm_sae.formats.shards import open_shards
from esm_sae_assets import metadata
from esm_sae_assets.assets import OWNERS
from esm_sae_assets.external import state_of
from esm_sae_assets.op_tags import GPU_OP_TAGS, GPU_POOL
from esm_sae_assets.partition_ranges import PartitionEvent, record_each
from esm_sae_assets.partitions import FROM_ALL, SAME_KEY, k_partitions
from esm_sae_assets.resources import DataRoot
from esm_sae_assets.settings import Settings, code_version

GROUP = "sae"

_REPLICATE, _UNTRAINED = "replicate", "untrained"


def sae_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the assets of the group ``sae``."""
    return [*_training_assets(settings), *_measuring_assets(settings)]


def _training_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    chosen = settings.sae
    trained = chosen.model_dump(exclude={"ks", "replicate", "untrained_baseline"})
    held_out = (
        settings.similarity_clusters,
        state_of(settings.similarity_clusters),
        settings.split_seed,
    )

    def trained_on(rows: str) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
        return dg.asset(
            group_name=GROUP,
            owners=OWNERS,
            kinds={"jax", "numpy"},
            partitions_def=k_partitions(settings),
            backfill_policy=dg.BackfillPolicy.single_run(),
            # record_each records the partitions.
            output_required=False,
            deps=[rows],
            pool=GPU_POOL,
            op_tags=GPU_OP_TAGS,
            code_version=code_version(2, trained, held_out, settings.seed),
        )

    class TrainConfig(dg.Config):
        num_epochs: int = chosen.num_epochs
        """Passes over the training rows."""
        batch_size: int = chosen.batch_size
        """Rows in a training step."""
        learning_rate: float = chosen.learning_rate
        """Peak learning rate of Adam."""
        seed: int = settings.seed
        """Initial weights and order of the rows."""

    class ReplicateConfig(TrainConfig):
        seed: int = settings.seed + 1
        """Initial weights and order of the rows; another than that of ``sae_checkpoint``."""

    def train(
        context: dg.AssetExecutionContext,
        config: TrainConfig,
        data: DataRoot,
        shards: Path,
        variant: str = "",
    ) -> Iterator[PartitionEvent]:
        with metadata.materializing() as clock:
            ks = [int(key) for key in context.partition_keys]
            results = sae.train_saes(
                open_shards(shards),
                {k: data.sae(k, variant) for k in ks},
                train_options(settings, **config.model_dump()),
                project=chosen.project,
                similarity_clusters=settings.similarity_clusters or None,
            )
            described = (
                (str(each.k), _trained_result(each, clock, ks, config.seed)) for each in results
            )
            yield from record_each(context, described)

    @trained_on("embedding_manifest")
    def sae_checkpoint(
        context: dg.AssetExecutionContext, config: TrainConfig, data: DataRoot
    ) -> Iterator[PartitionEvent]:
        """A sparse autoencoder with at most k latents firing on a row, trained on the shards.

        The folder holds the weights, what they were trained on, and the course of the training.
        Those of a range of k are trained in one run, from one read of the shards; each is there
        once it is finished.
        """
        yield from train(context, config, data, data.shards)

    @trained_on("embedding_manifest")
    def sae_replicate(
        context: dg.AssetExecutionContext, config: ReplicateConfig, data: DataRoot
    ) -> Iterator[PartitionEvent]:
        """The training of ``sae_checkpoint`` with another seed.

        A latent that both found is owed to the rows, not to the initial weights.
        """
        yield from train(context, config, data, data.shards, _REPLICATE)

    @trained_on("untrained_embeddings")
    def sae_untrained(
        context: dg.AssetExecutionContext, config: TrainConfig, data: DataRoot
    ) -> Iterator[PartitionEvent]:
        """The training of ``sae_checkpoint`` on the rows of an untrained encoder.

        What it reaches too is not owed to what the encoder learned.
        """
        yield from train(context, config, data, data.untrained_shards, _UNTRAINED)

    return [
        sae_checkpoint,
        *([sae_replicate] if chosen.replicate else []),
        *([sae_untrained] if chosen.untrained_baseline else []),
    ]


def _measuring_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    chosen = settings.sae
    held_out = (
        settings.similarity_clusters,
        state_of(settings.similarity_clusters),
        settings.split_seed,
    )
    baseline = (
        [dg.AssetDep("sae_untrained", partition_mapping=SAME_KEY), "untrained_embeddings"]
        if chosen.untrained_baseline
        else []
    )

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"jax", "parquet"},
        partitions_def=k_partitions(settings),
        deps=[
            dg.AssetDep("sae_checkpoint", partition_mapping=SAME_KEY),
            "embedding_manifest",
            *baseline,
        ],
        pool=GPU_POOL,
        op_tags=GPU_OP_TAGS,
        code_version=code_version(2, held_out),
    )
    def sae_metrics(context: dg.AssetExecutionContext, data: DataRoot) -> dg.MaterializeResult:
        """How well an autoencoder reconstructs rows it never saw; a row of the table is a latent.

        Baselines stand beside it: PCA with k components, a random dictionary, and where there is
        one the autoencoder of an untrained encoder's rows.
        """
        with metadata.materializing() as clock:
            k = int(context.partition_key)
            product = sae.evaluate_sae(
                data.sae(k),
                open_shards(data.shards),
                data.metrics(k),
                similarity_clusters=settings.similarity_clusters or None,
                split_seed=settings.split_seed,
                untrained=(
                    (data.sae(k, _UNTRAINED), open_shards(data.untrained_shards))
                    if chosen.untrained_baseline
                    else None
                ),
            )
            return metadata.result(
                product, clock, table=product.path / "latents.parquet", **_plots(product)
            )

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"parquet"},
        deps=[dg.AssetDep(sae_metrics, partition_mapping=FROM_ALL)],
        code_version=code_version(2, chosen.ks),
    )
    def sae_comparison(data: DataRoot) -> dg.MaterializeResult:
        """The autoencoders side by side: one row per k."""
        with metadata.materializing() as clock:
            product = sae.compare_saes(
                {k: data.metrics(k) for k in chosen.ks}, data.path("comparison")
            )
            return metadata.result(
                product, clock, table=product.path / "comparison.parquet", **_plots(product)
            )

    return [sae_metrics, sae_comparison]


def train_options(
    settings: Settings, *, num_epochs: int, batch_size: int, learning_rate: float, seed: int
) -> "sae.TrainOptions":
    """Return the options of a training; what a run may choose for itself comes by name."""
    chosen = settings.sae
    return sae.TrainOptions(
        latent_dim=chosen.latent_dim,
        batch_size=batch_size,
        num_epochs=num_epochs,
        learning_rate=learning_rate,
        aux_k=chosen.aux_k,
        aux_alpha=chosen.aux_alpha,
        latent_bias=chosen.latent_bias,
        precision=chosen.precision,
        tied=chosen.tied,
        normalize=chosen.normalize,
        checkpoint_every=chosen.checkpoint_every,
        seed=seed,
        split_seed=settings.split_seed,
    )


def _trained_result(
    trained: "sae.TrainResult", clock: metadata.Clock, ks: list[int], seed: int
) -> dg.MaterializeResult:
    rate = trained.samples / trained.seconds if trained.seconds else 0.0
    return metadata.result(
        trained.product,
        clock,
        training=metadata.plot(_training_curves(trained.product), "training"),
        samples_per_second=round(rate),
        trained_together=", ".join(map(str, ks)),
        seed=seed,
    )


def _training_curves(product: Product) -> bytes:
    import polars as pl

    from esm_sae.sae.plots import plot_training
    from esm_sae.sae.training_log import METRICS_NAME

    return png_bytes(plot_training(pl.read_parquet(product.path / METRICS_NAME)))


def _plots(product: Product) -> dict[str, Any]:
    return {
        path.stem: metadata.plot(path, path.stem) for path in sorted(product.path.glob("*.png"))
    }
