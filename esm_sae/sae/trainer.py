"""Training SAEs on embedding shards, those of several k in one pass over the rows."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import FolderInTheMaking, Product, folder_in_the_making
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.progress import progress
from esm_sae.sae.devices import Devices
from esm_sae.sae.options import TrainOptions
from esm_sae.sae.reading import Batch, Reader
from esm_sae.sae.rows import SplitChoice
from esm_sae.sae.training_data import TrainingData, prepare
from esm_sae.sae.training_run import TrainingRun, library_versions

KIND = "sae_checkpoint"

_ALGORITHM = "2"


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
) -> Iterator[TrainResult]:
    """Train an SAE for each k, all on the same batches, and publish their folders.

    Each has the same bytes as if it were trained alone (on CPUs and on one device). A killed
    training goes on from where each was last saved, a minute of work back at most, when it is
    called again with the same input and options, and ends with the same bytes. What cannot be
    trained on, such as a loss that becomes infinite, ends that k alone.

    In memory are, beside the batches read ahead, 16,384 rows that the curves are measured on, and
    for each k its weights four times (themselves, their gradient, two of Adam's).

    Args:
        shards: the embeddings.
        outputs: for each k the folder to make.
        options: how to train; ``k`` is taken from ``outputs``.
        project: name of the group of runs, kept in the files' metadata.
        similarity_clusters: table of the proteins' similarity clusters, ``"bundled"``, or None
            where each protein is its own cluster. Decides which rows are held out.

    Yields:
        Each result as it is done, those that were there before first.

    Raises:
        InputError: the options do not fit the data, a shard is damaged or holds NaN, or no row is
            left to train on; or, once the others are done, some k could not be trained.
    """
    started = time.perf_counter()
    options_of = {k: replace(options, k=k) for k in sorted(outputs)}
    for chosen in options_of.values():
        chosen.check()
    split, devices = SplitChoice(similarity_clusters, options.split_seed), Devices.here()
    with contextlib.ExitStack() as stack:
        makings: dict[int, FolderInTheMaking] = {}
        # In the order of their paths: two processes that train the same never wait for each other.
        for k in sorted(outputs, key=lambda k: str(Path(outputs[k]).absolute())):
            determinants = {
                "embeddings": shards.fingerprint,
                "provenance": asdict(shards.provenance),
                "options": asdict(options_of[k]),
                "project": project,
                "split": split.record(),
                "algorithm": _ALGORITHM,
                "versions": library_versions(),
                "devices": devices.record(),
            }
            making = folder_in_the_making(outputs[k], kind=KIND, determinants=determinants)
            makings[k] = stack.enter_context(making)
        for k, making in makings.items():
            if making.product is not None:
                yield TrainResult(k, making.product, time.perf_counter() - started, 0)
        wanted = sorted(k for k, making in makings.items() if making.product is None)
        if not wanted:
            return
        data = prepare(shards, options, split, project, devices)
        runs = [TrainingRun(makings[k], options_of[k], data) for k in wanted]
        for run in _train_together(runs, data):
            seconds = time.perf_counter() - started
            yield TrainResult(run.options.k, run.publish(), seconds, run.samples)
        _raise_failures(runs)


def _train_together(runs: Sequence[TrainingRun], data: TrainingData) -> Iterator[TrainingRun]:
    """Train until each run is done or has failed; yield those that are done."""
    plan, rows = data.plan, len(data.rows.train)
    description = (
        f"training L={runs[0].options.latent_dim} k={','.join(str(r.options.k) for r in runs)}"
    )
    before = sum(run.samples_before for run in runs)
    total = plan.epochs * rows * len(runs)
    with progress(total, unit="rows", description=description, start=before) as bar:
        first = min(run.steps for run in runs)
        for step, batch in enumerate(_batches(data, first), start=first):
            for run in runs:
                if run.failure is None and run.steps == step:
                    run.take(batch)
                    bar.update(batch.count)
            if all(run.failure for run in runs):
                return
    yield from (run for run in runs if run.failure is None)


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


def _raise_failures(runs: Sequence[TrainingRun]) -> None:
    failures = {run.options.k: run.failure for run in runs if run.failure is not None}
    if len(failures) == 1:
        raise next(iter(failures.values()))
    if failures:
        raise InputError("; ".join(f"k = {k}: {failure}" for k, failure in failures.items()))
