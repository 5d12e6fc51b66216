"""SAELens' TopK as a contender of bench_training.py.

``SAETrainer.step`` as it is. As in the project's own tutorial, rows are scaled to a mean norm of
the square root of D and the learning rate falls over the last fifth of the run. The variant
``sparse`` switches ``use_sparse_activations`` on and the rescaling by decoder norms off, whose
gradient torch does not have for sparse tensors.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch_trainer import TorchTrainer, to_numpy
from training_job import Job, run

_DEFAULT_RATE = 3e-4
_ROWS_PER_BATCH_FOR_NORM = 4096


class SaeLensTrainer(TorchTrainer):
    """``SAETrainer`` on a ``TopKTrainingSAE``."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.device)
        from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        torch.manual_seed(job.seed)
        self.learning_rate = job.learning_rate or _DEFAULT_RATE
        sae = TopKTrainingSAE(
            TopKTrainingSAEConfig(
                d_in=job.width,
                d_sae=job.latent_dim,
                k=job.k,
                device=job.device,
                normalize_activations="expected_average_only_in",
                use_sparse_activations=job.variant == "sparse",
                rescale_acts_by_decoder_norm=job.variant != "sparse",
            )
        )
        config = SAETrainerConfig(
            total_training_samples=job.steps * job.batch_size,
            train_batch_size_samples=job.batch_size,
            lr=self.learning_rate,
            lr_end=self.learning_rate / 10,
            lr_decay_steps=job.steps // 5,
            device=job.device,
            autocast=job.precision == "bfloat16",
        )
        if job.dead_after is not None:
            config.dead_feature_window = max(1, job.dead_after // job.batch_size)
        self._trainer = SAETrainer(config, sae, data_provider=iter(()))
        batches = len(job.rows) // _ROWS_PER_BATCH_FOR_NORM or 1
        self._trainer.activation_scaler.estimate_scaling_factor(
            job.width, _provider(job.rows), batches
        )

    def step(self, rows: torch.Tensor) -> None:
        """Do one step of training."""
        self._trainer.step(rows)
        self._trainer.n_training_steps += 1

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights with unit decoder rows, as it saves them, for scaled rows."""
        state = {name: tensor.clone() for name, tensor in self._trainer.sae.state_dict().items()}
        self._trainer.sae.process_state_dict_for_saving_inference(state)
        return to_numpy(
            encoder=state["W_enc"].T,
            encoder_bias=state["b_enc"],
            pre_bias=state["b_dec"],
            decoder=state["W_dec"],
        ) | {"input_scale": np.float32(self._trainer.activation_scaler.scaling_factor)}


def _provider(rows: np.ndarray) -> Iterator[torch.Tensor]:
    for start in range(0, len(rows), _ROWS_PER_BATCH_FOR_NORM):
        yield torch.from_numpy(rows[start : start + _ROWS_PER_BATCH_FOR_NORM])


if __name__ == "__main__":
    run(SaeLensTrainer, ["sae-lens", "torch"])
