"""SAE: one TopK sparse autoencoder per k, its metrics, and the comparison over k."""

from typing import Any

import dagster as dg

from esm_sae import sae
from esm_sae.formats.manifest import Product
from esm_sae.formats.shards import open_shards
from esm_sae_assets import metadata
from esm_sae_assets.assets import OWNERS
from esm_sae_assets.op_tags import GPU_OP_TAGS, GPU_POOL
from esm_sae_assets.partitions import FROM_ALL, SAME_KEY, k_partitions
from esm_sae_assets.resources import DataRoot
from esm_sae_assets.settings import Settings, code_version

GROUP = "sae"


def sae_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the assets of the group ``sae``."""
    chosen = settings.sae
    held_out = (settings.similarity_clusters, settings.split_seed)

    class TrainConfig(dg.Config):
        num_epochs: int = chosen.num_epochs
        """Passes over the training rows."""
        batch_size: int = chosen.batch_size
        """Rows in a training step."""
        learning_rate: float = chosen.learning_rate
        """Peak learning rate of Adam."""
        seed: int = settings.seed
        """Initial weights and order of the rows."""

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"jax", "numpy"},
        partitions_def=k_partitions(settings),
        deps=["embedding_manifest"],
        pool=GPU_POOL,
        op_tags=GPU_OP_TAGS,
        code_version=code_version(1, chosen.model_dump(exclude={"ks"}), held_out, settings.seed),
    )
    def sae_checkpoint(
        context: dg.AssetExecutionContext, config: TrainConfig, data: DataRoot
    ) -> dg.MaterializeResult:
        """A sparse autoencoder with at most k latents firing on a row, trained on the shards.

        The folder holds the weights, what they were trained on, and the course of the training.
        """
        with metadata.materializing() as clock:
            k = int(context.partition_key)
            options = sae.TrainOptions(
                latent_dim=chosen.latent_dim,
                k=k,
                batch_size=config.batch_size,
                num_epochs=config.num_epochs,
                learning_rate=config.learning_rate,
                seed=config.seed,
                split_seed=settings.split_seed,
            )
            trained = sae.train_sae(
                open_shards(data.shards),
                data.sae(k),
                options,
                similarity_clusters=settings.similarity_clusters or None,
            )
            rate = trained.samples / trained.seconds if trained.seconds else 0.0
            return metadata.result(
                trained.product, clock, samples_per_second=round(rate), seed=config.seed
            )

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"jax", "parquet"},
        partitions_def=k_partitions(settings),
        deps=[
            dg.AssetDep(sae_checkpoint, partition_mapping=SAME_KEY),
            "embedding_manifest",
        ],
        pool=GPU_POOL,
        op_tags=GPU_OP_TAGS,
        code_version=code_version(1, held_out),
    )
    def sae_metrics(context: dg.AssetExecutionContext, data: DataRoot) -> dg.MaterializeResult:
        """How well an autoencoder reconstructs rows it never saw; a row of the table is a latent.

        PCA with k components stands beside it.
        """
        with metadata.materializing() as clock:
            k = int(context.partition_key)
            product = sae.evaluate_sae(
                data.sae(k),
                open_shards(data.shards),
                data.metrics(k),
                similarity_clusters=settings.similarity_clusters or None,
                split_seed=settings.split_seed,
            )
            return metadata.result(
                product, clock, table=product.path / "latents.parquet", **_plots(product)
            )

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"parquet"},
        deps=[dg.AssetDep(sae_metrics, partition_mapping=FROM_ALL)],
        code_version=code_version(1, chosen.ks),
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

    return [sae_checkpoint, sae_metrics, sae_comparison]


def _plots(product: Product) -> dict[str, Any]:
    return {
        path.stem: metadata.plot(path, path.stem) for path in sorted(product.path.glob("*.png"))
    }
