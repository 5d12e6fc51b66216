"""SAE: sparse autoencoders over k, their metrics and the comparison over k."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from esm_sae import sae
from esm_sae.figures import png_bytes
from esm_sae.formats.manifest import Product
from esm_sae.formats.shards import open_shards
from esm_sae.tracking import Tracking
from esm_sae_assets import metadata
from esm_sae_assets.catalogue.column_lineage import lineage_of
from esm_sae_assets.checks import at_each, specs_of
from esm_sae_assets.checks import sae as look_at
from esm_sae_assets.external import state_of
from esm_sae_assets.op_tags import GPU_POOL, gpu_op_tags
from esm_sae_assets.partition_ranges import PartitionEvent, record_each
from esm_sae_assets.partitions import FROM_ALL, SAME_KEY, k_partitions
from esm_sae_assets.resources import DataRoot
from esm_sae_assets.settings import Settings, code_version

GROUP = "sae"

_REPLICATE, _UNTRAINED = "replicate", "untrained"

_Decorator = Callable[[Callable[..., Any]], dg.AssetsDefinition]

_PLOTTED = ("fvu", "l0_mean", "dead_share")
_COMPARED = (
    *("k", *_PLOTTED, "unfired_share"),
    *("pca_fvu", "random_dictionary_fvu", "untrained_fvu"),
)


def sae_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the assets of the group ``sae``."""
    return [*_training_assets(settings), *_measuring_assets(settings)]


def _training_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    chosen = settings.sae
    elsewhere = {"replicate", "untrained_baseline", "imported", "license", "fidelity_proteins"}
    trained = chosen.model_dump(exclude={"ks", *elsewhere})
    held_out = (
        settings.similarity_clusters,
        state_of(settings.similarity_clusters),
        settings.split_seed,
    )

    def trained_on(name: str, rows: str, *read: Any) -> _Decorator:
        """Return the decorator of an asset of every k, ``read`` of the settings in its version."""
        return dg.asset(
            name=name,
            check_specs=specs_of(name, look_at.TRAINED),
            group_name=GROUP,
            kinds={"jax", "numpy"},
            partitions_def=k_partitions(settings),
            backfill_policy=dg.BackfillPolicy.single_run(),
            # record_each records the partitions.
            output_required=False,
            deps=[rows],
            pool=GPU_POOL,
            op_tags=gpu_op_tags(settings),
            code_version=code_version(2, *(read or (trained, held_out, settings.seed))),
        )

    if chosen.imported:
        return [_imported_checkpoint(settings, trained_on)]

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
        with metadata.materializing(data) as clock:
            ks = [int(key) for key in context.partition_keys]
            results = sae.train_saes(
                open_shards(shards),
                {k: data.sae(k, variant) for k in ks},
                train_options(settings, **config.model_dump()),
                project=chosen.project,
                similarity_clusters=settings.similarity_clusters or None,
                tracking=Tracking(settings.tracking, data.tracking),
            )
            described = (
                (str(each.k), _trained_result(each, clock, ks, config.seed)) for each in results
            )
            folders = at_each(chosen.ks, lambda k: data.sae(k, variant))
            yield from record_each(
                context, described, lambda: look_at.training_checks(folders, settings.checks)
            )

    @trained_on("sae_checkpoint", "embedding_manifest")
    def sae_checkpoint(
        context: dg.AssetExecutionContext, config: TrainConfig, data: DataRoot
    ) -> Iterator[PartitionEvent]:
        """A sparse autoencoder with at most k latents firing on a row, trained on the shards.

        The folder holds the weights, what they were trained on, and the course of the training.
        Those of a range of k are trained in one run, from one read of the shards; each is there
        once it is finished.
        """
        yield from train(context, config, data, data.shards)

    @trained_on("sae_replicate", "embedding_manifest")
    def sae_replicate(
        context: dg.AssetExecutionContext, config: ReplicateConfig, data: DataRoot
    ) -> Iterator[PartitionEvent]:
        """The training of sae_checkpoint with another seed.

        A latent that both found is owed to the rows, not to the initial weights.
        """
        yield from train(context, config, data, data.shards, _REPLICATE)

    @trained_on("sae_untrained", "untrained_embeddings")
    def sae_untrained(
        context: dg.AssetExecutionContext, config: TrainConfig, data: DataRoot
    ) -> Iterator[PartitionEvent]:
        """The training of sae_checkpoint on the rows of an untrained encoder.

        What it reaches too is not owed to what the encoder learned.
        """
        yield from train(context, config, data, data.untrained_shards, _UNTRAINED)

    return [
        sae_checkpoint,
        *([sae_replicate] if chosen.replicate else []),
        *([sae_untrained] if chosen.untrained_baseline else []),
    ]


