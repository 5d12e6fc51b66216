"""Density clusters of the embedding space: PCA, then HDBSCAN."""

from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.clusters.components import Components, fit_components
from esm_sae.clusters.copies import distinct_points
from esm_sae.clusters.hdbscan_fits import (
    Backend,
    Fit,
    Selection,
    fit_hdbscan,
    require_backend,
)
from esm_sae.clusters.points import points_path
from esm_sae.clusters.prediction import Predictor
from esm_sae.errors import InputError
from esm_sae.formats.manifest import (
    Product,
    manifest_beside,
    produce_files,
    require_unclaimed,
)
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.progress import progress

_ALGORITHM = "density-2"
_BATCH = 4096
# Enough for scikit-learn to share among many cores.
_PREDICTED = 32_768
_LARGEST = 10
_SHOWN_COMPONENTS = 10
# Full whitening lets many small directions drown a few large groups, none at all lets the few
# dominant directions of mean-pooled vectors hide everything else.
_WHITENING = 0.5


def cluster_embeddings(
    shards: EmbeddingShards,
    output_parquet: storage.PathLike,
    *,
    min_cluster_size: int = 5,
    min_samples: int | None = None,
    components: int = 50,
    fit_rows: int = 20_000,
    selection: Selection = "auto",
    backend: Backend = "hdbscan",
    seed: int = 0,
) -> Product:
    """Cluster proteins by density: HDBSCAN on half-whitened principal components.

    The mean vectors are projected on their principal components, each coordinate divided by the
    fourth root of its variance. HDBSCAN (Campello et al. 2013) is fitted on a seeded sample of at
    most ``fit_rows`` distinct rows; all other rows join the clusters found, by the rule of
    ``approximate_predict`` of the package ``hdbscan``. Equal rows, copies of one sequence, are
    fitted once, or they would be infinitely dense and every other member of their cluster would
    get probability 0; they all get the same result.

    The points that were clustered are written beside the table, for ``read_points``.

    Memory: 0.3 KB and the header a row, plus what HDBSCAN takes for ``fit_rows`` rows; matrices
    and points are read in batches, mapped from their files.

    Writes one row per protein: sequence_id, header, cluster (0 is the largest, -1 noise),
    probability (0..1, strength of membership), outlier_score (0..1, GLOSH; of predicted rows
    too, against the fitted ones), length (of the protein, null where it is not known).

    Args:
        shards: embeddings; with residue rows their mean matrices are read.
        output_parquet: the table to write.
        min_cluster_size: fewest distinct rows of a cluster.
        min_samples: neighbours that make a row's density; None for ``min_cluster_size``.
        components: principal components kept, at most the width.
        fit_rows: most rows that HDBSCAN is fitted on.
        selection: ``eom`` (excess of mass) finds the most persistent clusters, ``leaf`` the
            finest; ``auto`` takes ``eom`` unless it puts over 80% of the rows into one cluster.
        backend: package that fits. ``fast_hdbscan`` (extra ``fast``) is several times faster from
            some 20,000 fitted rows on and finds nearly the same clusters, but for ties.
        seed: of the sample, and of the search for components.

    Raises:
        InputError: an option is out of range, the backend is not installed, there are fewer
            distinct rows than ``min_cluster_size``, a row holds NaN, infinity or a number beyond
            1e15, all rows are equal, or a file to write belongs to another output.
    """
    target = Path(output_parquet)
    proteins = shards.means()
    _require_options(min_cluster_size, min_samples, components, fit_rows, selection)
    require_backend(backend)
    require_unclaimed([target, points_path(target)], manifest_beside(target))

    def build(temporaries: list[Path]) -> dict[str, Any]:
        _require_rows(proteins, proteins.rows, "rows", min_cluster_size)
        space = fit_components(proteins, components, seed=seed)
        points = _write_points(temporaries[1], proteins, space)
        distinct, row_to_distinct = distinct_points(points)
        _require_rows(proteins, len(distinct), "distinct rows", min_cluster_size)
        fitted = _sample(len(distinct), fit_rows, seed)
        neighbours = min_samples or min_cluster_size
        fit = fit_hdbscan(
            points[distinct[fitted]].astype(np.float64),
            min_cluster_size=min_cluster_size,
            min_samples=neighbours,
            selection=selection,
            backend=backend,
        )
        result = _predict(fit, points, distinct, fitted, neighbours).take(row_to_distinct)
        labels = _by_size(result.labels)
        _table(proteins, labels, result).write_parquet(temporaries[0])
        return {
            **_describe(labels),
            "selection": fit.selection,
            "rows": len(labels),
            "distinct_rows": len(distinct),
            "fitted_rows": len(fitted),
            "predicted_rows": len(distinct) - len(fitted),
            "components": len(space.variances),
            "explained_variance": float(space.explained.sum()),
            "explained_by_component": space.explained[:_SHOWN_COMPONENTS].tolist(),
            "embeddings": proteins.provenance.describe(),
        }

    options = {
        "min_cluster_size": min_cluster_size,
        "min_samples": min_samples,
        "components": components,
        "fit_rows": fit_rows,
        "selection": selection,
        "backend": backend,
    }
    return produce_files(
        [target, points_path(target)],
        manifest=manifest_beside(target),
        kind="embedding_clusters",
        determinants={
            "embeddings": shards.fingerprint,
            "options": options,
            "seed": seed,
            "algorithm": _ALGORITHM,
        },
        build=build,
    )


