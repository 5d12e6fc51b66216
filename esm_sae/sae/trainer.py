"""Training an SAE on embedding shards."""

import importlib.metadata
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from esm_sae import storage
from esm_sae.formats.checkpoint import (
    Checkpoint,
    SAEConfig,
    checkpoint_name,
    write_checkpoint,
    write_config,
)
from esm_sae.formats.manifest import Product, produce_folder
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.progress import progress
from esm_sae.sae.fidelity import measure_fidelity
from esm_sae.sae.inference import SAE
from esm_sae.sae.options import Plan, TrainOptions, plan_training
from esm_sae.sae.rows import (
    SplitChoice,
    SplitRows,
    epoch_order,
    evenly_spaced,
    split_rows,
    training_batches,
)
from esm_sae.sae.scaling import (
    NORMALIZE_EPSILON,
    RowStatistics,
    Scaling,
    fold,
    measure_rows,
    require_intact,
    scaling_of,
)
from esm_sae.sae.train_state import load_state, save_state
from esm_sae.sae.training_log import TrainingLog
from esm_sae.sae.training_step import RowUnits, State, StepOptions, learning_rate, start, take_step

KIND = "sae_checkpoint"

_ALGORITHM = "1"
_STEPS_PER_ROW = 50
_ROWS_MEASURED = 8_192


class TrainResult(NamedTuple):
    """A trained SAE.

    Attributes:
        product: the training folder.
        seconds: time this call took.
        samples: rows this call trained on, counted once per epoch; 0 where nothing was to do.
    """

    product: Product
    seconds: float
    samples: int


def train_sae(
    shards: EmbeddingShards,
    output: storage.PathLike,
    options: TrainOptions,
    *,
    project: str = "",
    similarity_clusters: storage.PathLike | None = None,
) -> TrainResult:
    """Train an SAE and publish its folder: checkpoints, config, metrics and training state.

    A killed training goes on from its last whole epoch when it is called again with the same
    input and options, and ends with the same bytes. Beside the weights and one batch it holds
    two numbers of 8 bytes per training row in memory.

    Args:
        shards: the embeddings.
        output: the folder to make.
        options: how to train.
        project: name of the group of runs, kept in the config.
        similarity_clusters: table of the proteins' similarity clusters, ``"bundled"``, or None
            where each protein is its own cluster. Decides which rows are held out.

    Raises:
        InputError: the options do not fit the data, a shard is damaged or holds NaN, no row is
            left to train on, or the loss becomes infinite.
    """
    options.check()
    started = time.perf_counter()
    split = SplitChoice(similarity_clusters, options.split_seed)
    samples = 0

    def build(folder: Path) -> dict[str, Any]:
        nonlocal samples
        samples, summary = _train(folder, _prepare(shards, options, split, project))
        return summary

    product = produce_folder(
        output,
        kind=KIND,
        determinants={
            "embeddings": shards.fingerprint,
            "provenance": asdict(shards.provenance),
            "options": asdict(options),
            "project": project,
            "split": split.record(),
            "algorithm": _ALGORITHM,
            "versions": _versions(),
        },
        build=build,
    )
    return TrainResult(product, time.perf_counter() - started, samples)


@dataclass(frozen=True)
class _Training:
    """What stays the same throughout a training."""

    shards: EmbeddingShards
    options: TrainOptions
    plan: Plan
    rows: SplitRows
    statistics: RowStatistics
    scaling: Scaling
    config: SAEConfig


def _prepare(
    shards: EmbeddingShards, options: TrainOptions, split: SplitChoice, project: str
) -> _Training:
    require_intact(shards)
    rows = split_rows(shards, split)
    plan = plan_training(options, rows=len(rows.train), width=shards.width)
    raw = measure_rows(shards, rows.train)
    seen = measure_rows(shards, rows.train, normalize=True) if options.normalize else raw
    scaling = scaling_of(seen)
    return _Training(
        shards=shards,
        options=options,
        plan=plan,
        rows=rows,
        statistics=raw,
        scaling=scaling,
        config=_config(shards, options, plan, split, rows, scaling, project),
    )