def _imported_checkpoint(
    settings: Settings,
    made_from: Callable[..., _Decorator],
) -> dg.AssetsDefinition:
    chosen = settings.sae

    @made_from(
        "sae_checkpoint",
        "embedding_manifest",
        *(chosen.imported, state_of(chosen.imported), chosen.latent_dim, chosen.normalize),
        # What a file does not tell stands beside it.
        state_of(str(Path(chosen.imported).with_name("config.json"))),
    )
    def sae_checkpoint(
        context: dg.AssetExecutionContext, data: DataRoot
    ) -> Iterator[PartitionEvent]:
        """A sparse autoencoder with k latents firing on a row, at most or in the mean.

        It was trained elsewhere.

        The folder holds the weights as they came, and what is known of their training.
        """
        with metadata.materializing(data) as clock:
            k = int(context.partition_key)
            product = sae.import_sae(
                chosen.imported,
                data.sae(k),
                open_shards(data.shards),
                k=k,
                latent_dim=chosen.latent_dim,
                # Where the file tells it, the setting need not.
                normalize=chosen.normalize or None,
                similarity_clusters=settings.similarity_clusters or None,
                split_seed=settings.split_seed,
            )
            result = metadata.result(product, clock, imported_from=chosen.imported)
            folders = at_each(chosen.ks, data.sae)
            yield from record_each(
                context,
                [(context.partition_key, result)],
                lambda: look_at.training_checks(folders, settings.checks),
            )

    return sae_checkpoint


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
        kinds={"jax", "parquet"},
        partitions_def=k_partitions(settings),
        deps=[
            dg.AssetDep("sae_checkpoint", partition_mapping=SAME_KEY),
            "embedding_manifest",
            *baseline,
        ],
        pool=GPU_POOL,
        op_tags=gpu_op_tags(settings),
        check_specs=specs_of("sae_metrics", look_at.METRICS),
        code_version=code_version(3, held_out),
    )
    def sae_metrics(context: dg.AssetExecutionContext, data: DataRoot) -> dg.MaterializeResult:
        """How well an autoencoder reconstructs rows it never saw; a row of the table is a latent.

        Baselines stand beside it: PCA with k components, a random dictionary, and where there is
        one the autoencoder of an untrained encoder's rows.
        """
        with metadata.materializing(data) as clock:
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
                product,
                clock,
                checks=look_at.metrics_checks(
                    at_each(chosen.ks, data.metrics), context.instance, settings.checks
                ),
                table=product.path / "latents.parquet",
                **_plots(product),
            )

    @dg.asset(
        group_name=GROUP,
        kinds={"polars", "parquet"},
        deps=[dg.AssetDep(sae_metrics, partition_mapping=FROM_ALL)],
        check_specs=specs_of("sae_comparison", look_at.COMPARISON),
        code_version=code_version(2, chosen.ks),
    )
    def sae_comparison(data: DataRoot) -> dg.MaterializeResult:
        """The autoencoders side by side: one row per k."""
        with metadata.materializing(data) as clock:
            folders = {k: data.metrics(k) for k in chosen.ks}
            product = sae.compare_saes(folders, data.path("comparison"))
            return metadata.result(
                product,
                clock,
                checks=look_at.comparison_checks(product, folders),
                table=product.path / "comparison.parquet",
                lineage=lineage_of("sae_comparison", settings),
                **_plots(product),
                **_side_by_side(product),
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
        activation=chosen.activation,
        prefixes=chosen.prefixes,
        k_start=chosen.k_start,
        precision=chosen.precision,
        tied=chosen.tied,
        normalize=chosen.normalize,
        normalize_ddof=chosen.normalize_ddof,
        checkpoint_every=chosen.checkpoint_every,
        seed=seed,
        split_seed=settings.split_seed,
    )


def _trained_result(
    trained: "sae.TrainResult", clock: metadata.Clock, ks: list[int], seed: int
) -> dg.MaterializeResult:
    return metadata.result(
        trained.product,
        clock,
        training=metadata.plot(_training_curves(trained.product), "training"),
        **_training_speed(trained),
        trained_together=", ".join(map(str, ks)),
        seed=seed,
    )


def _training_speed(trained: "sae.TrainResult") -> dict[str, Any]:
    """Return how fast this run trained; nothing where the checkpoint was there."""
    if trained.product.unchanged or not trained.seconds:
        return {}
    return {"samples_per_second": round(trained.samples / trained.seconds)}


def _training_curves(product: Product) -> bytes:
    import polars as pl

    from esm_sae.sae.plots import plot_training
    from esm_sae.sae.training_log import METRICS_NAME

    return png_bytes(plot_training(pl.read_parquet(product.path / METRICS_NAME)))


def _side_by_side(product: Product) -> dict[str, Any]:
    """Return the figures of each k as a table, and some as numbers, of which there are plots."""
    summary = product.manifest.summary
    columns = {name: values for name, values in summary.items() if name in _COMPARED}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    plotted = {f"{name} at k = {row['k']}": row[name] for name in _PLOTTED for row in rows}
    return {**dict.fromkeys(columns), **plotted, "by_k": rows}


def _plots(product: Product) -> dict[str, Any]:
    return {
        path.stem: metadata.plot(path, path.stem) for path in sorted(product.path.glob("*.png"))
    }
