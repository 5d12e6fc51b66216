"""The record of a training: ``metrics.parquet``."""

from pathlib import Path

import jax
import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.sae.training_step import StepFigures

METRICS_NAME = "metrics.parquet"

_SCHEMA = {
    "step": pl.Int64,
    "epoch": pl.Int32,
    "samples": pl.Int64,
    "loss": pl.Float64,
    "fvu": pl.Float64,
    "aux_loss": pl.Float64,
    "learning_rate": pl.Float64,
    "dead_share": pl.Float64,
    "aux_latents": pl.Float64,
    "l0": pl.Float64,
    "train_fvu": pl.Float64,
    "validation_fvu": pl.Float64,
}


class Diverged(InputError):
    """A training that has gone wrong; the message says how, and at which step."""


class TrainingLog:
    """Collects the figures of steps; a row is the mean over the steps since the row before.

    ``train_fvu`` and ``validation_fvu`` are measured with the weights at the end of an epoch and
    are null in the rows before it.
    """

    def __init__(self, folder: Path, *, steps_done: int = 0, project: str = "") -> None:
        self._path = folder / METRICS_NAME
        self._project = project
        self._pending: list[StepFigures] = []
        self._table = pl.DataFrame(schema=_SCHEMA)
        if steps_done:
            self._table = _read(self._path).filter(pl.col("step") <= steps_done)

    @property
    def last(self) -> dict[str, float]:
        """The last row."""
        return self._table.row(-1, named=True)

    @property
    def rows(self) -> list[dict[str, float]]:
        """All rows so far."""
        return self._table.rows(named=True)

    def add(self, figures: StepFigures) -> None:
        """Add a step's figures, which may still be on their way from the device."""
        self._pending.append(figures)

    def close_row(
        self,
        *,
        step: int,
        epoch: int,
        samples: int,
        train_fvu: float | None = None,
        validation_fvu: float | None = None,
    ) -> None:
        """End a row of the record.

        Raises:
            Diverged: a figure is not finite, or the FVU is above 1, which is that of no SAE at
                all, and twice what it was at first.
        """
        steps = jax.device_get(self._pending)
        means = {
            name: float(np.mean([getattr(figures, name) for figures in steps]))
            for name in StepFigures._fields
        }
        measured = {"train_fvu": train_fvu, "validation_fvu": validation_fvu}
        for name, value in (means | measured).items():
            if value is not None and not np.isfinite(value):
                raise Diverged(f"{name} became {value} by step {step}: the training diverged")
        if len(self._table) and means["fvu"] > max(1.0, 2 * self._table["fvu"][0]):
            raise Diverged(
                f"the FVU rose from {self._table['fvu'][0]:.3g} to {means['fvu']:.3g} by step "
                f"{step}: the training diverged"
            )
        row = {"step": step, "epoch": epoch, "samples": samples, **means, **measured}
        self._table = pl.concat([self._table, pl.DataFrame([row], schema=_SCHEMA)])
        self._pending = []

    def require_better_than_mean(self) -> None:
        """Check the FVU on training rows at the end.

        Raises:
            Diverged: it is above 1, that of the rows' mean.
        """
        if self.last["train_fvu"] > 1:
            raise Diverged(
                f"the FVU on training rows is {self.last['train_fvu']:.3g} at the end, worse than "
                "that of their mean: the training diverged"
            )

    def save(self) -> None:
        """Publish the record."""
        with storage.publish(self._path) as temporary:
            self._table.write_parquet(temporary, metadata={"project": self._project})


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: cannot be gone on from ({reason}); remove {path.parent} and train again"
        ) from None
