"""Evaluating an SAE on rows it never saw."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.figures import png_bytes
from esm_sae.formats.manifest import Product, identity_of, produce_folder, read_manifest
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.progress import progress
from esm_sae.sae.fidelity import measure_fidelity, pca_fvu
from esm_sae.sae.inference import SAE, load_checkpoint
from esm_sae.sae.plots import plot_densities, plot_l0, plot_training
from esm_sae.sae.rows import SplitChoice, read_rows, split_rows
from esm_sae.sae.scaling import measure_rows
from esm_sae.sae.training_log import METRICS_NAME

KIND = "sae_metrics"
METRICS_FILE = "metrics.json"
LATENTS_FILE = "latents.parquet"

_ALGORITHM = "1"
_ROWS_PER_BLOCK = 4096


def evaluate_sae(
    checkpoint_folder: storage.PathLike,
    shards: EmbeddingShards,
    output: storage.PathLike,
    *,
    similarity_clusters: storage.PathLike | None = None,
    split_seed: int = 0,
) -> Product:
    """Measure an SAE on the test split and publish the metrics folder.

    ``metrics.json``: FVU, explained variance, errors and cosines in raw units, L0 and its
    histogram, the share of latents that fire on no test row beside its expectation under uniform
    use, the share dead in training, and the FVU of PCA with k components. ``latents.parquet``:
    one row per latent. ``*.png``: training curves, firing densities, L0.

    Args:
        checkpoint_folder: a training folder.
        shards: embeddings of the kind the SAE was trained on.
        output: the folder to make.
        similarity_clusters: as in the training.
        split_seed: as in the training.

    Raises:
        InputError: checkpoint and shards do not fit, the split is not that of the training, or
            no row is held out.
    """
    folder = Path(checkpoint_folder)
    sae = load_checkpoint(folder)
    sae.require_fit(shards)
    split = SplitChoice(similarity_clusters, split_seed)
    _require_same_split(folder, sae, split)
    return produce_folder(
        output,
        kind=KIND,
        determinants={
            "checkpoint": identity_of(folder),
            "embeddings": shards.fingerprint,
            "split": split.record(),
            "algorithm": _ALGORITHM,
        },
        build=lambda work: _evaluate(work, folder, sae, shards, split),
    )


@dataclass(frozen=True)
class Firing:
    """How the latents fire on a set of rows.

    Attributes:
        rows: number of rows.
        counts: (L,) rows each latent fires on.
        sums: (L,) sum of its activations.
        maxima: (L,) its largest activation.
        l0: (k + 1,) number of rows on which 0, 1, .. k latents fire.
    """

    rows: int
    counts: np.ndarray
    sums: np.ndarray
    maxima: np.ndarray
    l0: np.ndarray


def measure_firing(sae: SAE, shards: EmbeddingShards, rows: np.ndarray) -> Firing:
    """Count how the latents fire on the given rows, block by block."""
    latent_dim, k = sae.config.latent_dim, sae.config.k
    counts, l0 = np.zeros(latent_dim, dtype=np.int64), np.zeros(k + 1, dtype=np.int64)
    sums, maxima = np.zeros(latent_dim), np.zeros(latent_dim, dtype=np.float32)
    with progress(len(rows), unit="rows", description=f"evaluating k={k}") as bar:
        for start in range(0, len(rows), _ROWS_PER_BLOCK):
            block = read_rows(shards, rows[start : start + _ROWS_PER_BLOCK])
            values, latents = sae.encode_sparse(block)
            fires = values > 0
            l0 += np.bincount(fires.sum(1), minlength=k + 1)
            counts += np.bincount(latents[fires], minlength=latent_dim)
            sums += np.bincount(latents[fires], weights=values[fires], minlength=latent_dim)
            np.maximum.at(maxima, latents[fires], values[fires])
            bar.update(len(block))
    return Firing(len(rows), counts, sums, maxima, l0)


def _evaluate(
    work: Path, folder: Path, sae: SAE, shards: EmbeddingShards, split: SplitChoice
) -> dict[str, Any]:
    rows = split_rows(shards, split)
    if not len(rows.test):
        raise InputError(
            f"{shards.directory}: none of its proteins falls into the test split; embed more"
        )
    statistics = measure_rows(shards, rows.train, covariance=True)
    fidelity = measure_fidelity(sae, shards, rows.test, statistics)
    firing = measure_firing(sae, shards, rows.test)
    training = read_manifest(folder)
    trained = training.summary if training is not None else {}
    metrics = {
        "k": sae.config.k,
        "latent_dim": sae.config.latent_dim,
        "width": sae.config.width,
        "encoder": shards.provenance.describe(),
        "test_rows": fidelity.rows,
        "fvu": fidelity.fvu,
        "explained_variance": 1 - fidelity.fvu,
        "pca_fvu": pca_fvu(shards, rows.test, statistics, sae.config.k),
        "mean_squared_error": fidelity.mean_squared_error,
        "cosine": fidelity.cosine,
        "centred_cosine": fidelity.centred_cosine,
        "l0_mean": float(firing.counts.sum() / firing.rows),
        "unfired_share": float(np.mean(firing.counts == 0)),
        "unfired_share_expected": math.exp(-sae.config.k * firing.rows / sae.config.latent_dim),
        "dead_share": trained.get("dead_share"),
        "train_fvu": trained.get("train_fvu"),
        "validation_fvu": trained.get("validation_fvu"),
    }
    storage.publish_json(work / METRICS_FILE, metrics | {"l0_histogram": firing.l0.tolist()})
    with storage.publish(work / LATENTS_FILE) as temporary:
        _latents_table(sae, firing).write_parquet(temporary)
    _publish_plots(work, folder, firing)
    return metrics


def _latents_table(sae: SAE, firing: Firing) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "latent": np.arange(len(firing.counts), dtype=np.int32),
            "density": firing.counts / firing.rows,
            "mean_activation": firing.sums / np.maximum(firing.counts, 1),
            "max_activation": firing.maxima,
            "decoder_norm": sae.decoder_norms,
        }
    )


def _publish_plots(work: Path, folder: Path, firing: Firing) -> None:
    figures = {
        "firing_density.png": plot_densities(firing.counts / firing.rows),
        "l0_histogram.png": plot_l0(firing.l0),
    }
    if (folder / METRICS_NAME).is_file():
        figures["training_curves.png"] = plot_training(pl.read_parquet(folder / METRICS_NAME))
    for name, figure in figures.items():
        storage.publish_bytes(work / name, png_bytes(figure))


def _require_same_split(folder: Path, sae: SAE, split: SplitChoice) -> None:
    trained = sae.config.training.get("split")
    if trained is not None and trained != split.record():
        raise InputError(
            f"{folder}: was trained with another split ({trained}, not {split.record()}), so that "
            "test rows may have been trained on; give the similarity clusters and the split seed "
            "of the training"
        )
