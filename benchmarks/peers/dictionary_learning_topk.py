"""dictionary_learning's TopK trainer as a contender of bench_training.py.

``TopKTrainer.update`` as it is. As in the project's own demo, rows are divided by the root of
their mean squared norm and the learning rate falls over the last fifth of the run.
"""

import numpy as np
import torch
from torch_trainer import TorchTrainer, to_numpy
from training_job import Job, run

_DECAY_START = 0.8
_ROWS_FOR_NORM = 100_000


class DictionaryLearningTrainer(TorchTrainer):
    """``TopKTrainer`` on normalised rows."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.device)
        from dictionary_learning.trainers.top_k import TopKTrainer

        decay_start = int(_DECAY_START * job.steps)
        self._trainer = TopKTrainer(
            steps=job.steps,
            activation_dim=job.width,
            dict_size=job.latent_dim,
            k=job.k,
            layer=0,
            lm_name="none",
            lr=job.learning_rate,
            warmup_steps=job.short_warmup,
            decay_start=decay_start if decay_start > job.short_warmup else None,
            seed=job.seed,
            device=job.device,
        )
        if job.dead_after is not None:
            self._trainer.dead_feature_threshold = job.dead_after
        self.learning_rate = self._trainer.lr
        some = job.rows[:_ROWS_FOR_NORM]
        self._scale = float(1 / np.sqrt(np.einsum("nd,nd->", some, some) / len(some)))
        self._steps = 0

    def step(self, rows: torch.Tensor) -> None:
        """Do one step of training."""
        self._trainer.update(self._steps, rows * self._scale)
        self._steps += 1

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights, for rows times ``input_scale``."""
        model = self._trainer.ae
        return to_numpy(
            encoder=model.encoder.weight,
            encoder_bias=model.encoder.bias,
            pre_bias=model.b_dec,
            decoder=model.decoder.weight.T,
        ) | {"input_scale": np.float32(self._scale)}


if __name__ == "__main__":
    run(DictionaryLearningTrainer, ["dictionary-learning", "torch"])
