"""The training of one SAE: its state, its record and its folder."""

import importlib.metadata
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import (
    Checkpoint,
    SAEConfig,
    checkpoint_name,
    write_checkpoint,
    write_config,
)
from esm_sae.formats.manifest import FolderInTheMaking, Product
from esm_sae.sae.fidelity import share_unexplained
from esm_sae.sae.inference import SAE
from esm_sae.sae.loss import LossOptions
from esm_sae.sae.options import TrainOptions
from esm_sae.sae.reading import Batch
from esm_sae.sae.scaling import fold
from esm_sae.sae.train_state import load_state, save_state
from esm_sae.sae.training_data import TrainingData
from esm_sae.sae.training_log import Diverged, TrainingLog
from esm_sae.sae.training_step import (
    State,
    StepOptions,
    k_of_step,
    learning_rate,
    start,
    take_step,
)
from esm_sae.tracking import TrackedRun, Trackers

_STEPS_PER_ROW = 50
_SECONDS_BETWEEN_SAVES = 60.0
_LAST_GOOD = "last_good.npy"
_DECIDING = ("jax", "jaxlib", "llvmlite", "numba", "numpy", "optax")


class TrainingRun:
    """A training that goes step by step, from where it was last saved.

    Attributes:
        options: how it trains.
        steps: steps done.
        samples_before: rows trained on before this process, once per epoch.
        samples: rows trained on by this process.
        failure: what ended it early.
        trackers: what is told of its course.
    """

    def __init__(
        self, making: FolderInTheMaking, options: TrainOptions, data: TrainingData
    ) -> None:
        self.options = options
        self.samples = 0
        self.failure: InputError | None = None
        self.trackers = Trackers()
        self._making, self._data = making, data
        self._units = data.units
        self._config = _config(options, data)
        plan = data.plan
        loss = LossOptions(
            options.k,
            plan.aux_k,
            options.aux_alpha,
            options.precision,
            options.activation,
            options.prefixes,
            options.bandwidth,
            options.l0_weight,
        )
        self._compiled_for = StepOptions(
            loss,
            normalize=options.z_score,
            latent_bias=options.latent_bias,
            # The sparse one knows only what is trained most.
            formulation=data.devices.formulation if loss.is_plain else "dense",
        )
        self.steps = self.samples_before = 0
        try:
            self._resume()
        except InputError as error:
            self.failure = error
        self._saved = time.monotonic()

    def tracked(self) -> TrackedRun:
        """Return what trackers are told of it before its next step."""
        config = {**asdict(self.options), **asdict(self._config)}
        config |= config.pop("training")
        short = f"L{self.options.latent_dim}_k{self.options.k}"
        # A replicate's folder says so behind that.
        folder = self._making.target.name
        return TrackedRun(
            name=folder if folder.startswith(short) else short,
            project=self._data.project,
            fingerprint=self._making.fingerprint,
            config=config,
            rows=self._log.rows,
        )

    def take(self, batch: Batch) -> None:
        """Train on the next batch; what cannot go on is told by ``failure``."""
        try:
            with storage.naming_full_disk(self._making.target):
                self._take(batch)
        except Diverged as error:
            self.failure = InputError(
                f"{self._making.target}: {error}; train with a learning rate below "
                f"{self._data.plan.learning_rate:g} ({self._last_good()})"
            )
        except InputError as error:
            self.failure = error

    def publish(self) -> Product | None:
        """Publish the folder of a training that is done; None where ``failure`` tells why not."""
        if self.failure is not None:
            return None
        try:
            with storage.naming_full_disk(self._making.target):
                write_config(self._making.work, self._measured_config())
                return self._making.publish(self._summary())
        except InputError as error:
            self.failure = error
            return None

    def _resume(self) -> None:
        """Go on from where the training was saved, or from the start."""
        data, work = self._data, self._making.work
        first = start(self.options, data.shards.width)
        state, self.steps = load_state(work, first) or (first, 0)
        self._state = data.devices.replicate(state)
        self._log = TrainingLog(work, steps_done=self.steps, project=data.project)
        epochs, steps = divmod(self.steps, data.plan.steps_per_epoch)
        self.samples_before = epochs * len(data.rows.train) + steps * data.plan.batch_size

    def _take(self, batch: Batch) -> None:
        plan = self._data.plan
        rate = np.float32(learning_rate(self.steps, self.options, plan))
        self._state, figures = take_step(
            self._state,
            batch.rows,
            batch.mask,
            rate,
            self._units,
            k=k_of_step(self.steps, self.options, plan),
            options=self._compiled_for,
        )
        self._log.add(figures)
        self.steps += 1
        self.samples += batch.count
        if self.steps % plan.steps_per_epoch == 0:
            self._end_epoch(self.steps // plan.steps_per_epoch)
        elif self.steps % _STEPS_PER_ROW == 0:
            self._close_row()
            if self._save_is_due():
                self._save()

    def _end_epoch(self, epoch: int) -> None:
        path = self._making.work / checkpoint_name(epoch)
        checkpoint = self._checkpoint(self._state, self._config, path)
        sae = SAE(checkpoint)
        self._close_row(
            train_fvu=self._fvu(sae, self._data.measured_train),
            validation_fvu=self._fvu(sae, self._data.measured_validation),
        )
        ended = epoch == self._data.plan.epochs
        kept = self.options.checkpoint_every > 0 and epoch % self.options.checkpoint_every == 0
        if ended:
            self._log.require_better_than_mean()
        if ended or kept:
            _publish(replace(checkpoint, config=self._measured_config()))
        if ended or kept or self._save_is_due():
            self._save()

    def _measured_config(self) -> SAEConfig:
        """Return the config with the FVU that was measured last."""
        last = self._log.last
        fvu = last["train_fvu"] if last["validation_fvu"] is None else last["validation_fvu"]
        return replace(self._config, fvu=fvu)

    def _checkpoint(self, state: State, config: SAEConfig, path: Path) -> Checkpoint:
        threshold = None
        if self.options.activation == "batchtopk":
            threshold = np.full(config.latent_dim, state.threshold)
        return fold(state.weights, self._data.scaling, threshold, config=config, path=path)

    def _close_row(self, **measured: float | None) -> None:
        epochs, steps = divmod(self.steps, self._data.plan.steps_per_epoch)
        self._log.close_row(
            step=self.steps,
            epoch=epochs + (steps > 0),
            samples=self.samples_before + self.samples,
            **measured,
        )
        self.trackers.log(self._log.last)

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._saved >= _SECONDS_BETWEEN_SAVES

    def _save(self) -> None:
        # The losses on record are from before the last update.
        if not all(
            bool(jnp.isfinite(leaf).all()) for leaf in self._state.weights if leaf is not None
        ):
            raise Diverged(f"a weight became infinite by step {self.steps}: the training diverged")
        self._log.save()
        # Last: from here on these steps are done and are not taken again.
        save_state(self._making.work, self._state, step=self.steps, project=self._data.project)
        self._saved = time.monotonic()

    def _fvu(self, sae: SAE, rows: np.ndarray) -> float | None:
        if not len(rows):
            return None
        return share_unexplained(sae, rows, self._data.statistics)

    def _last_good(self) -> str:
        """Say where the weights that were last saved are, after making them a checkpoint."""
        try:
            return self._publish_last_good()
        except (InputError, OSError) as error:
            return f"the last good weights cannot be kept: {error}"

    def _publish_last_good(self) -> str:
        saved = load_state(self._making.work, start(self.options, self._data.shards.width))
        if saved is None:
            return "there is no checkpoint from before"
        state, step = saved
        # Beside the output: the next training there, with other options, removes this one's work.
        folder = self._making.target.with_name(f"{self._making.target.name}_last_good")
        storage.make_folder(folder)
        config = replace(self._config, final_checkpoint=_LAST_GOOD, epochs=None)
        path = folder / _LAST_GOOD
        _publish(self._checkpoint(state, config, path))
        write_config(folder, config)
        return f"the last good weights, of step {step}, are in {folder}"

    def _summary(self) -> dict[str, Any]:
        rows = self._data.rows
        dead = np.asarray(self._state.since_fired) >= self._units.rows
        return {
            "width": self._config.width,
            "latent_dim": self._config.latent_dim,
            "k": self._config.k,
            "encoder": self._data.shards.provenance.describe(),
            "project": self._data.project,
            "epochs": self._data.plan.epochs,
            "steps": self._data.plan.steps,
            "training_rows": len(rows.train),
            "validation_rows": len(rows.validation),
            "test_rows": len(rows.test),
            "train_fvu": self._log.last["train_fvu"],
            "validation_fvu": self._log.last["validation_fvu"],
            "dead_share": float(dead.mean()),
            "final_checkpoint": self._config.final_checkpoint,
        }


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide the bits of a training."""
    # Not our own: a release that trains the same must not make every checkpoint stale, and one
    # that trains otherwise changes the algorithm's version. Nor those that only write files.
    return {name: importlib.metadata.version(name) for name in _DECIDING}


def _variant(options: TrainOptions) -> dict[str, Any]:
    """Return the options that only some trainings have."""
    variant: dict[str, Any] = {}
    if options.prefixes:
        variant["prefixes"] = list(options.prefixes)
    if options.k_start > 1:
        variant |= {"k_start": options.k_start, "k_anneal": options.k_anneal}
    if options.activation == "jumprelu":
        variant |= {"bandwidth": options.bandwidth, "l0_weight": options.l0_weight}
    return variant


def _publish(checkpoint: Checkpoint) -> None:
    write_checkpoint(
        checkpoint.path,
        encoder=checkpoint.encoder,
        decoder=checkpoint.decoder,
        latent_bias=checkpoint.latent_bias,
        pre_bias=checkpoint.pre_bias,
        threshold=checkpoint.threshold,
        config=checkpoint.config,
    )


def _config(options: TrainOptions, data: TrainingData) -> SAEConfig:
    provenance, plan = data.shards.provenance, data.plan
    return SAEConfig(
        width=data.shards.width,
        latent_dim=options.latent_dim,
        k=options.k,
        normalize=options.normalize,
        normalize_ddof=options.normalize_ddof,
        tied=options.tied,
        latent_bias=options.latent_bias,
        activation=options.activation,
        project=data.project,
        encoder=provenance.encoder,
        encoder_note=provenance.encoder_note,
        weights_sha256=provenance.weights_sha256,
        layer=provenance.layer,
        pooling=provenance.pooling,
        data_fingerprint=data.shards.fingerprint,
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
            **_variant(options),
            "precision": options.precision,
            "devices": data.devices.record(),
            "rows": len(data.rows.train),
            "scale": data.scaling.scale,
            "split": data.split.record(),
        },
        versions=library_versions(),
    )
