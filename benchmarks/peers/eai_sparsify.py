"""EleutherAI's sparsify as a contender of bench_training.py.

Its trainer is bound to a language model whose layers it hooks. ``step`` does what that hook and
the loop around it (``sparsify.Trainer.fit``, loss ``fvu``) do with a batch of activations, in the
same order and with its own functions, and leaves out what moves tokens: the mask, the copies for
it, logging. Optimizer ``adam`` with its default rate and its schedule. AuxK is off, its default,
unless ``--dead-after`` is given.
"""

import os

import numpy as np
import torch
from torch_trainer import TorchTrainer, to_numpy
from training_job import Job, run

_AUXK_ALPHA = 1 / 32


class SparsifyTrainer(TorchTrainer):
    """``SparseCoder`` and the steps of ``Trainer.fit``."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.device)
        if job.device == "cpu":
            # Its Triton decoder is for GPUs; it would be chosen wherever Triton is installed.
            os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
        from sparsify import SparseCoder, SparseCoderConfig
        from sparsify.trainer import get_linear_schedule_with_warmup

        torch.set_float32_matmul_precision("high")
        torch.manual_seed(job.seed)
        config = SparseCoderConfig(num_latents=job.latent_dim, k=job.k)
        self._sae = SparseCoder(job.width, config, job.device, dtype=torch.float32)
        self.learning_rate = job.learning_rate or 2e-4 / (job.latent_dim / 2**14) ** 0.5
        self._optimizer = torch.optim.Adam(self._sae.parameters(), lr=self.learning_rate)
        self._schedule = get_linear_schedule_with_warmup(
            self._optimizer, job.short_warmup, job.steps
        )
        self._dead_after = job.dead_after
        self._since_fired = torch.zeros(job.latent_dim, device=job.device, dtype=torch.long)
        self._steps = 0

    def step(self, rows: torch.Tensor) -> None:
        """Do one step of training."""
        sae = self._sae
        if self._steps == 0:
            sae.b_dec.data = rows.mean(0)
        sae.set_decoder_norm_to_unit_norm()
        dead = None if self._dead_after is None else self._since_fired > self._dead_after
        total_variance = (rows - rows.mean(0)).pow(2).sum()
        out = sae(x=rows, y=rows, dead_mask=dead, total_variance=total_variance)
        fired = torch.zeros_like(self._since_fired, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        (out.fvu + _AUXK_ALPHA * out.auxk_loss).backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()
        self._since_fired += len(rows)
        self._since_fired[fired] = 0
        self._steps += 1

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights."""
        return to_numpy(
            encoder=self._sae.encoder.weight,
            encoder_bias=self._sae.encoder.bias,
            pre_bias=self._sae.b_dec,
            decoder=self._sae.W_dec,
        )


if __name__ == "__main__":
    run(SparsifyTrainer, ["eai-sparsify", "torch"])
