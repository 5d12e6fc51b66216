"""Do an SAE's latents find concepts better than what needs no trained SAE?

    make demo
    python benchmarks/judge_concepts.py --data data

On a data folder of the demo, by the rules of its tables: F1 pooled over the eligible concepts on
test, of the latents of every k and of the baselines, and how far each is from an SAE's latents.
The difference has an interval of its own, over the same draws of similarity clusters: of two
intervals that overlap one cannot tell.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from esm_sae.analysis.concepts.annotations import annotate_concepts
from esm_sae.analysis.concepts.baseline_methods import encoder_methods, fitted_methods
from esm_sae.analysis.concepts.baselines import choose_features
from esm_sae.analysis.concepts.intervals import Hits, hits_of
from esm_sae.analysis.concepts.judged import (
    Held,
    JudgedConcepts,
    Method,
    judge_proteins,
    judge_residues,
)
from esm_sae.analysis.concepts.protein_rows import proteins_in
from esm_sae.analysis.concepts.scores import f1_of
from esm_sae.formats.shards import open_shards
from esm_sae.sae import load_checkpoint, random_dictionaries
from esm_sae.split import cluster_ids_of, read_similarity_clusters, splits_of

_DRAWS = 1_000


class Judged(NamedTuple):
    """A method on the concepts of a level.

    Attributes:
        method: which.
        f1: pooled, on test.
        draws: the same of 1,000 bootstrap draws of similarity clusters.
        of_concept: F1 of each concept, (C,).
        auroc: mean over the pooled concepts.
    """

    method: Method
    f1: float
    draws: np.ndarray
    of_concept: np.ndarray
    auroc: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, prog="python benchmarks/judge_concepts.py"
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="default: data")
    parser.add_argument("--fasta", default="uniref50_1M_sample.fasta", help="within --data")
    parser.add_argument("--L", type=int, default=1024, help="default: 1024")
    parser.add_argument("--k", type=int, nargs="+", default=[16, 32, 64], help="16 32 64")
    parser.add_argument("--annotations", metavar="PATH", help="a UniProt export")
    parser.add_argument("--similarity_clusters", default="bundled")
    parser.add_argument("--min_positives", type=int, default=5, help="default: 5")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "annotations.parquet"
        annotate_concepts(options.data / options.fasta, table, annotations=options.annotations)
        for judged, results in judge(options, table):
            show(judged, results)
    return 0


def judge(options: Any, annotations: Path) -> list[tuple[JudgedConcepts, list[Judged]]]:
    """Judge latents and baselines at each level."""
    folder = options.data
    rows, known = open_shards(folder / "embeddings3"), options.similarity_clusters
    checkpoints = {k: folder / f"L{options.L}_k{k}" for k in options.k}
    proteins, clusters = proteins_in(rows), read_similarity_clusters(known)
    ids = proteins.ids.to_list()
    held = Held(splits_of(ids, clusters), cluster_ids_of(ids, clusters))
    methods = [
        *encoder_methods("sae", rows, {k: load_checkpoint(checkpoints[k]) for k in options.k}),
        *fitted_methods(rows, proteins, held.splits == "train", options.L, seed=0),
        *encoder_methods(
            "random", rows, random_dictionaries(checkpoints, rows, similarity_clusters=known)
        ),
        *encoder_methods(
            "untrained",
            open_shards(folder / "embeddings_untrained"),
            {k: load_checkpoint(folder / f"L{options.L}_k{k}_untrained") for k in options.k},
        ),
    ]
    levels = [judge_proteins(annotations, proteins, held, options.min_positives)]
    if rows.provenance.pooling == "residue":
        levels.append(judge_residues(rows, annotations, proteins, held, options.min_positives))
    fasta = folder / options.fasta
    return [
        (
            level,
            [
                _judged(level, method, best)
                for method, best in choose_features(level, methods, rows, fasta)
            ],
        )
        for level in levels
    ]


def show(judged: JudgedConcepts, results: list[Judged]) -> None:
    """Print how well the methods find the concepts of a level."""
    own = [result for result in results if result.method.name == "sae"]
    print(f"\n{judged.level}: F1 pooled over {judged.pooled.sum()} concepts on test")
    print(f"{'':18}{'candidates':>11}{'F1':>7}  95% interval   AUROC  less than the SAE's F1 by")
    for result in results:
        method, name = result.method, _named(result.method)
        low, high = np.nanquantile(result.draws, [0.025, 0.975])
        rival = next((sae for sae in own if sae.method.k == method.k), own[len(own) // 2])
        gap = "" if method.name == "sae" else _difference(rival, result)
        print(
            f"{name:18}{method.candidates:11,}{result.f1:7.3f}  {low:.3f} to {high:.3f}"
            f"{result.auroc:8.3f}  {gap}"
        )
    shown = own + [result for result in results if result.method.k is None]
    print(f"\n{'test F1 of each concept':44}" + "".join(f"{_named(r.method):>12}" for r in shown))
    for number, concept in enumerate(judged.counts.iter_rows(named=True)):
        label = f"{concept['source']} {concept['concept']}"[:36] + f" ({concept['test_positives']})"
        mark = "" if judged.pooled[number] else " *"
        figures = "".join(f"{result.of_concept[number]:12.2f}" for result in shown)
        print(f"{label + mark:44}{figures}")
    print("in parentheses positives of test; * not pooled")


def _judged(judged: JudgedConcepts, method: Method, best: Any) -> Judged:
    test = judged.splits == "test"
    hits, clusters = hits_of(best, judged.labels, test, judged.clusters)
    counts = [_by_cluster(part, clusters, judged.pooled) for part in hits]
    generator = np.random.default_rng(0)
    draws = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=_DRAWS)
    return Judged(
        method,
        float(f1_of(*(part.sum() for part in counts))[2]),
        f1_of(*(draws @ part for part in counts))[2],
        _of_concepts(hits, len(judged.pooled)),
        float(np.nanmean(best.auroc[judged.pooled])) if judged.pooled.any() else float("nan"),
    )


def _by_cluster(hits: np.ndarray, clusters: int, pooled: np.ndarray) -> np.ndarray:
    return np.bincount(hits[0][pooled[hits[1]]], minlength=clusters)


def _of_concepts(hits: Hits, concepts: int) -> np.ndarray:
    return f1_of(*(np.bincount(part[1], minlength=concepts) for part in hits))[2]


def _difference(own: Judged, other: Judged) -> str:
    low, high = np.nanquantile(own.draws - other.draws, [0.025, 0.975])
    return f"{own.f1 - other.f1:+.3f} ({low:+.3f} to {high:+.3f}, k = {own.method.k})"


def _named(method: Method) -> str:
    return method.name if method.k is None else f"{method.name} k={method.k}"


if __name__ == "__main__":
    sys.exit(main())
