"""The capacity plan: time, storage and memory of the full run, from measured unit costs.

    python benchmarks/capacity.py [--residues-per-second R] [--samples-per-second S16 S32 S64]
        [--uniref50 CLUSTERS] [--mean-length RESIDUES] [--per-run SHARDS]

Prints the tables of docs/scaling.md. What a unit costs was measured by the other scripts of this
folder (docs/benchmarks.md and, for the orchestration, docs/scaling.md) on two CPU cores; another
machine's figures, such as a GPU's, are given as options. Everything else is multiplication: times
grow with the rows, and what was not measured is left out and named.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

WIDTH, LATENT_DIM, KS = 960, 3_840, (16, 32, 64)
FLOAT_BYTES = 4
TRAINED_SHARE = 0.8

# Embedding, 300M parameters in float32, lengths to 2,048 and to 256 (docs/benchmarks.md).
RESIDUES_PER_SECOND, RESIDUES_PER_SECOND_SHORT = 162.0, 175.0
EMBEDDING_MB = 1_946
# Training, rows in memory, k = 16, 32, 64; what reading from disk adds, once for all k.
SAMPLES_PER_SECOND = (14_230.0, 13_904.0, 10_810.0)
SECONDS_PER_ROW_READ = (104 - 838_539 / 13_904) / 1_048_576
TRAINING_MB = 850
# Sampling from gzip, seconds a record of the source; taxa, seconds a protein of the large sample.
SECONDS_PER_RECORD, SAMPLING_MB = 72 / 10_481_664, 727
SECONDS_PER_TAXON_ROW, TAXA_MB = 25.5 / 10_000_000, 1_123
# Density clusters of 1,000,000 x 960, 20,000 of them fitted.
SECONDS_PER_CLUSTERED, CLUSTERS_MB = 128 / 1_000_000, 490
# Activations: the encoder's product alone, and what one activation adds in time and on disk.
ENCODED_PER_SECOND = 14_230 / 0.71
SECONDS_PER_ACTIVATION = (116 - 44) / 67_108_864
BYTES_PER_ACTIVATION, ACTIVATIONS_MB = 1_041e6 / 67_108_864, 889
# Tables, bytes a protein or a row, of the demo's data.
TABLE_BYTES_PER_PROTEIN, TABLE_BYTES_PER_RESIDUE = 64.5, 3.9
# A record of a sample, header, line ends and index; the source, 2.0 GB for these records with gzip.
BYTES_PER_RECORD = 120 + 66
SOURCE_BYTES_PER_RESIDUE = 2.0e9 / 10_481_664 / 293
# Orchestration (docs/scaling.md): a run of its own process, a shard in a run, KB in the log.
SECONDS_PER_RUN, SECONDS_PER_SHARD, LOG_KB_PER_SHARD = 13.5, 0.07, 90.5


@dataclass(frozen=True)
class Plan:
    """What is embedded and trained on.

    Attributes:
        name: as it is printed.
        source: records of the source.
        large: proteins in the large sample.
        proteins: those that are embedded.
        length: mean number of their residues.
        source_length: mean number of residues of the source's records.
        rows_each: rows of a protein: 1 (a mean), or its drawn residues.
        per_shard: proteins in a shard.
        epochs: passes of a training.
        rate: residues embedded per second.
    """

    name: str
    source: int
    large: int
    proteins: int
    length: float
    source_length: float
    rows_each: int
    per_shard: int
    epochs: int
    rate: float

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return self.proteins * self.rows_each

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.proteins // self.per_shard)


def main() -> None:
    """Parse the options and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--residues-per-second", type=float, help="of embedding, at any length")
    parser.add_argument(
        "--samples-per-second", type=float, nargs=3, default=SAMPLES_PER_SECOND, help="by k"
    )
    parser.add_argument("--uniref50", type=int, default=60_000_000, help="number of its clusters")
    parser.add_argument("--mean-length", type=float, default=293, help="residues of a cluster")
    parser.add_argument("--per-run", type=int, default=8, help="shards in a run")
    options = parser.parse_args()
    plans = _plans(options.uniref50, options.mean_length, options.residues_per_second)
    _print("Size", plans, _sizes)
    _print("Hours", plans, lambda plan: _hours(plan, options.samples_per_second, options.per_run))
    _print("Disk, GB", plans, _disk)
    _print("Peak memory of a step, MB", plans, _memory)


