"""What the trainings of several k have in common: rows, their units, and the plan."""

from dataclasses import dataclass

import numpy as np

from esm_sae.formats.shards import EmbeddingShards
from esm_sae.sae.devices import Devices
from esm_sae.sae.options import Plan, TrainOptions, plan_training
from esm_sae.sae.rows import RowRuns, SplitChoice, SplitRows, read_rows, split_rows
from esm_sae.sae.scaling import (
    RowStatistics,
    Scaling,
    measure_rows,
    require_intact,
    scaling_of,
)
from esm_sae.sae.training_step import RowUnits

_ROWS_MEASURED = 8_192
_MOST_ROWS_COUNTED = 2_000_000_000


@dataclass(frozen=True)
class TrainingData:
    """Rows to train on and all that follows from them.

    Attributes:
        shards: the embeddings.
        split: what decided which rows are held out.
        rows: row numbers of each split.
        plan: what the options come to for these rows.
        statistics: of the raw training rows.
        scaling: what training sees of a row.
        measured_train: raw training rows that the curves are measured on, (at most 8,192, D).
        measured_validation: raw validation rows, likewise.
        seed: seed of the order of the rows.
        project: name of the group of runs.
        devices: where it is trained.
    """

    shards: EmbeddingShards
    split: SplitChoice
    rows: SplitRows
    plan: Plan
    statistics: RowStatistics
    scaling: Scaling
    measured_train: np.ndarray
    measured_validation: np.ndarray
    seed: int
    project: str
    devices: Devices

    @property
    def units(self) -> RowUnits:
        """What a training step must know of the rows."""
        return RowUnits(
            centre=self.scaling.centre,
            scale=np.float32(self.scaling.scale),
            scaled_variance=np.float32(self.scaling.variance),
            raw_variance=np.float32(self.statistics.variance),
            # Counters of 32 bits: of more than two billion rows the last two billion count.
            rows=np.int32(min(len(self.rows.train), _MOST_ROWS_COUNTED)),
        )


def prepare(
    shards: EmbeddingShards,
    options: TrainOptions,
    split: SplitChoice,
    project: str,
    devices: Devices,
) -> TrainingData:
    """Check the shards, split their rows and measure those to train on.

    Args:
        shards: the embeddings.
        options: how to train; k does not matter here.
        split: what decides which rows are held out.
        project: name of the group of runs.
        devices: where it is trained.

    Raises:
        InputError: a shard is damaged or holds NaN, or no row is left to train on.
    """
    require_intact(shards)
    rows = split_rows(shards, split)
    raw = measure_rows(shards, rows.train)
    scored = options.z_score
    seen = raw if scored is None else measure_rows(shards, rows.train, normalize=scored)
    return TrainingData(
        shards=shards,
        split=split,
        rows=rows,
        plan=plan_training(options, rows=len(rows.train), width=shards.width),
        statistics=raw,
        scaling=scaling_of(seen),
        measured_train=_some_of(shards, rows.train),
        measured_validation=_some_of(shards, rows.validation),
        seed=options.seed,
        project=project,
        devices=devices,
    )


def _some_of(shards: EmbeddingShards, rows: RowRuns) -> np.ndarray:
    return read_rows(shards, rows.evenly_spaced(_ROWS_MEASURED))
