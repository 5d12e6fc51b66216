"""Evaluating an SAE on rows it never saw."""

import math
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.figures import png_bytes
from esm_sae.formats.analysis_tables import SAE_METRICS
from esm_sae.formats.biohub import is_biohub
from esm_sae.formats.checkpoint import read_config
from esm_sae.formats.hub_files import local_copy
from esm_sae.formats.manifest import Product, identity_of, produce_folder, read_manifest
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.formats.shared_sae import is_shared_sae
from esm_sae.recorded_split import require_held_out
from esm_sae.sae.baselines import random_dictionary
from esm_sae.sae.fidelity import (
    FidelityMeter,
    dimension_variances,
    rows_per_block,
    standardised_fvu,
)
from esm_sae.sae.held_out import HeldOut, measure_held_out
from esm_sae.sae.inference import SAE, load_checkpoint
from esm_sae.sae.latents import Firing, FiringMeter, latents_table
from esm_sae.sae.plots import (
    plot_decoder_cosines,
    plot_densities,
    plot_l0,
    plot_subgroups,
    plot_training,
)
from esm_sae.sae.rows import SplitChoice, SplitRows, read_rows, split_rows
from esm_sae.sae.scaling import RowStatistics, measure_rows
from esm_sae.sae.training_log import METRICS_NAME

KIND = "sae_metrics"
LATENTS_FILE = "latents.parquet"
SUBGROUPS_FILE = "subgroups.parquet"

_ALGORITHM = "2"

_Untrained = tuple[storage.PathLike, EmbeddingShards]


def evaluate_sae(
    checkpoint_folder: storage.PathLike,
    shards: EmbeddingShards,
    output: storage.PathLike,
    *,
    similarity_clusters: storage.PathLike | None = None,
    split_seed: int = 0,
    untrained: _Untrained | None = None,
) -> Product:
    """Measure an SAE on the test split and publish the metrics folder.

    ``latents.parquet`` has one row per latent (``latents.latents_table``), ``subgroups.parquet``
    one per taxon and range of protein lengths (``subgroups.SubgroupMeter.table``), ``*.png`` are
    plots. ``metrics.json`` holds, of the test rows and in raw units unless it says otherwise:

    - ``fvu``, ``mean_squared_error``, ``cosine``, ``centred_cosine``: as
      ``fidelity.Fidelity``; ``explained_variance``: 1 - FVU.
    - ``fvu_standardised``, ``constant_dimensions``: the FVU with each dimension divided by its
      standard deviation, and how many dimensions were left out of it
      (``fidelity.standardised_fvu``).
    - ``variance_share_of_top_1`` (``_5``, ``_10``): share of the training rows' variance in their
      dimensions of largest variance.
    - ``pca_fvu``, ``random_dictionary_fvu``: of PCA with k components and of a dictionary that
      was never trained, on the same rows (``baselines``).
    - ``untrained_fvu``, ``untrained_l0_mean``, ``untrained_encoder``: of the SAE given as
      ``untrained``, on its own test rows and by their own variance; null where none is given.
    - ``activation``: what decides which latents fire, as in ``SAEConfig``.
    - ``trained_on_these``: whether the training rows were of these embeddings, so that the split
      says which were held out; null where the SAE does not tell.
    - ``l0_mean``, ``l0_histogram``: latents that fire on a row; the number of rows with 0, 1, ..
    - ``unfired_share``: latents that fire on no test row, beside ``unfired_share_expected`` under
      uniform use, exp(-kN/L) for N rows.
    - ``dead_share``: another thing, latents that did not fire in the training's last pass over
      its own rows; with ``train_fvu`` and ``validation_fvu`` as the training recorded it, null
      where there is no record.
    - ``max_decoder_cosine_median``, ``initial_cosine_median``: over the latents that fire on a
      test row; null where not known.

    The test rows are read once. Memory: the weights and the random dictionary, of the same size;
    one block of rows with its (rows, L) activations, of 128 MB at most; the (D, D) covariance; and
    what ``latents_table`` and ``SubgroupMeter`` say.

    Args:
        checkpoint_folder: a training folder, a checkpoint file, or another form that
            ``formats.sae_files`` reads.
        shards: embeddings of the kind the SAE was trained on.
        output: the folder to make.
        similarity_clusters: as in the training.
        split_seed: as in the training.
        untrained: training folder of an SAE of the same L and k on the rows of an untrained
            encoder, and these embeddings. What it reaches, the architecture of the encoder gives
            without having learnt anything of proteins.

    Raises:
        InputError: checkpoint and shards do not fit, the split is not that of the training, no
            row is held out, or ``untrained`` is no counterpart.
    """
    path = local_copy(checkpoint_folder)
    sae = load_checkpoint(path)
    sae.require_fit(shards)
    split = SplitChoice(similarity_clusters, split_seed)
    _require_same_split(path, sae, split)
    if _trained_on(sae, shards) is False:
        warnings.warn(
            f"{path}: was trained on other embeddings than {shards.directory}; test rows may have "
            "been trained on",
            stacklevel=2,
        )
    other = None if untrained is None else _counterpart(untrained, sae, shards, split)
    return produce_folder(
        output,
        kind=KIND,
        determinants={
            "checkpoint": _identity(path, sae),
            "sae": sae.fingerprint,
            "embeddings": shards.fingerprint,
            "split": split.record(),
            "untrained": None if other is None else other.identity,
            "algorithm": _ALGORITHM,
        },
        build=lambda work: _evaluate(work, path, sae, shards, split, other),
    )


