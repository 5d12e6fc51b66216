"""What bench_clusters.py measures, each in a process of its own: prints its figures as JSON."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_shards import write_shards

from esm_sae.clusters.components import Components, fit_components
from esm_sae.clusters.copies import distinct_points
from esm_sae.clusters.density import cluster_embeddings
from esm_sae.clusters.hdbscan_fits import fit_hdbscan
from esm_sae.clusters.points import read_points
from esm_sae.clusters.prediction import Predictor
from esm_sae.formats.shards import EmbeddingShards, open_shards

_OTHER_TREE = "hdbscan, prims_kdtree"
_LEAST = 5
_BATCH = 4096


def main() -> None:
    """Do one job and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=_JOBS)
    parser.add_argument("--contender", default="")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--fasta")
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--width", type=int, default=0)
    parser.add_argument("--min-samples", type=int, default=_LEAST)
    options = parser.parse_args()
    print(json.dumps(_JOBS[options.job](options)))


def _embed(options: argparse.Namespace) -> dict[str, Any]:
    """Embed a FASTA file, or find it embedded; keep the distinct points of all its proteins."""
    from esm_sae.data import bundled_fasta
    from esm_sae.embedding import EmbeddingOptions, embed_fasta, load_encoder

    shards = options.folder / "embeddings"
    embed_fasta(
        options.fasta or bundled_fasta(),
        shards,
        encoder=load_encoder("esmc_demo"),
        options=EmbeddingOptions(),
    )
    table = options.folder / "clusters.parquet"
    cluster_embeddings(open_shards(shards), table, fit_rows=1_000)
    points = read_points(table)
    first, _ = distinct_points(points)
    np.save(options.folder / "points.npy", points[first].astype(np.float64))
    return {"proteins": len(points), "distinct": len(first)}


def _fit(options: argparse.Namespace) -> dict[str, Any]:
    """Fit some of the points; the time is that of the first fit, start-up included."""
    points, _ = _fitted_and_others(options)
    seconds, described = [], {}
    for selection in ("eom", "leaf"):
        taken, labels = _timed(lambda chosen=selection: _labels(points, chosen, options))
        seconds.append(taken)
        np.save(options.folder / f"labels_{options.contender}_{selection}.npy", labels)
        described[selection] = {
            "clusters": int(labels.max()) + 1,
            "noise": float((labels < 0).mean()),
        }
    return {"rows": len(points), **seconds[0], **described}


def _labels(points: np.ndarray, selection: Any, options: argparse.Namespace) -> np.ndarray:
    if options.contender != _OTHER_TREE:
        fit = fit_hdbscan(
            points,
            min_cluster_size=_LEAST,
            min_samples=options.min_samples,
            selection=selection,
            backend=options.contender,
        )
        return fit.labels
    import hdbscan

    return hdbscan.HDBSCAN(
        min_cluster_size=_LEAST,
        min_samples=options.min_samples,
        cluster_selection_method=selection,
        algorithm="prims_kdtree",
    ).fit_predict(points)


def _predict(options: argparse.Namespace) -> dict[str, Any]:
    """Predict the points that were not fitted; the time is that of prediction alone."""
    points, others = _fitted_and_others(options)
    if options.contender == "approximate_predict":
        predict = _package_prediction(points, options.min_samples)
    else:
        least = {"min_cluster_size": _LEAST, "min_samples": options.min_samples}
        tree = fit_hdbscan(points, selection="leaf", **least).tree
        predict = Predictor(tree, points, options.min_samples).predict
    predict(others[:10])
    seconds, (labels, probabilities, scores) = _timed(lambda: predict(others))
    np.savez(
        options.folder / f"predicted_{options.contender}.npz",
        labels=labels,
        probabilities=probabilities,
        scores=np.clip(scores, 0, 1),
    )
    return {"rows": len(others), "fitted": len(points), **seconds}


def _package_prediction(points: np.ndarray, min_samples: int) -> Callable[[np.ndarray], Any]:
    import hdbscan
    from hdbscan.prediction import approximate_predict, approximate_predict_scores

    model = hdbscan.HDBSCAN(
        min_cluster_size=_LEAST,
        min_samples=min_samples,
        cluster_selection_method="leaf",
        core_dist_n_jobs=1,
        prediction_data=True,
    ).fit(points)

    def predict(others: np.ndarray) -> tuple[np.ndarray, ...]:
        predicted: Any = approximate_predict(model, others)
        labels, probabilities = predicted
        return labels, probabilities, approximate_predict_scores(model, others)

    return predict


def _write(options: argparse.Namespace) -> dict[str, Any]:
    """Write synthetic shards, or find them."""
    write_shards(options.folder, options.rows, options.width)
    return {}


def _components(options: argparse.Namespace) -> dict[str, Any]:
    """Find 50 principal components of all rows."""
    shards = open_shards(options.folder)
    fit = fit_components if options.contender == "randomised" else _exact_components
    seconds, space = _timed(lambda: fit(shards, 50))
    np.savez(
        options.folder.parent / f"components_{options.contender}.npz",
        axes=space.axes,
        variances=space.variances,
    )
    return {"rows": shards.rows, "width": shards.width, **seconds}


def _exact_components(shards: EmbeddingShards, count: int) -> Components:
    """Find them from the whole covariance, summed in float64 in one pass."""
    shift = np.zeros(shards.width)
    sums = np.zeros(shards.width)
    products = np.zeros((shards.width, shards.width))
    for start, batch in shards.batches(_BATCH):
        rows = batch.astype(np.float64)
        if start == 0:
            shift = rows.mean(axis=0)
        rows -= shift
        sums += rows.sum(axis=0)
        products += rows.T @ rows
    offset = sums / shards.rows
    variances, axes = np.linalg.eigh(products / shards.rows - np.outer(offset, offset))
    variances, axes = variances[::-1], axes[:, ::-1]
    shares = variances[:count] / variances.sum()
    return Components(shift + offset, axes[:, :count], variances[:count], shares)


def _cluster(options: argparse.Namespace) -> dict[str, Any]:
    """Cluster all rows of a folder of shards by the defaults."""
    output = options.folder.parent / "clusters.parquet"
    seconds, product = _timed(
        lambda: cluster_embeddings(open_shards(options.folder), output, backend=options.contender)
    )
    return {**seconds, **product.manifest.summary}


def _fitted_and_others(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    points = np.load(options.folder / "points.npy")
    order = np.random.default_rng(0).permutation(len(points))
    return points[np.sort(order[: options.rows])], points[np.sort(order[options.rows :])]


def _timed(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Return the wall time and that of all cores, and what the work returns."""
    clocks = {"seconds": time.perf_counter, "core_seconds": time.process_time}
    started = {name: clock() for name, clock in clocks.items()}
    result = work()
    return {name: clock() - started[name] for name, clock in clocks.items()}, result


_JOBS = {
    "embed": _embed,
    "fit": _fit,
    "predict": _predict,
    "write": _write,
    "components": _components,
    "cluster": _cluster,
}

if __name__ == "__main__":
    main()
