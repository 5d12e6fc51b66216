"""Tests of taxa at size: time and memory as taxa grow, with and without permutations.

    python benchmarks/bench_enrichment.py [--taxa 50 100 200 400] [--proteins 100]
        [--latents 3840] [--draws 64 1200] [--permutations 0 200]

Proteins are random sequences, each a similarity cluster of its own. On each fire the latents of
so many draws, in which the j-th latent is as likely as 1 / j: 64 draws are like the row of a
mean-pooled autoencoder, 1,200 rather like the maxima over a protein's residues.

What is measured is ``taxon_tests``: the draw, the strata, the stratified tests, those that take
proteins for independent, and the permutations. Each run is a process of its own; seconds are wall
time and that of all cores, with compiling or loading what is compiled; memory is the peak of what
is resident.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from training_processes import last_json, run

_LETTERS = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8)


def main() -> None:
    """Parse the options, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--taxa", nargs="+", type=int, default=[50, 100, 200, 400])
    parser.add_argument("--proteins", type=int, default=100, help="of each taxon")
    parser.add_argument("--latents", type=int, default=3_840)
    parser.add_argument(
        "--draws", nargs="+", type=int, default=[64, 1_200], help="draws for a protein"
    )
    parser.add_argument("--permutations", nargs="+", type=int, default=[0, 200])
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(_job(options)))
        return
    columns = ["taxa", "latents of a protein", "permutations", "tested pairs", "strata"]
    columns += ["with a discovery", "s", "core s", "MB"]
    print("| " + " | ".join(columns) + " |", flush=True)
    for draws, taxa, permutations in itertools.product(
        options.draws, options.taxa, options.permutations
    ):
        _print_row(options, taxa, draws, permutations)


def _print_row(options: argparse.Namespace, taxa: int, draws: int, permutations: int) -> None:
    chosen = {"taxa": taxa, "draws": draws, "permutations": permutations}
    fixed = {"proteins": options.proteins, "latents": options.latents}
    words = [f"--{name}={value}" for name, value in (chosen | fixed).items()]
    usage = run([sys.executable, str(Path(__file__)), "--job", *words])
    found = last_json(usage.output)
    values = [
        f"{taxa:,}",
        f"{found['firing']:.0f}",
        permutations,
        f"{found['tested_pairs']:,}",
        found["strata"],
        found["permutations_with_discovery"],
        f"{found['seconds']:.1f}",
        f"{found['core_seconds']:.1f}",
        f"{usage.peak_bytes / 1e6:,.0f}",
    ]
    print("| " + " | ".join(map(str, values)) + " |", flush=True)


def _job(options: argparse.Namespace) -> dict[str, Any]:
    from esm_sae.analysis.taxonomy.enrichment import Firing
    from esm_sae.analysis.taxonomy.taxon_tests import ProteinsOfTaxa, taxon_tests

    taxa, latents = options.taxa[0], options.latents
    count = taxa * options.proteins
    generator = np.random.default_rng(0)
    weights = 1 / np.arange(1, latents + 1)
    rarity = np.cumsum(weights / weights.sum())
    rows = [
        np.unique(np.searchsorted(rarity, generator.random(options.draws[0]))) for _ in range(count)
    ]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    ids = [f"P{number:07d}" for number in range(count)]
    proteins = ProteinsOfTaxa(
        [f"taxon {number // options.proteins:05d}" for number in range(count)],
        ids,
        np.array(ids, dtype=object),
        [
            bytes(generator.choice(_LETTERS, length)).decode()
            for length in generator.integers(40, 256, count)
        ],
    )
    sparse = Firing(starts, np.concatenate(rows).astype(np.int32), latents)
    before, cores = time.perf_counter(), time.process_time()
    _, summary = taxon_tests(sparse, proteins, permutations=options.permutations[0], seed=0)
    return summary | {
        "firing": starts[-1] / count,
        "seconds": time.perf_counter() - before,
        "core_seconds": time.process_time() - cores,
    }


if __name__ == "__main__":
    main()