@dataclass(frozen=True)
class _Counterpart:
    """The SAE on the rows of an untrained encoder."""

    sae: SAE
    shards: EmbeddingShards
    identity: dict[str, Any]


def _evaluate(
    work: Path,
    path: Path,
    sae: SAE,
    shards: EmbeddingShards,
    split: SplitChoice,
    untrained: _Counterpart | None,
) -> dict[str, Any]:
    rows = _split_rows(shards, split)
    statistics = measure_rows(shards, rows.train, covariance=True)
    dictionary = random_dictionary(sae.config, shards, rows.train, statistics)
    held_out = measure_held_out(sae, dictionary, shards, rows.test, statistics)
    latents = latents_table(sae, held_out.firing)
    metrics = {
        "k": sae.config.k,
        "activation": sae.config.activation,
        "trained_on_these": _trained_on(sae, shards),
        "latent_dim": sae.config.latent_dim,
        "width": sae.config.width,
        "encoder": shards.provenance.describe(),
        "project": sae.config.project,
        **_fidelity_metrics(held_out, statistics),
        **_untrained_metrics(untrained, split),
        **_firing_metrics(held_out.firing, sae),
        **_training_metrics(path),
        **_cosine_metrics(latents),
    }
    l0_histogram = held_out.firing.l0.tolist()
    storage.publish_json(work / SAE_METRICS, metrics | {"l0_histogram": l0_histogram})
    for name, table in ((LATENTS_FILE, latents), (SUBGROUPS_FILE, held_out.subgroups)):
        with storage.publish(work / name) as temporary:
            table.write_parquet(temporary, metadata={"project": sae.config.project})
    _publish_plots(work, path, sae, held_out, latents)
    return metrics


def _fidelity_metrics(held_out: HeldOut, statistics: RowStatistics) -> dict[str, Any]:
    fidelity = held_out.fidelity
    standardised, constant = standardised_fvu(fidelity, statistics)
    shares = np.sort(dimension_variances(statistics))[::-1].cumsum() / statistics.variance
    return {
        "test_rows": fidelity.rows,
        "fvu": fidelity.fvu,
        "explained_variance": 1 - fidelity.fvu,
        "fvu_standardised": standardised,
        "constant_dimensions": constant,
        **{
            f"variance_share_of_top_{count}": float(shares[min(count, len(shares)) - 1])
            for count in (1, 5, 10)
        },
        "pca_fvu": held_out.pca_fvu,
        "random_dictionary_fvu": held_out.dictionary_fvu,
        "mean_squared_error": fidelity.mean_squared_error,
        "cosine": fidelity.cosine,
        "centred_cosine": fidelity.centred_cosine,
    }


def _firing_metrics(firing: Firing, sae: SAE) -> dict[str, Any]:
    # By thresholds k was aimed at, and need not hold here.
    per_row = sae.config.k if sae.config.activation == "topk" else firing.l0_mean
    return {
        "l0_mean": firing.l0_mean,
        "unfired_share": float(np.mean(~firing.fired)),
        "unfired_share_expected": math.exp(-per_row * firing.rows / sae.config.latent_dim),
    }


