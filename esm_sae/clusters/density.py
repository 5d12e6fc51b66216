"""Density clusters of the embedding space: PCA, then HDBSCAN."""

import tempfile
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from esm_sae import storage
from esm_sae.clusters.components import Components, fit_components
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product, manifest_beside, produce_files
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.progress import progress

Selection = Literal["auto", "eom", "leaf"]

_ALGORITHM = "density-1"
_BATCH = 4096
_LARGEST = 10
_SHOWN_COMPONENTS = 10
# Full whitening lets many small directions drown a few large groups, none at all lets the few
# dominant directions of mean-pooled vectors hide everything else.
_WHITENING = 0.5
# A cluster with more than this share of the rows says that the rows have one bulk.
_BULK = 0.8
# Rows closer than this share of the spread, in every coordinate, count as equal.
_SAME = 1e-3


def cluster_embeddings(
    shards: EmbeddingShards,
    output_parquet: storage.PathLike,
    *,
    min_cluster_size: int = 5,
    min_samples: int | None = None,
    components: int = 50,
    fit_rows: int = 20_000,
    selection: Selection = "auto",
    seed: int = 0,
) -> Product:
    """Cluster proteins by density: HDBSCAN on half-whitened principal components.

    The mean vectors are projected on their principal components, each coordinate divided by the
    fourth root of its variance. HDBSCAN (Campello et al. 2013; package ``hdbscan``) is fitted on
    a seeded sample of at most ``fit_rows`` distinct rows; all other rows are assigned by its
    ``approximate_predict``. Equal rows, copies of one sequence, are fitted once, or they would
    be infinitely dense and every other member of their cluster would get probability 0; they
    all get the same result.

    Writes one row per protein: sequence_id, header, cluster (0 is the largest, -1 noise),
    probability (0..1, strength of membership), outlier_score (0..1, GLOSH; of predicted rows
    too, against the fitted ones).

    Args:
        shards: embeddings; with residue rows their mean matrices are read.
        output_parquet: the table to write.
        min_cluster_size: fewest distinct rows of a cluster.
        min_samples: neighbours that make a row's density; None for ``min_cluster_size``.
        components: principal components kept, at most the width.
        fit_rows: most rows that HDBSCAN is fitted on.
        selection: ``eom`` (excess of mass) finds the most persistent clusters, ``leaf`` the
            finest; ``auto`` takes ``eom`` unless it puts over 80% of the rows into one cluster.
        seed: of the sample.

    Raises:
        InputError: an option is out of range, there are fewer distinct rows than
            ``min_cluster_size``, a row holds NaN, or all rows are equal.
    """
    target = Path(output_parquet)
    proteins = shards.means()
    _require_options(min_cluster_size, min_samples, components, fit_rows, selection)

    def build(temporaries: list[Path]) -> dict[str, Any]:
        _require_rows(proteins, proteins.rows, "rows", min_cluster_size)
        space = fit_components(proteins, components)
        points = _project(proteins, space)
        distinct, row_to_distinct = _distinct(points)
        _require_rows(proteins, len(distinct), "distinct rows", min_cluster_size)
        fitted = _sample(len(distinct), fit_rows, seed)
        result = _cluster(
            distinct, fitted, min_cluster_size, min_samples or min_cluster_size, selection
        ).take(row_to_distinct)
        labels = _by_size(result.labels)
        _table(proteins, labels, result).write_parquet(temporaries[0])
        return {
            **_describe(labels),
            "selection": result.selection,
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
    }
    return produce_files(
        [target],
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
    """Per row: label (-1 noise), membership probability, outlier score; the selection used."""

    labels: np.ndarray
    probabilities: np.ndarray
    outlier_scores: np.ndarray
    selection: str

    def take(self, rows: np.ndarray) -> "_Result":
        """Return the result of the given rows, in their order."""
        return _Result(
            self.labels[rows], self.probabilities[rows], self.outlier_scores[rows], self.selection
        )


def _project(shards: EmbeddingShards, space: Components) -> np.ndarray:
    points = np.empty((shards.rows, len(space.variances)))
    for start, batch in shards.batches(_BATCH):
        points[start : start + len(batch)] = space.project(batch, _WHITENING)
    return points


def _distinct(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct points in order of appearance, and the distinct number of each row.

    Copies of one sequence that were embedded in different batches differ by rounding.
    """
    cells = np.round(points / (_SAME * np.sqrt(np.square(points).mean())))
    _, first, inverse = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return points[first[order]], rank[inverse.reshape(-1)]


def _sample(rows: int, count: int, seed: int) -> np.ndarray:
    if rows <= count:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, size=count, replace=False))


def _cluster(
    points: np.ndarray,
    fitted: np.ndarray,
    min_cluster_size: int,
    min_samples: int,
    selection: Selection,
) -> _Result:
    model, used = _fit(points[fitted], min_cluster_size, min_samples, selection)
    labels = np.full(len(points), -1, dtype=np.int64)
    probabilities = np.zeros(len(points))
    scores = np.ones(len(points))
    labels[fitted] = model.labels_
    probabilities[fitted] = model.probabilities_
    scores[fitted] = model.outlier_scores_
    rest = np.setdiff1d(np.arange(len(points)), fitted, assume_unique=True)
    # Without a cluster there is nothing to predict: all of the rest is noise.
    if len(rest) and model.labels_.max() >= 0:
        _predict(model, points, rest, labels, probabilities, scores)
    return _Result(labels, probabilities, np.clip(scores, 0.0, 1.0), used)


def _fit(
    points: np.ndarray, min_cluster_size: int, min_samples: int, selection: Selection
) -> tuple[Any, str]:
    """Return the fitted HDBSCAN and the selection used."""
    import hdbscan
    import joblib

    # The tree is the costly part and the same for both selections: it is kept between the fits.
    with tempfile.TemporaryDirectory(prefix="esm_sae_hdbscan_") as cache:

        def fit(method: str) -> Any:
            model = hdbscan.HDBSCAN(
                min_cluster_size=min_cluster_size,
                min_samples=min_samples,
                cluster_selection_method=method,
                memory=joblib.Memory(cache, verbose=0),
                core_dist_n_jobs=1,
            )
            return model.fit(points)

        if selection != "auto":
            return fit(selection), selection
        model = fit("eom")
        labels = model.labels_[model.labels_ >= 0]
        if len(labels) and np.bincount(labels).max() > _BULK * len(points):
            return fit("leaf"), "leaf"
        return model, "eom"


def _predict(
    model: Any,
    points: np.ndarray,
    rest: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    scores: np.ndarray,
) -> None:
    from hdbscan.prediction import approximate_predict, approximate_predict_scores

    model.generate_prediction_data()
    with progress(len(rest), unit="rows", description="predicting clusters") as shown:
        for start in range(0, len(rest), _BATCH):
            chunk = rest[start : start + _BATCH]
            predicted: Any = approximate_predict(model, points[chunk])
            labels[chunk], probabilities[chunk] = predicted
            scores[chunk] = approximate_predict_scores(model, points[chunk])
            shown.update(len(chunk))


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Renumber clusters from 0, largest first, ties by their first row."""
    names, first, sizes = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    new = np.full(labels.max() + 2, -1)
    new[names[np.lexsort((first, -sizes))]] = np.arange(len(names))
    return new[labels]


def _table(shards: EmbeddingShards, labels: np.ndarray, result: _Result) -> pl.DataFrame:
    return (
        shards.index.select("sequence_id", "header")
        .collect()
        .with_columns(
            pl.Series("cluster", labels, dtype=pl.Int32),
            pl.Series("probability", result.probabilities, dtype=pl.Float64),
            pl.Series("outlier_score", result.outlier_scores, dtype=pl.Float64),
        )
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
        # approximate_predict looks at 2 min_samples neighbours among the fitted rows.
        "fit_rows": (fit_rows, 2 * max(min_cluster_size, min_samples or 0)),
    }
    for option, (value, minimum) in least.items():
        if value < minimum:
            raise InputError(f"{option} is {value}; it must be at least {minimum}")
    if selection not in get_args(Selection):
        raise InputError(f"selection is '{selection}'; it must be auto, eom or leaf")