class _Result(NamedTuple):
    """Per row: label (-1 noise), membership probability, outlier score."""

    labels: np.ndarray
    probabilities: np.ndarray
    outlier_scores: np.ndarray

    def take(self, rows: np.ndarray) -> "_Result":
        """Return the result of the given rows, in their order."""
        return _Result(self.labels[rows], self.probabilities[rows], self.outlier_scores[rows])


def _write_points(path: Path, shards: EmbeddingShards, space: Components) -> np.ndarray:
    """Write the points as a plain ``.npy`` matrix; return them memory-mapped."""
    shape = (shards.rows, len(space.variances))
    with (
        path.open("wb") as file,
        progress(shards.rows, unit="rows", description="projecting") as shown,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for _, batch in shards.batches(_BATCH):
            file.write(space.project(batch, _WHITENING).astype(np.float32).data)
            shown.update(len(batch))
    return np.load(path, mmap_mode="r")


def _sample(rows: int, count: int, seed: int) -> np.ndarray:
    if rows <= count:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, size=count, replace=False))


def _predict(
    fit: Fit, points: np.ndarray, distinct: np.ndarray, fitted: np.ndarray, min_samples: int
) -> _Result:
    """Return the results of the distinct rows of points, some of which were fitted."""
    result = _Result(
        np.empty(len(distinct), dtype=np.int64), np.empty(len(distinct)), np.empty(len(distinct))
    )
    for whole, part in zip(
        result, (fit.labels, fit.probabilities, fit.tree.score_fitted()), strict=True
    ):
        whole[fitted] = part
    rest = np.setdiff1d(np.arange(len(distinct)), fitted, assume_unique=True)
    if not len(rest):
        return result
    predictor = Predictor(fit.tree, points[distinct[fitted]], min_samples)
    with progress(len(rest), unit="rows", description="predicting clusters") as shown:
        for start in range(0, len(rest), _PREDICTED):
            chunk = rest[start : start + _PREDICTED]
            for whole, part in zip(result, predictor.predict(points[distinct[chunk]]), strict=True):
                whole[chunk] = part
            shown.update(len(chunk))
    return result


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Renumber clusters from 0, largest first, ties by their first row."""
    names, first, sizes = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    new = np.full(labels.max() + 2, -1)
    new[names[np.lexsort((first, -sizes))]] = np.arange(len(names))
    return new[labels]


def _table(shards: EmbeddingShards, labels: np.ndarray, result: _Result) -> pl.DataFrame:
    return (
        shards.index.select("sequence_id", "header", "length")
        .collect()
        .with_columns(
            pl.Series("cluster", labels, dtype=pl.Int32),
            pl.Series("probability", result.probabilities, dtype=pl.Float64),
            pl.Series("outlier_score", result.outlier_scores, dtype=pl.Float64),
        )
        .select(pl.exclude("length"), "length")
    )


def _describe(labels: np.ndarray) -> dict[str, Any]:
    sizes = np.bincount(labels[labels >= 0])
    noise = int((labels < 0).sum())
    described = {
        "clusters": len(sizes),
        "noise": noise,
        "noise_share": noise / len(labels),
        "largest_sizes": sizes[:_LARGEST].tolist(),
    }
    if not len(sizes):
        described["warning"] = "all rows are noise; lower min_cluster_size or min_samples"
    return described


def _require_rows(shards: EmbeddingShards, count: int, what: str, least: int) -> None:
    if count < least:
        raise InputError(
            f"{shards.directory}: holds {count} {what}, fewer than min_cluster_size {least}; "
            "lower it or embed more proteins"
        )


def _require_options(
    min_cluster_size: int,
    min_samples: int | None,
    components: int,
    fit_rows: int,
    selection: str,
) -> None:
    least = {
        "min_cluster_size": (min_cluster_size, 2),
        "min_samples": (min_cluster_size if min_samples is None else min_samples, 1),
        "components": (components, 1),
        # Prediction looks at 2 min_samples neighbours among the fitted rows.
        "fit_rows": (fit_rows, 2 * max(min_cluster_size, min_samples or 0)),
    }
    for option, (value, minimum) in least.items():
        if value < minimum:
            raise InputError(f"{option} is {value}; it must be at least {minimum}")
    if selection not in get_args(Selection):
        raise InputError(f"selection is '{selection}'; it must be auto, eom or leaf")
