"""Comparing SAEs over k."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.figures import png_bytes
from esm_sae.formats.analysis_tables import SAE_METRICS
from esm_sae.formats.manifest import Product, identity_of, produce_folder, read_manifest
from esm_sae.sae.plots import plot_comparison

KIND = "sae_comparison"

_ALGORITHM = "2"
_COLUMNS = {
    "k": pl.Int64,
    "latent_dim": pl.Int64,
    "test_rows": pl.Int64,
    "fvu": pl.Float64,
    "pca_fvu": pl.Float64,
    "random_dictionary_fvu": pl.Float64,
    "untrained_fvu": pl.Float64,
    "untrained_l0_mean": pl.Float64,
    "explained_variance": pl.Float64,
    "fvu_standardised": pl.Float64,
    "cosine": pl.Float64,
    "centred_cosine": pl.Float64,
    "mean_squared_error": pl.Float64,
    "l0_mean": pl.Float64,
    "dead_share": pl.Float64,
    "unfired_share": pl.Float64,
    "unfired_share_expected": pl.Float64,
    "max_decoder_cosine_median": pl.Float64,
    "initial_cosine_median": pl.Float64,
    "train_fvu": pl.Float64,
    "validation_fvu": pl.Float64,
}


def compare_saes(
    metrics_folders: Mapping[int, storage.PathLike], output: storage.PathLike
) -> Product:
    """Publish ``comparison.parquet``, one row per k, and ``comparison.png``.

    The table has figures of each ``metrics.json`` as ``evaluate_sae`` describes them, the plot FVU
    against L0 with the baselines beside it, and the latents that are dead or unfired. The summary
    says at which k PCA with k components reconstructs better than the SAE.

    Args:
        metrics_folders: for each k the folder that ``evaluate_sae`` made.
        output: the folder to make.

    Raises:
        InputError: there are no folders, one is incomplete or not of this version, one is of
            another k, or they were measured on different embeddings or splits.
    """
    if not metrics_folders:
        raise InputError("there are no metrics to compare; evaluate an SAE first")
    folders = {k: Path(metrics_folders[k]) for k in sorted(metrics_folders)}
    identities = {str(k): identity_of(folder) for k, folder in folders.items()}
    _require_same_rows(list(folders.values()))
    return produce_folder(
        output,
        kind=KIND,
        determinants={
            "metrics": identities,
            "algorithm": _ALGORITHM,
        },
        build=lambda work: _compare(work, folders),
    )


def _compare(work: Path, folders: dict[int, Path]) -> dict[str, Any]:
    rows = [_read_metrics(k, folder) for k, folder in folders.items()]
    table = pl.DataFrame([{name: row[name] for name in _COLUMNS} for row in rows], schema=_COLUMNS)
    with storage.publish(work / "comparison.parquet") as temporary:
        table.write_parquet(temporary, metadata={"project": rows[0]["project"]})
    storage.publish_bytes(work / "comparison.png", png_bytes(plot_comparison(table)))
    better = table.filter(pl.col("pca_fvu") < pl.col("fvu"))["k"].to_list()
    return {
        "k": list(folders),
        "fvu": table["fvu"].to_list(),
        "pca_fvu": table["pca_fvu"].to_list(),
        "random_dictionary_fvu": table["random_dictionary_fvu"].to_list(),
        "untrained_fvu": table["untrained_fvu"].to_list(),
        "l0_mean": table["l0_mean"].to_list(),
        "dead_share": table["dead_share"].to_list(),
        "unfired_share": table["unfired_share"].to_list(),
        "encoder": rows[0]["encoder"],
        "project": rows[0]["project"],
        "pca_is_better_at_k": better,
    }


def _read_metrics(k: int, folder: Path) -> dict[str, Any]:
    metrics = storage.read_json(folder / SAE_METRICS)
    if metrics["k"] != k:
        raise InputError(f"{folder}: holds the metrics of k = {metrics['k']}, expected k = {k}")
    missing = sorted({*_COLUMNS, "project"} - metrics.keys())
    if missing:
        raise InputError(
            f"{folder}: its metrics are of another version, without {missing[0]}; evaluate again"
        )
    return metrics


def _require_same_rows(folders: list[Path]) -> None:
    manifests = [read_manifest(folder) for folder in folders]
    first = manifests[0]
    for folder, manifest in zip(folders, manifests, strict=True):
        for name in ("embeddings", "split"):
            one, other = (of.determinants.get(name) if of else None for of in (first, manifest))
            if one != other:
                raise InputError(
                    f"{folders[0]} and {folder} were measured on different {name} ({one} and "
                    f"{other}); evaluate both on the same"
                )
