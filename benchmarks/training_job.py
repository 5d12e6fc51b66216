"""What the contenders of bench_training.py share: their options, their loop, their JSON line.

A contender is a script that hands ``run`` a function that makes its trainer. This module needs
nothing but NumPy, since the peers run in an environment of their own.
"""

import argparse
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Job:
    """What a contender is to do.

    Attributes:
        rows: (N, D) float32, shuffled, N a multiple of ``batch_size``.
        latent_dim: L.
        k: latents kept per row.
        batch_size: rows per step.
        steps: steps of the whole run.
        learning_rate: its peak; None for the contender's own default.
        dead_after: rows on which a latent has not fired after which a peer's auxiliary loss
            counts it as dead; None for the peer's own default.
        seed: seed of the first weights and of the order of later epochs.
        device: ``cpu`` or ``cuda``.
        precision: ``float32`` or ``bfloat16``.
        variant: which form of the contender, where it has several.
    """

    rows: np.ndarray
    latent_dim: int
    k: int
    batch_size: int
    steps: int
    learning_rate: float | None
    dead_after: int | None
    seed: int
    device: str
    precision: str
    variant: str

    @property
    def width(self) -> int:
        """D, the width of a row."""
        return self.rows.shape[1]

    @property
    def short_warmup(self) -> int:
        """A warm-up of 1,000 steps, what peers have, or of 5% of a run that is shorter."""
        return max(1, min(1000, self.steps // 20))


class Trainer(Protocol):
    """A contender at work."""

    learning_rate: float

    def place(self, rows: np.ndarray) -> Any:
        """Return rows where the device reads them; batches are slices of that."""
        ...

    def step(self, rows: Any) -> None:
        """Do one step of training on (batch_size, D) rows."""
        ...

    def wait(self) -> None:
        """Wait until all steps are done."""
        ...

    def weights(self) -> dict[str, np.ndarray]:
        """Return what ``training_evaluator.Weights`` holds."""
        ...

    def device_bytes(self) -> int | None:
        """Return the peak memory of the accelerator; None without one."""
        ...


def run(make: Callable[[Job], Trainer], packages: Sequence[str]) -> None:
    """Train as the command line says and print a JSON object as the last line.

    Args:
        make: makes the trainer.
        packages: distributions whose versions are told.
    """
    arguments = _parser().parse_args()
    job = Job(
        rows=np.load(arguments.rows),
        latent_dim=arguments.latent_dim,
        k=arguments.k,
        batch_size=arguments.batch_size,
        steps=arguments.untimed + arguments.steps,
        learning_rate=arguments.learning_rate,
        dead_after=arguments.dead_after,
        seed=arguments.seed,
        device=arguments.device,
        precision=arguments.precision,
        variant=arguments.variant,
    )
    trainer = make(job)
    figures = _train(trainer, job, arguments.untimed)
    if arguments.save:
        np.savez(arguments.save, **trainer.weights())
    versions = {name: importlib.metadata.version(name) for name in packages}
    print(json.dumps(figures | {"versions": versions}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", required=True, help="a (N, D) .npy file")
    parser.add_argument("--latent-dim", type=int, required=True)
    parser.add_argument("--k", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True, help="timed ones")
    parser.add_argument("--untimed", type=int, default=1, help="steps before these, 1 or more")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--dead-after", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--variant", default="")
    parser.add_argument("--save", help="where the weights go, .npz")
    return parser


def _train(trainer: Trainer, job: Job, untimed: int) -> dict[str, Any]:
    batches = _batches(trainer, job)
    started = time.perf_counter()
    trainer.step(next(batches))
    trainer.wait()
    first = time.perf_counter() - started
    for _ in range(untimed - 1):
        trainer.step(next(batches))
    trainer.wait()
    started = time.perf_counter()
    for batch in batches:
        trainer.step(batch)
    trainer.wait()
    seconds = time.perf_counter() - started
    return {
        "first_seconds": first,
        "samples_per_second": (job.steps - untimed) * job.batch_size / seconds,
        "learning_rate": trainer.learning_rate,
        "device_bytes": trainer.device_bytes(),
    }


def _batches(trainer: Trainer, job: Job) -> Iterator[Any]:
    """Yield the batches of all steps, the same for every contender."""
    per_epoch = len(job.rows) // job.batch_size
    for step in range(job.steps):
        epoch, number = divmod(step, per_epoch)
        if number == 0:
            placed = trainer.place(job.rows if epoch == 0 else _shuffled(job, epoch))
        yield placed[number * job.batch_size : (number + 1) * job.batch_size]


def _shuffled(job: Job, epoch: int) -> np.ndarray:
    return job.rows[np.random.default_rng([job.seed, epoch]).permutation(len(job.rows))]
