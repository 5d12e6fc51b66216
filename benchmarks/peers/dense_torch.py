"""A plain TopK autoencoder in torch as a contender of bench_training.py.

What one writes first: dense products throughout, TopK as a scatter into zeros, FVU as the loss,
fused Adam at its default rate, decoder rows set back to unit norm after each step. The variant
``compiled`` runs forward and backward through ``torch.compile``; with bfloat16 under autocast.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch_trainer import TorchTrainer, to_numpy
from training_job import Job, run

_DEFAULT_RATE = 1e-3


class TopKAutoencoder(nn.Module):
    """Encoder and decoder rows (L, D), the encoder starting as the decoder."""

    def __init__(self, width: int, latent_dim: int, k: int) -> None:
        super().__init__()
        directions = functional.normalize(torch.randn(latent_dim, width), dim=1)
        self.encoder = nn.Parameter(directions.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(latent_dim))
        self.decoder = nn.Parameter(directions)
        self.pre_bias = nn.Parameter(torch.zeros(width))
        self.k = k

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the share of the batch's variance that is not reconstructed."""
        pre = functional.linear(rows - self.pre_bias, self.encoder, self.encoder_bias)
        values, latents = pre.topk(self.k, dim=-1, sorted=False)
        codes = torch.zeros_like(pre).scatter(-1, latents, values.relu())
        errors = rows - (codes @ self.decoder + self.pre_bias)
        return errors.pow(2).sum() / (rows - rows.mean(0)).pow(2).sum()


class DenseTrainer(TorchTrainer):
    """The autoencoder and Adam."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.device)
        torch.manual_seed(job.seed)
        self._model = TopKAutoencoder(job.width, job.latent_dim, job.k).to(job.device)
        self._loss = torch.compile(self._model) if job.variant == "compiled" else self._model
        self.learning_rate = job.learning_rate or _DEFAULT_RATE
        self._optimizer = torch.optim.Adam(
            self._model.parameters(), lr=self.learning_rate, fused=True
        )
        self._low_precision = job.precision == "bfloat16"
        self._steps = 0

    def step(self, rows: torch.Tensor) -> None:
        """Do one step of training."""
        if self._steps == 0:
            self._model.pre_bias.data = rows.mean(0)
        with torch.autocast(self.device, torch.bfloat16, enabled=self._low_precision):
            loss = self._loss(rows)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        with torch.no_grad():
            self._model.decoder /= self._model.decoder.norm(dim=1, keepdim=True)
        self._steps += 1

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights."""
        return to_numpy(**dict(self._model.named_parameters()))


if __name__ == "__main__":
    run(DenseTrainer, ["torch"])