def _trained_on(sae: SAE, shards: EmbeddingShards) -> bool | None:
    trained_on = sae.config.data_fingerprint
    return None if trained_on == "unknown" else trained_on == shards.fingerprint


def _training_metrics(path: Path) -> dict[str, Any]:
    record = read_manifest(path) if path.is_dir() else None
    trained = record.summary if record is not None else {}
    return {name: trained.get(name) for name in ("dead_share", "train_fvu", "validation_fvu")}


def _cosine_metrics(latents: pl.DataFrame) -> dict[str, Any]:
    live = latents.filter(pl.col("density") > 0)
    return {
        f"{name}_median": live[name].median() for name in ("max_decoder_cosine", "initial_cosine")
    }


def _untrained_metrics(untrained: _Counterpart | None, split: SplitChoice) -> dict[str, Any]:
    if untrained is None:
        return {"untrained_fvu": None, "untrained_l0_mean": None, "untrained_encoder": None}
    sae, shards = untrained.sae, untrained.shards
    rows = _split_rows(shards, split)
    fidelity = FidelityMeter(measure_rows(shards, rows.train))
    firing = FiringMeter(sae.config.latent_dim, sae.config.k)
    for numbers in rows.test.blocks(rows_per_block(sae.config.latent_dim)):
        block = read_rows(shards, numbers)
        values, latents, again = sae.encode_and_reconstruct(block)
        fidelity.add(block, again)
        firing.add(values, latents)
    return {
        "untrained_fvu": fidelity.result().fvu,
        "untrained_l0_mean": firing.result().l0_mean,
        "untrained_encoder": shards.provenance.describe(),
    }


def _publish_plots(
    work: Path, path: Path, sae: SAE, held_out: HeldOut, latents: pl.DataFrame
) -> None:
    firing = held_out.firing
    figures = {
        "firing_density": plot_densities(firing.densities, sae.config.k),
        "l0_histogram": plot_l0(firing.l0),
        "decoder_cosines": plot_decoder_cosines(latents, sae.config.width),
    }
    if len(held_out.subgroups):
        figures["fvu_by_group"] = plot_subgroups(held_out.subgroups, held_out.fidelity.fvu)
    if (path / METRICS_NAME).is_file():
        figures["training_curves"] = plot_training(pl.read_parquet(path / METRICS_NAME))
    for name, figure in figures.items():
        storage.publish_bytes(work / f"{name}.png", png_bytes(figure))


def _split_rows(shards: EmbeddingShards, split: SplitChoice) -> SplitRows:
    rows = split_rows(shards, split)
    if not len(rows.test):
        raise InputError(
            f"{shards.directory}: none of its proteins falls into the test split; embed more"
        )
    return rows


def _counterpart(
    untrained: _Untrained, sae: SAE, shards: EmbeddingShards, split: SplitChoice
) -> _Counterpart:
    path, others = Path(untrained[0]), untrained[1]
    other = load_checkpoint(path)
    other.require_fit(others)
    _require_same_split(path, other, split)
    sizes, wanted = [(one.config.latent_dim, one.config.k) for one in (other, sae)]
    if sizes != wanted:
        raise InputError(
            f"{path}: has L = {sizes[0]} and k = {sizes[1]}, the SAE that it stands beside "
            f"L = {wanted[0]} and k = {wanted[1]}; train it with the same"
        )
    if others.fingerprint == shards.fingerprint:
        raise InputError(
            f"{others.directory}: are the embeddings that the SAE itself reads; the untrained "
            "encoder's are others"
        )
    identity = {"checkpoint": _identity(path, other), "embeddings": others.fingerprint}
    return _Counterpart(other, others, identity)


def _identity(path: Path, sae: SAE) -> Any:
    """Return what determines an SAE: its training folder's content, or weights and config."""
    is_training = path.is_dir() and not is_biohub(path) and not is_shared_sae(path)
    if is_training and read_config(path) is not None:
        return identity_of(path)
    return {"weights": sae.fingerprint, "config": asdict(sae.config)}


def _require_same_split(path: Path, sae: SAE, split: SplitChoice) -> None:
    training = sae.config.training
    if "split" not in training:
        warnings.warn(
            f"{path}: does not tell its split; test rows may have been trained on", stacklevel=3
        )
    require_held_out(f"{path}:", training, split.similarity_clusters, split.seed)