def _plans(uniref50: int, length: float, rate: float | None) -> list[Plan]:
    long, short = rate or RESIDUES_PER_SECOND, rate or RESIDUES_PER_SECOND_SHORT
    # The bundled proteins of at most 256 residues have 1,097,319 / 7,442 on average.
    sets = [
        ("1M", 10_000_000, 1_048_576, 147.4, short),
        ("10M", 10_000_000, 10_000_000, length, long),
        ("all", uniref50, uniref50, length, long),
    ]
    return [
        Plan(f"{name}, {what}", uniref50, large, proteins, mean, length, rows, shard, epochs, speed)
        for what, rows, shard, epochs in (("means", 1, 16_384, 10), ("residues", 32, 8_000, 2))
        for name, large, proteins, mean, speed in sets
    ]


def _sizes(plan: Plan) -> dict[str, float]:
    return {
        "proteins": plan.proteins,
        "residues": plan.proteins * plan.length,
        "rows of 960": plan.rows,
        "epochs of a training": plan.epochs,
        "shards": plan.shards,
        "GB a shard": plan.rows / plan.shards * WIDTH * FLOAT_BYTES / 1e9,
    }


def _hours(plan: Plan, samples: Sequence[float], per_run: int) -> dict[str, float]:
    trained = plan.rows * TRAINED_SHARE * plan.epochs
    activations = {
        f"activations, k = {k}": plan.rows / ENCODED_PER_SECOND
        + plan.rows * k * SECONDS_PER_ACTIVATION
        for k in KS
    }
    seconds = {
        "samples": plan.source * SECONDS_PER_RECORD,
        "taxa": plan.large * SECONDS_PER_TAXON_ROW,
        "embedding": plan.proteins * plan.length / plan.rate,
        "reading the rows": plan.rows * SECONDS_PER_ROW_READ,
        **{f"training, k = {k}": trained / rate for k, rate in zip(KS, samples, strict=True)},
        "density clusters": plan.proteins * SECONDS_PER_CLUSTERED,
        **activations,
        "runs and shards": -(-plan.shards // per_run) * SECONDS_PER_RUN
        + plan.shards * SECONDS_PER_SHARD,
    }
    return _with_sum({name: each / 3_600 for name, each in seconds.items()})


def _disk(plan: Plan) -> dict[str, float]:
    row = WIDTH * FLOAT_BYTES
    tables = plan.proteins * TABLE_BYTES_PER_PROTEIN
    if plan.rows_each > 1:
        tables += plan.rows * TABLE_BYTES_PER_RESIDUE
    size = {
        "source, gzip": plan.source * plan.source_length * SOURCE_BYTES_PER_RESIDUE,
        "large sample": plan.large * (plan.source_length + BYTES_PER_RECORD),
        "small sample": plan.proteins * (plan.length + BYTES_PER_RECORD)
        if plan.proteins < plan.large
        else 0.0,
        "matrices": plan.rows * row,
        "means beside residues": plan.proteins * row if plan.rows_each > 1 else 0.0,
        "row tables": tables,
        # Weights, and with Adam's two moments once more for resuming.
        "checkpoints of three k": 3 * 4 * 2 * WIDTH * LATENT_DIM * FLOAT_BYTES,
        **{f"activations, k = {k}": plan.rows * k * BYTES_PER_ACTIVATION for k in KS},
        "Dagster's log": plan.shards * LOG_KB_PER_SHARD * 1e3,
    }
    return _with_sum({name: each / 1e9 for name, each in size.items()})


def _memory(plan: Plan) -> dict[str, float]:
    """What a process itself holds; pages of mapped shards come and go as there is room."""
    times_measured = plan.proteins / 1_000_000
    return {
        "samples": SAMPLING_MB,
        "taxa": TAXA_MB * max(1.0, plan.large / 10_000_000),
        "embedding": EMBEDDING_MB,
        "training": TRAINING_MB,
        "density clusters": CLUSTERS_MB * max(1.0, times_measured),
        "activations": ACTIVATIONS_MB,
        "shards, were all of them to stay mapped": plan.rows * WIDTH * FLOAT_BYTES / 1e6,
    }


def _with_sum(parts: dict[str, float]) -> dict[str, float]:
    return parts | {"sum": sum(parts.values())}


def _print(title: str, plans: Iterable[Plan], figures: Callable[[Plan], dict[str, float]]) -> None:
    columns = {plan.name: figures(plan) for plan in plans}
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    print(f"| {title} | {' | '.join(columns)} |")
    print(f"|{' --- |' * (len(columns) + 1)}")
    for name in names:
        cells = (_shown(column.get(name)) for column in columns.values())
        print(f"| {name} | {' | '.join(cells)} |")
    print()


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
