"""A second look at finished SAEs and their metrics, on the disk: what those hold that pass."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import SAE_METRICS
from esm_sae.formats.checkpoint import IMPORTED, read_checkpoint
from esm_sae.formats.manifest import Product, read_manifest
from esm_sae.formats.verification import (
    AGAIN,
    lacking,
    not_finite,
    outside,
    refuse_rows,
    require_equal,
    require_figures,
    require_files,
    scan_table,
)

_LATENTS_FILE = "latents.parquet"
_SUBGROUPS_FILE, _COMPARISON_FILE = "subgroups.parquet", "comparison.parquet"
_TRAINING_FILE = "metrics.parquet"

_RECORDED = ("k", "latent_dim", "width", "epochs")
_COMPARED = ("fvu", "pca_fvu", "random_dictionary_fvu", "l0_mean", "unfired_share", "cosine")
_SHARES = ("unfired_share", "unfired_share_expected", "dead_share")

_NORM_SLACK = 1e-3
_LARGEST = 3.4e38
_SHARE, _COSINE = (0.0, 1.0), (-1.0, 1.0)
_BOUNDS = {
    "fvu": (0.0, _LARGEST),
    "explained_variance": (-_LARGEST, 1.0),
    "mean_squared_error": (0.0, _LARGEST),
    "cosine": _COSINE,
    "centred_cosine": _COSINE,
    "pca_fvu": (0.0, _LARGEST),
    "random_dictionary_fvu": (0.0, _LARGEST),
    "unfired_share": _SHARE,
    "unfired_share_expected": _SHARE,
}


class SoundWeights(NamedTuple):
    """What is known of a checkpoint whose weights are sound.

    Attributes:
        width: D.
        latent_dim: L.
        epochs: passes over the training rows.
        decoder_norm_min: least norm of a decoder row.
        decoder_norm_max: greatest.
        train_fvu: FVU on the training rows at the end.
        validation_fvu: that on validation rows.
        dead_share: share of the latents that did not fire in the last pass. This and the figures
            before are None where an imported SAE does not tell them.
    """

    width: int
    latent_dim: int
    epochs: int | None
    decoder_norm_min: float
    decoder_norm_max: float
    train_fvu: float | None
    validation_fvu: float | None
    dead_share: float | None


class SoundMetrics(NamedTuple):
    """What is known of metrics that fit one another.

    Attributes:
        test_rows: rows that were measured.
        fvu: fraction of their variance that is not explained.
        l0_mean: latents that fire on a row, in the mean.
        l0_max: most that fire on one.
        latents: rows of the table of latents.
    """

    test_rows: int
    fvu: float
    l0_mean: float
    l0_max: int
    latents: int


class SoundComparison(NamedTuple):
    """What is known of a comparison that has a row for each k.

    Attributes:
        rows: of the table.
        compared: rows whose figures are those of that k's metrics; of the others the metrics are
            gone or newer.
    """

    rows: int
    compared: int


def verify_checkpoint(trained: Product) -> SoundWeights:
    """Check the weights of a training: shapes, finite numbers, decoder rows of unit norm.

    Those of an imported SAE may have any norm, and there is no record of its training.

    Args:
        trained: as ``train_saes`` or ``import_sae`` made it.

    Raises:
        InputError: they do not pass, or differ from what the manifest says.
    """
    require_files(trained)
    summary = trained.manifest.summary
    checkpoint = read_checkpoint(trained.path)
    config, norms = checkpoint.config, np.linalg.norm(checkpoint.decoder, axis=1)
    imported = IMPORTED in trained.manifest.determinants
    off = np.flatnonzero(np.abs(norms - 1) > _NORM_SLACK)
    if len(off) and not imported:
        raise InputError(
            f"{checkpoint.path}: the decoder rows of {len(off):,} of {len(norms):,} latents are "
            f"not of unit norm, such as latent {off[0]} ({norms[off[0]]:.4g}); train again"
        )
    require_equal(
        trained.path,
        {name: (getattr(config, name), summary[name]) for name in _RECORDED},
    )
    if not imported:
        _require_record(trained.path / _TRAINING_FILE, config.epochs)
    return SoundWeights(
        config.width,
        config.latent_dim,
        summary["epochs"],
        round(float(norms.min()), 4),
        round(float(norms.max()), 4),
        summary["train_fvu"],
        summary["validation_fvu"],
        summary["dead_share"],
    )


def verify_metrics(measured: Product) -> SoundMetrics:
    """Check that metrics are complete, lie where such figures can, and fit one another.

    Args:
        measured: as ``evaluate_sae`` made it.

    Raises:
        InputError: they do not; the figure is named.
    """
    require_files(measured)
    path = measured.path / SAE_METRICS
    metrics = _read_metrics(path)
    k, rows, histogram = metrics["k"], metrics["test_rows"], metrics["l0_histogram"]
    # By a threshold more than k can fire on a row.
    most = k if metrics.get("activation", "topk") == "topk" else len(histogram) - 1
    require_figures(path, metrics, _BOUNDS | {"l0_mean": (0.0, float(most))})
    require_equal(
        path,
        {
            "k, the most latents that fire on a row": (len(histogram) - 1, most),
            "rows of the histogram of L0": (sum(histogram), rows),
        },
    )
    table = measured.path / _LATENTS_FILE
    latents, unfired, fired = _latents(table, metrics["latent_dim"])
    _require_subgroups(measured.path / _SUBGROUPS_FILE)
    by_histogram = sum(number * count for number, count in enumerate(histogram)) / rows
    for what, one, other in (
        ("l0_mean and the mean of its histogram", metrics["l0_mean"], by_histogram),
        (f"l0_mean and the densities in {table.name}", metrics["l0_mean"], fired),
        ("explained_variance and 1 - fvu", metrics["explained_variance"], 1 - metrics["fvu"]),
        (f"unfired_share and {table.name}", metrics["unfired_share"], unfired / latents),
    ):
        if not math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9):
            raise InputError(f"{path}: {what} differ ({one:.6g} and {other:.6g}); {AGAIN}")
    largest = max(number for number, count in enumerate(histogram) if count)
    return SoundMetrics(rows, metrics["fvu"], metrics["l0_mean"], largest, latents)


def verify_comparison(
    compared: Product, metrics_folders: Mapping[int, storage.PathLike]
) -> SoundComparison:
    """Check that a comparison has one row for each k, with the figures of that k's metrics.

    Args:
        compared: as ``compare_saes`` made it.
        metrics_folders: for each k its metrics; those made since are not compared.

    Raises:
        InputError: it has not.
    """
    require_files(compared)
    path = compared.path / _COMPARISON_FILE
    table = scan_table(path, ("k", "latent_dim", *_COMPARED))
    wrong = lacking("fvu", "l0_mean") | not_finite("fvu", "pca_fvu") | outside(0, 1, *_SHARES)
    rows = refuse_rows(path, table, wrong, named_by=["k"])
    figures = table.collect()
    require_equal(path, {"values of k": (figures["k"].to_list(), sorted(metrics_folders))})
    known = 0
    for row in figures.iter_rows(named=True):
        folder = Path(metrics_folders[row["k"]])
        manifest = read_manifest(folder)
        recorded = compared.manifest.determinants["metrics"].get(str(row["k"]))
        if manifest is None or manifest.data_version != recorded:
            continue
        metrics = _read_metrics(folder / SAE_METRICS)
        require_equal(
            path,
            {f"{name} at k = {row['k']}": (row[name], metrics[name]) for name in _COMPARED},
        )
        known += 1
    return SoundComparison(rows, known)


def _require_record(path: Path, epochs: int | None) -> None:
    """Check the course of a training: whole to its last epoch, every figure finite."""
    table = scan_table(path, ("step", "epoch", "fvu", "loss", "dead_share"))
    wrong = not_finite("fvu", "loss") | outside(0, 1, "dead_share")
    wrong["are out of order"] = pl.col("step").diff() <= 0
    refuse_rows(path, table, wrong, named_by=["step"])
    require_equal(path, {"epochs": (table.select(pl.col("epoch").max()).collect().item(), epochs)})


def _latents(path: Path, latent_dim: int) -> tuple[int, int, float]:
    """Return how many latents the table has, how many never fire, and the sum of densities."""
    table = scan_table(path, ("latent", "density", "decoder_norm", "max_decoder_cosine"))
    wrong = {
        "are out of order": pl.col("latent") != pl.int_range(pl.len()),
        **outside(0, 1, "density"),
        **outside(-1, 1 + 1e-6, "max_decoder_cosine", "initial_cosine"),
        **not_finite("decoder_norm", "max_activation"),
    }
    rows = refuse_rows(path, table, wrong, named_by=["latent"])
    require_equal(path, {"latents": (rows, latent_dim)})
    density = table.select(
        (pl.col("density") == 0).sum().alias("unfired"), pl.col("density").sum().alias("sum")
    )
    unfired, total = density.collect().row(0)
    return rows, unfired, total


def _require_subgroups(path: Path) -> None:
    table = scan_table(path, ("kind", "group", "rows", "proteins", "fvu"))
    wrong = lacking("kind", "group") | outside(0, _LARGEST, "fvu")
    wrong["have more proteins than rows"] = pl.col("proteins") > pl.col("rows")
    refuse_rows(path, table, wrong, named_by=["kind", "group"])


def _read_metrics(path: Path) -> dict[str, Any]:
    metrics = storage.read_json(path)
    if not isinstance(metrics, dict):
        raise InputError(f"{path}: holds no figures by name; {AGAIN}")
    counts = {name: metrics.get(name) for name in ("k", "latent_dim", "width", "test_rows")}
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise InputError(f"{path}: {name} is {count!r}, expected a count; {AGAIN}")
    histogram = metrics.get("l0_histogram")
    if not isinstance(histogram, list) or not all(type(rows) is int for rows in histogram):
        raise InputError(f"{path}: l0_histogram is no list of counts; {AGAIN}")
    return metrics