def _train(folder: Path, training: _Training) -> tuple[int, dict[str, Any]]:
    shards, options, plan = training.shards, training.options, training.plan
    rows = training.rows.train
    units = RowUnits(
        centre=training.scaling.centre,
        scale=np.float32(training.scaling.scale),
        scaled_variance=np.float32(training.scaling.variance),
        raw_variance=np.float32(training.statistics.variance),
        rows=np.int32(len(rows)),
    )
    compiled_for = StepOptions(
        options.k, plan.aux_k, options.aux_alpha, options.normalize, options.latent_bias
    )
    first = start(options, shards.width)
    state, epochs_done, steps = load_state(folder, first) or (first, 0, 0)
    log = TrainingLog(folder, epochs_done=epochs_done)
    samples = epochs_done * len(rows)
    description = f"training L={options.latent_dim} k={options.k}"
    with progress(plan.epochs * len(rows), unit="rows", description=description) as bar:
        bar.update(samples)
        for epoch in range(epochs_done + 1, plan.epochs + 1):
            order = epoch_order(rows, seed=options.seed, epoch=epoch)
            for batch, mask in training_batches(shards, order, plan.batch_size):
                rate = np.float32(learning_rate(steps, options, plan))
                state, figures = take_step(state, batch, mask, rate, units, options=compiled_for)
                log.add(figures)
                steps, trained = steps + 1, int(mask.sum())
                samples += trained
                bar.update(trained)
                if steps % _STEPS_PER_ROW == 0 and samples < epoch * len(rows):
                    log.close_row(step=steps, epoch=epoch, samples=samples)
            path = folder / checkpoint_name(epoch)
            checkpoint = fold(state.weights, training.scaling, config=training.config, path=path)
            train_fvu, validation_fvu = _measure(SAE(checkpoint), training)
            log.close_row(
                step=steps,
                epoch=epoch,
                samples=samples,
                train_fvu=train_fvu,
                validation_fvu=validation_fvu,
            )
            log.save()
            if epoch == plan.epochs or _is_kept(epoch, options.checkpoint_every):
                _publish(checkpoint)
            # Last: from here on the epoch is done and is not trained again.
            save_state(folder, state, epoch=epoch, step=steps)
    write_config(folder, training.config)
    return samples - epochs_done * len(rows), _summary(training, state, log)


def _measure(sae: SAE, training: _Training) -> tuple[float, float | None]:
    """Return the FVU on training and on validation rows, of 8,192 evenly spaced ones each."""

    def fvu(rows: np.ndarray) -> float:
        chosen = evenly_spaced(rows, _ROWS_MEASURED)
        return measure_fidelity(sae, training.shards, chosen, training.statistics).fvu

    held_out = training.rows.validation
    return fvu(training.rows.train), fvu(held_out) if len(held_out) else None


def _publish(checkpoint: Checkpoint) -> None:
    write_checkpoint(
        checkpoint.path,
        encoder=checkpoint.encoder,
        decoder=checkpoint.decoder,
        latent_bias=checkpoint.latent_bias,
        pre_bias=checkpoint.pre_bias,
    )


def _is_kept(epoch: int, every: int) -> bool:
    return every > 0 and epoch % every == 0


def _config(
    shards: EmbeddingShards,
    options: TrainOptions,
    plan: Plan,
    split: SplitChoice,
    rows: SplitRows,
    scaling: Scaling,
    project: str,
) -> SAEConfig:
    provenance = shards.provenance
    return SAEConfig(
        width=shards.width,
        latent_dim=options.latent_dim,
        k=options.k,
        normalize=options.normalize,
        tied=options.tied,
        latent_bias=options.latent_bias,
        project=project,
        encoder=provenance.encoder,
        encoder_note=provenance.encoder_note,
        weights_sha256=provenance.weights_sha256,
        layer=provenance.layer,
        pooling=provenance.pooling,
        data_fingerprint=shards.fingerprint,
        seed=options.seed,
        epochs=plan.epochs,
        final_checkpoint=checkpoint_name(plan.epochs),
        training={
            "batch_size": plan.batch_size,
            "steps": plan.steps,
            "learning_rate": plan.learning_rate,
            "warmup": options.warmup,
            "decay": options.decay,
            "aux_k": plan.aux_k,
            "aux_alpha": options.aux_alpha,
            "rows": len(rows.train),
            "scale": scaling.scale,
            "normalize_ddof": 0,
            "normalize_epsilon": NORMALIZE_EPSILON,
            "split": split.record(),
        },
        versions=_versions(),
    )


def _summary(training: _Training, state: State, log: TrainingLog) -> dict[str, Any]:
    dead = np.asarray(state.since_fired) >= len(training.rows.train)
    return {
        "width": training.config.width,
        "latent_dim": training.config.latent_dim,
        "k": training.config.k,
        "encoder": training.shards.provenance.describe(),
        "epochs": training.plan.epochs,
        "steps": training.plan.steps,
        "training_rows": len(training.rows.train),
        "validation_rows": len(training.rows.validation),
        "test_rows": len(training.rows.test),
        "train_fvu": log.last["train_fvu"],
        "validation_fvu": log.last["validation_fvu"],
        "dead_share": float(dead.mean()),
        "final_checkpoint": training.config.final_checkpoint,
    }


def _versions() -> dict[str, str]:
    # Not our own: a release that trains the same must not make every checkpoint stale, and one
    # that trains otherwise changes the algorithm's version.
    return {name: importlib.metadata.version(name) for name in ("jax", "optax", "numpy")}
