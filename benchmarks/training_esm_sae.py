"""This project's training step as a contender of bench_training.py.

The variant ``auxk`` counts a twentieth of the latents as dead before every step, so that the
auxiliary loss is at work in each.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from training_job import Job, run

_ROWS_PER_BLOCK = 4096
_DEAD_SHARE = 0.05


class EsmSaeTrainer:
    """``take_step`` as the command ``train`` calls it."""

    def __init__(self, job: Job) -> None:
        os.environ["JAX_PLATFORMS"] = job.device
        import jax

        from esm_sae.sae import TrainOptions
        from esm_sae.sae.devices import Devices
        from esm_sae.sae.loss import LossOptions
        from esm_sae.sae.options import plan_training
        from esm_sae.sae.scaling import scaling_of
        from esm_sae.sae.training_step import RowUnits, StepOptions, start

        self._jax, self._on_host = jax, job.device == "cpu"
        self._options = TrainOptions(
            job.latent_dim,
            k=job.k,
            batch_size=job.batch_size,
            learning_rate=job.learning_rate,
            seed=job.seed,
        )
        plan = plan_training(self._options, rows=len(job.rows), width=job.width)
        self._plan = replace(plan, epochs=1, steps_per_epoch=job.steps)
        self.learning_rate = plan.learning_rate
        statistics = _statistics(job.rows)
        self._scaling = scaling_of(statistics)
        self._units = RowUnits(
            centre=self._scaling.centre,
            scale=np.float32(self._scaling.scale),
            scaled_variance=np.float32(self._scaling.variance),
            raw_variance=np.float32(statistics.variance),
            rows=np.int32(len(job.rows)),
        )
        loss = LossOptions(job.k, plan.aux_k, self._options.aux_alpha, job.precision)
        self._step_options = StepOptions(loss, formulation=Devices.here().formulation)
        self._state = start(self._options, job.width)
        self._mask = np.ones(job.batch_size, dtype=np.float32)
        self._steps = 0
        self._always_dead = round(_DEAD_SHARE * job.latent_dim) if job.variant == "auxk" else 0

    def place(self, rows: np.ndarray) -> Any:
        """Return the rows on the device; on a CPU as they are, which is what ``train`` does."""
        return rows if self._on_host else self._jax.device_put(rows)

    def step(self, rows: Any) -> None:
        """Do one step of training."""
        from esm_sae.sae.training_step import learning_rate, take_step

        rate = np.float32(learning_rate(self._steps, self._options, self._plan))
        if self._always_dead:
            dead = self._state.since_fired.at[: self._always_dead].set(self._units.rows)
            self._state = self._state._replace(since_fired=dead)
        self._state, _ = take_step(
            self._state,
            rows,
            self._mask,
            rate,
            self._units,
            k=self._options.k,
            options=self._step_options,
        )
        self._steps += 1

    def wait(self) -> None:
        """Wait until all steps are done."""
        self._jax.block_until_ready(self._state)

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights for raw rows, folded as ``train`` does."""
        from esm_sae.formats.checkpoint import SAEConfig
        from esm_sae.sae.scaling import fold

        width, latent_dim = len(self._scaling.centre), self._options.latent_dim
        config = SAEConfig(width=width, latent_dim=latent_dim, k=self._options.k)
        folded = fold(self._state.weights, self._scaling, config=config, path=Path())
        return {
            "encoder": np.ascontiguousarray(folded.encoder.T),
            "encoder_bias": folded.latent_bias,
            "pre_bias": folded.pre_bias,
            "decoder": folded.decoder,
        }

    def device_bytes(self) -> int | None:
        """Return the accelerator's peak memory; None on a CPU."""
        memory = self._jax.local_devices()[0].memory_stats()
        return memory and memory["peak_bytes_in_use"]


def _statistics(rows: np.ndarray) -> Any:
    """Measure mean and variance as ``measure_rows`` does for shards."""
    from esm_sae.sae.scaling import RowStatistics

    shift = rows[0].astype(np.float64)
    total, squares = np.zeros(rows.shape[1]), 0.0
    for start in range(0, len(rows), _ROWS_PER_BLOCK):
        block = rows[start : start + _ROWS_PER_BLOCK] - shift
        total += block.sum(0)
        squares += float(np.einsum("nd,nd->", block, block))
    mean = total / len(rows)
    return RowStatistics(len(rows), mean + shift, squares / len(rows) - float(mean @ mean))


if __name__ == "__main__":
    run(EsmSaeTrainer, ["jax", "numba", "numpy"])
