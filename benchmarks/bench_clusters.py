"""Density clusters: fits, prediction, principal components, and a million proteins whole.

    python benchmarks/bench_clusters.py real --folder DIR [--fasta FASTA] [--fit 5000 10000]
    python benchmarks/bench_clusters.py size --folder DIR [--rows 1000000] [--width 960]

``real`` embeds proteins with the demo's encoder, once, and clusters their mean vectors: how long
a fit of so many of them takes by the packages on offer, and how far their labels agree (adjusted
Rand index with those of ``hdbscan``, for both selections; beside it that package's other exact
algorithm, which shows how much ties in the spanning tree alone change); then how long prediction
of the other proteins takes, against ``approximate_predict`` and ``approximate_predict_scores``.

``size`` writes shards of synthetic rows and measures the principal components, against those of
the whole covariance, and ``cluster_embeddings`` with its defaults.

Each thing runs in a process of its own. Seconds are wall time and that of all cores, of fits
and of the whole from the first call on, with what it compiles; memory is the peak of what is
resident, with and without mapped files.
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
from training_processes import last_json, run

_JOB = Path(__file__).parent / "clusters_job.py"
_PACKAGES = ("hdbscan", "hdbscan, prims_kdtree", "fast_hdbscan")


def main() -> None:
    """Parse the options, measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["real", "size"])
    parser.add_argument("--folder", type=Path, required=True, help="where data lie and stay")
    parser.add_argument("--fasta", help="proteins of the part real (default: the bundled ones)")
    parser.add_argument("--fit", nargs="+", type=int, default=[5_000, 10_000], metavar="N")
    parser.add_argument("--min-samples", nargs="+", type=int, default=[2, 5], metavar="N")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the part size")
    parser.add_argument("--width", type=int, default=960)
    parser.add_argument(
        "--backend", nargs="+", default=["hdbscan"], choices=["hdbscan", "fast_hdbscan"]
    )
    parser.add_argument("--skip-components", action="store_true")
    options = parser.parse_args()
    if options.part == "real":
        _measure_real(options)
    else:
        _measure_size(options)


def _measure_real(options: argparse.Namespace) -> None:
    folder = options.folder / "real"
    folder.mkdir(parents=True, exist_ok=True)
    found = _job("embed", folder, fasta=options.fasta)
    print(f"{found['proteins']:,} proteins, {found['distinct']:,} distinct\n")
    counts = [min(count, found["distinct"]) for count in options.fit]
    pairs = list(itertools.product(dict.fromkeys(counts), options.min_samples))
    _print_row(
        "fitted",
        "min_samples",
        "by",
        "s",
        "core s",
        "MB",
        "clusters",
        "noise",
        "ARI eom",
        "ARI leaf",
    )
    for count, neighbours in pairs:
        for package in _PACKAGES:
            figures = _job("fit", folder, contender=package, rows=count, min_samples=neighbours)
            _print_row(
                f"{count:,}",
                neighbours,
                package,
                f"{figures['seconds']:.1f}",
                f"{figures['core_seconds']:.1f}",
                f"{figures['peak'] / 1e6:,.0f}",
                " / ".join(f"{figures[of]['clusters']:,}" for of in ("eom", "leaf")),
                " / ".join(f"{figures[of]['noise']:.1%}" for of in ("eom", "leaf")),
                *(f"{_agreement(folder, package, of):.3f}" for of in ("eom", "leaf")),
            )
    print()
    _print_row(
        "fitted", "min_samples", "by", "predicted", "s", "core s", "rows/s", "other labels", "MB"
    )
    for count, neighbours in pairs:
        if count < found["distinct"]:
            _measure_prediction(folder, count, neighbours)


def _measure_prediction(folder: Path, count: int, neighbours: int) -> None:
    for contender in ("approximate_predict", "esm_sae"):
        figures = _job("predict", folder, contender=contender, rows=count, min_samples=neighbours)
        rate = figures["rows"] / figures["seconds"]
        _print_row(
            f"{count:,}",
            neighbours,
            contender,
            f"{figures['rows']:,}",
            f"{figures['seconds']:.2f}",
            f"{figures['core_seconds']:.2f}",
            f"{rate:,.0f}",
            _differing(folder, contender),
            f"{figures['peak'] / 1e6:,.0f}",
        )


def _measure_size(options: argparse.Namespace) -> None:
    folder = options.folder / f"synthetic_{options.rows}x{options.width}"
    shards = folder / "embeddings"
    _job("write", shards, rows=options.rows, width=options.width)
    print(f"{options.rows:,} x {options.width}\n")
    _print_row("", "s", "core s", "MB", "MB without mapped files", "")
    if not options.skip_components:
        for contender in ("exact covariance", "randomised"):
            figures = _job("components", shards, contender=contender)
            _print_usage(f"components, {contender}", figures, _accuracy(folder, contender))
    for backend in options.backend:
        figures = _job("cluster", shards, contender=backend)
        _print_usage(
            f"cluster_embeddings, {backend}",
            figures,
            f"{figures['clusters']:,} clusters ({figures['selection']}), "
            f"{figures['noise_share']:.0%} noise, {figures['fitted_rows']:,} rows fitted, "
            f"{figures['predicted_rows']:,} predicted",
        )


def _job(job: str, folder: Path, **options: Any) -> dict[str, Any]:
    command = [sys.executable, str(_JOB), job, "--folder", str(folder)]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    usage = run(command)
    return {"peak": usage.peak_bytes, "own": usage.own_bytes or 0, **last_json(usage.output)}


def _agreement(folder: Path, package: str, selection: str) -> float:
    """Return the adjusted Rand index with hdbscan's labels, noise counted as a cluster."""
    ours, theirs = (
        np.load(folder / f"labels_{name}_{selection}.npy") + 1 for name in (package, "hdbscan")
    )
    table = np.zeros((ours.max() + 1, theirs.max() + 1))
    np.add.at(table, (ours, theirs), 1)
    same, of_ours, of_theirs = (
        (counts * (counts - 1) / 2).sum()
        for counts in (table, table.sum(axis=1), table.sum(axis=0))
    )
    expected = of_ours * of_theirs / (len(ours) * (len(ours) - 1) / 2)
    return float((same - expected) / ((of_ours + of_theirs) / 2 - expected))


def _differing(folder: Path, contender: str) -> str:
    ours, theirs = (
        np.load(folder / f"predicted_{name}.npz")["labels"]
        for name in (contender, "approximate_predict")
    )
    return f"{int((ours != theirs).sum()):,}"


def _accuracy(folder: Path, contender: str) -> str:
    ours, exact = (
        np.load(folder / f"components_{name}.npz") for name in (contender, "exact covariance")
    )
    worst = np.abs(ours["variances"] / exact["variances"] - 1).max()
    cosines = np.abs((ours["axes"] * exact["axes"]).sum(axis=0))
    return (
        f"variances within {worst:.1e}, {ours['variances'].sum() / exact['variances'].sum():.6f} "
        f"of their sum; least cosine of axes {cosines.min():.3f}, median {np.median(cosines):.4f}"
    )


def _print_usage(name: str, figures: dict[str, Any], note: str) -> None:
    _print_row(
        name,
        f"{figures['seconds']:.1f}",
        f"{figures['core_seconds']:.1f}",
        f"{figures['peak'] / 1e6:,.0f}",
        f"{figures['own'] / 1e6:,.0f}",
        note,
    )


def _print_row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
