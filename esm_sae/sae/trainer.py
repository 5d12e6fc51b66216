"""Training SAEs on embedding shards, those of several k in one pass over the rows."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product, folder_in_the_making
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.progress import progress
from esm_sae.sae.devices import Devices
from esm_sae.sae.options import TrainOptions
from esm_sae.sae.reading import Batch, Reader
from esm_sae.sae.rows import SplitChoice
from esm_sae.sae.training_data import TrainingData, prepare
from esm_sae.sae.training_run import TrainingRun, library_versions
from esm_sae.tracking import Tracking

KIND = "sae_checkpoint"

_ALGORITHM = "3"


class TrainResult(NamedTuple):
    """A trained SAE.

    Attributes:
        k: latents kept per row.
        product: the training folder.
        seconds: time from the call to this result.
        samples: rows this call trained on, counted once per epoch; 0 where nothing was to do.
    """

    k: int
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
    """Train an SAE and publish its folder: ``train_saes`` for one k, that of the options."""
    (result,) = train_saes(
        shards,
        {options.k: output},
        options,
        project=project,
        similarity_clusters=similarity_clusters,
    )
    return result


def train_saes(
    shards: EmbeddingShards,
    outputs: Mapping[int, storage.PathLike],
    options: TrainOptions,
    *,
    project: str = "",
    similarity_clusters: storage.PathLike | None = None,
    tracking: Tracking | None = None,
) -> Iterator[TrainResult]:
    """Train an SAE for each k, all on the same batches, and publish their folders.

    Each has the same bytes as if it were trained alone. A killed training goes on from where each
    was last saved when it is called again with the same input and options, and, on a CPU, ends
    with the same bytes. What cannot be trained on, such as a loss that becomes infinite, ends that
    k alone. Nothing is done before the first result is asked for.

    In memory are, beside four batches, 16,384 rows that the curves are measured on; for each k its
    weights three times (themselves and Adam's two moments), and for one k at a time the gradient
    and what ``sparse_gradient`` says, or a copy of all three while it is saved.

    Args:
        shards: the embeddings.
        outputs: for each k the folder to make.
        options: how to train; ``k`` is taken from ``outputs``.
        project: name of the group of runs, kept in the files' metadata.
        similarity_clusters: table of the proteins' similarity clusters, ``"bundled"``, or None
            where each protein is its own cluster. Decides which rows are held out.
        tracking: what shows the trainings while they run; changes nothing of what they make.

    Yields:
        Each result as it is done, those that were there before first.

    Raises:
        InputError: the options do not fit the data, a shard is damaged or holds NaN, no row is
            left to train on, or a tracker's package is missing; or, once the others are done, some
            k could not be trained.
    """
    started = time.perf_counter()
    options_of = {k: replace(options, k=k) for k in sorted(outputs)}
    for chosen in options_of.values():
        chosen.check()
    _require_distinct(outputs)
    tracking = tracking or Tracking()
    tracking.require()
    split, devices = SplitChoice(similarity_clusters, options.split_seed), Devices.here()
    determinants = {
        "embeddings": shards.fingerprint,
        "provenance": asdict(shards.provenance),
        "project": project,
        "split": split.record(),
        "algorithm": _ALGORITHM,
        "versions": library_versions(),
        "devices": devices.record(),
    }
    with contextlib.ExitStack() as stack:
        held: dict[int, _Held] = {}
        # In the order of their paths: two processes that train the same never wait for each other.
        for k in sorted(outputs, key=lambda k: _absolute(outputs[k])):
            of_options = {"options": asdict(options_of[k])}
            held[k] = stack.enter_context(_Held(outputs[k], determinants | of_options))
        wanted = []
        for k in options_of:
            product = held[k].making.product
            if product is None:
                wanted.append(k)
                continue
            held[k].release()
            yield TrainResult(k, product, time.perf_counter() - started, 0)
        if not wanted:
            return
        data = prepare(shards, options, split, project, devices)
        runs = [TrainingRun(held[k].making, options_of[k], data) for k in wanted]
        for run in runs:
            if run.failure is None:
                run.trackers = stack.enter_context(tracking.follow(run.tracked()))
        _train_together(runs, data)
        for run in runs:
            product = run.publish()
            held[run.options.k].release()
            run.trackers.finish(None if product is None else product.manifest.summary)
            if product is not None:
                seconds = time.perf_counter() - started
                yield TrainResult(run.options.k, product, seconds, run.samples)
        _raise_failures(runs)


class _Held(contextlib.ExitStack):
    """An output folder, held until it is released or the block ends."""

    def __init__(self, folder: storage.PathLike, determinants: Mapping[str, Any]) -> None:
        super().__init__()
        making = folder_in_the_making(folder, kind=KIND, determinants=determinants)
        self.making = self.enter_context(making)

    def release(self) -> None:
        """Let other processes have it."""
        self.close()


def _train_together(runs: Sequence[TrainingRun], data: TrainingData) -> None:
    """Train until each run is done or has failed."""
    going = [run for run in runs if run.failure is None]
    if not going:
        return
    plan, rows = data.plan, len(data.rows.train)
    ks = ",".join(str(run.options.k) for run in going)
    description = f"training L={going[0].options.latent_dim} k={ks}"
    before = sum(run.samples_before for run in going)
    total = plan.epochs * rows * len(going)
    with progress(total, unit="rows", description=description, start=before) as bar:
        first = min(run.steps for run in going)
        for step, batch in enumerate(_batches(data, first), start=first):
            for run in going:
                if run.failure is None and run.steps == step:
                    run.take(batch)
                    bar.update(batch.count)
            if all(run.failure for run in going):
                return


def _batches(data: TrainingData, first: int) -> Iterator[Batch]:
    """Yield the batches of all epochs from a step on."""
    plan = data.plan
    reader = Reader(
        data.shards,
        data.rows.train,
        batch_size=plan.batch_size,
        seed=data.seed,
        place=data.devices.place,
        resident=data.devices.resident,
    )
    epoch, skipped = divmod(first, plan.steps_per_epoch)
    while epoch < plan.epochs:
        yield from reader.batches(epoch + 1, skipped)
        epoch, skipped = epoch + 1, 0


def _require_distinct(outputs: Mapping[int, storage.PathLike]) -> None:
    """Check that no two k have one folder: the second would wait for the first for ever."""
    k_of: dict[str, int] = {}
    for k, folder in outputs.items():
        other = k_of.setdefault(_absolute(folder), k)
        if other != k:
            raise InputError(f"{folder}: is the output of k = {other} and of k = {k}; name another")


def _absolute(folder: storage.PathLike) -> str:
    return os.path.abspath(folder)


def _raise_failures(runs: Sequence[TrainingRun]) -> None:
    failures = {run.options.k: run.failure for run in runs if run.failure is not None}
    if len(failures) == 1:
        raise next(iter(failures.values()))
    if failures:
        raise InputError("; ".join(f"k = {k}: {failure}" for k, failure in failures.items()))
