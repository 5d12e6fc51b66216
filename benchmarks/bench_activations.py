"""Activations at size: time, memory and disk as rows grow, and the two queries on the tables.

    python benchmarks/bench_activations.py --folder DIR [--rows 131072 262144 524288 1048576]
        [--k 64] [--latents 3840] [--width 64] [--residues 24]

Rows are synthetic, their number a multiple of 16; the autoencoder has random weights, so that all
latents fire. Rows are narrow by default: what it costs to encode wide ones is the subject of
bench_training.py, here encoding is counted apart. With ``--residues N`` every N rows are the
residues of one protein.

Each run is a process of its own. Seconds are wall time and that of all cores; memory is the peak
of what is resident, with and without mapped files. Queries are medians of 20, each of another
latent or protein, in milliseconds of all cores; a full scan reads the same table without the
ranges of its row groups.
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from synthetic_shards import write_shards
from training_processes import last_json, run

from esm_sae.formats.shards import EmbeddingShards, Provenance, open_shards

_QUERIES = 20


def main() -> None:
    """Parse the options, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where data lie and stay")
    parser.add_argument("--rows", nargs="+", type=int, default=[1 << 17, 1 << 18, 1 << 19, 1 << 20])
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--latents", type=int, default=3_840)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--residues", type=int, help="rows of a protein (default: rows are means)")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(_job(options)))
        return
    columns = ["rows", "activations", "s", "core s", "of which encoding", "MB", "MB unmapped"]
    columns += ["disk MB", "top proteins ms", "scan ms", "latents of ms", "scan ms"]
    print("| " + " | ".join(columns) + " |", flush=True)
    for rows in options.rows:
        _print_row(rows, options)


def _print_row(rows: int, options: argparse.Namespace) -> None:
    shards = options.folder / f"synthetic_{rows}x{options.width}"
    write_shards(shards, rows, options.width)
    command = [sys.executable, __file__, "--job", "--folder", str(options.folder)]
    for name in ("k", "latents", "width", "residues"):
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name))]
    usage = run([*command, "--rows", str(rows)])
    found = last_json(usage.output)
    cells = [
        f"{rows:,}",
        f"{found['activations']:,}",
        f"{found['seconds']:.0f}",
        f"{found['core_seconds']:.0f}",
        f"{found['encoding']:.0f}",
        f"{usage.peak_bytes / 1e6:,.0f}",
        f"{(usage.own_bytes or 0) / 1e6:,.0f}",
        f"{found['disk'] / 1e6:,.0f}",
        *(f"{1000 * seconds:.0f}" for seconds in found["queries"]),
    ]
    print("| " + " | ".join(cells) + " |", flush=True)


def _job(options: argparse.Namespace) -> dict[str, Any]:
    from esm_sae.analysis import compute_activations

    [rows] = options.rows
    shards = open_shards(options.folder / f"synthetic_{rows}x{options.width}")
    taken = shards if options.residues is None else ResidueRows(shards, options.residues)
    sae = TimedSAE(options.width, options.latents, options.k)
    # What is compiled is not counted.
    sae.encode_sparse(shards.rows_at(np.arange(4096)))
    sae.seconds = 0.0
    output = options.folder / "activations"
    shutil.rmtree(output, ignore_errors=True)
    started, started_cores = time.perf_counter(), time.process_time()
    product = compute_activations(sae, taken, output)
    seconds, cores = time.perf_counter() - started, time.process_time() - started_cores
    return {
        "seconds": seconds,
        "core_seconds": cores,
        "encoding": sae.seconds,
        "activations": product.manifest.summary["activations"],
        "disk": sum(entry["bytes"] for entry in product.manifest.files.values()),
        "queries": _time_queries(output, options.latents),
    }


def _time_queries(folder: Path, latents: int) -> list[float]:
    """Return core seconds of both queries, behind each those of a full scan for the same rows."""
    from esm_sae.analysis import latents_of, top_proteins
    from esm_sae.analysis.queries import activation_parts

    sequences = pl.read_parquet(folder / "sequences.parquet", columns=["protein", "sequence_id"])
    random = np.random.default_rng(0)
    chosen = random.choice(latents, _QUERIES).tolist()
    places = random.choice(len(sequences), _QUERIES).tolist()
    pairs = pl.scan_parquet(folder / "proteins.parquet", use_statistics=False)
    entries = pl.scan_parquet(activation_parts(folder), use_statistics=False)
    return [
        _median(lambda place: top_proteins(folder, chosen[place]).collect(), _QUERIES),
        _median(lambda place: pairs.filter(pl.col("latent") == chosen[place]).collect(), 3),
        _median(
            lambda place: latents_of(folder, sequences["sequence_id"][places[place]]).collect(),
            _QUERIES,
        ),
        _median(lambda place: entries.filter(pl.col("protein") == places[place]).collect(), 3),
    ]


def _median(query: Callable[[int], pl.DataFrame], times: int) -> float:
    seconds = []
    for place in range(times):
        started = time.process_time()
        query(place)
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


class TimedSAE:
    """An SAE of random weights that knows how long it encoded."""

    def __init__(self, width: int, latents: int, k: int) -> None:
        from esm_sae.formats.checkpoint import Checkpoint, SAEConfig
        from esm_sae.sae.inference import SAE

        kernel = np.random.default_rng(0).standard_normal((width, latents)).astype(np.float32)
        self.config = SAEConfig(width, latents, k)
        self.fingerprint = "synthetic"
        self.seconds = 0.0
        self._sae = SAE(
            Checkpoint(
                path=Path("synthetic"),
                config=self.config,
                encoder=kernel,
                decoder=np.ascontiguousarray(kernel.T),
                latent_bias=np.zeros(latents, np.float32),
                pre_bias=np.full(width, 0.5, np.float32),
                unknown=(),
            )
        )

    def encode_sparse(self, x: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
        """Encode rows."""
        started = time.perf_counter()
        found = self._sae.encode_sparse(x)
        self.seconds += time.perf_counter() - started
        return found

    def reconstruct(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the rows: how well they are reconstructed is not measured here."""
        return rows


@dataclass(frozen=True)
class ResidueRows:
    """Shards of whose rows every ``count`` pass for the residues of one protein."""

    shards: EmbeddingShards
    count: int

    @property
    def rows(self) -> int:
        """N."""
        return self.shards.rows

    @property
    def width(self) -> int:
        """D."""
        return self.shards.width

    @property
    def provenance(self) -> Provenance:
        """Of residues."""
        return Provenance(encoder="synthetic", layer=0, pooling="residue")

    @property
    def fingerprint(self) -> str:
        """Of the shards."""
        return self.shards.fingerprint

    @property
    def index(self) -> pl.LazyFrame:
        """One row per residue."""
        row = pl.int_range(pl.len())
        return self.shards.index.with_columns(
            pl.concat_str(pl.lit("UniRef50_A"), row // self.count).alias("sequence_id"),
            position=(row % self.count + 1).cast(pl.Int32),
        )

    def batches(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the rows."""
        return self.shards.batches(size)

    def rows_at(self, indices: np.ndarray, /) -> np.ndarray:
        """Return the rows of these numbers."""
        return self.shards.rows_at(indices)


if __name__ == "__main__":
    main()
