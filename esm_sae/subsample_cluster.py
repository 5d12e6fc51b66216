"""Draw samples of equal size from the large clusters."""

import argparse
import sys
from collections.abc import Sequence

from esm_sae import cli
from esm_sae.clusters import subsample_clusters


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "subsample_cluster",
        "Draw members of every large enough cluster and write them as JSON: "
        "{cluster: [[sequence, header], ...]}.",
        "python -m esm_sae.subsample_cluster --clusters data/clusters.json "
        "--output data/sampled_sequences.json --min_size 20 --per_cluster 20",
        seed=True,
    )
    parser.add_argument(
        "--clusters", required=True, metavar="PATH", help="cluster JSON, or table (parquet)"
    )
    parser.add_argument(
        "--fasta",
        metavar="PATH",
        help="with a table: FASTA with the sequences (default: the one that it records)",
    )
    parser.add_argument(
        "--min_size",
        type=int,
        default=2500,
        metavar="N",
        help="members that a cluster must have in the length range (default: 2500)",
    )
    parser.add_argument(
        "--per_cluster",
        type=int,
        default=100,
        metavar="N",
        help="members drawn of each (default: 100)",
    )
    cli.add_length_limits(parser)
    return parser


def _run(options: argparse.Namespace) -> str:
    product = subsample_clusters(
        options.clusters,
        options.output,
        fasta=options.fasta,
        min_size=options.min_size,
        per_cluster=options.per_cluster,
        min_length=options.min_len,
        max_length=options.max_len,
        seed=options.seed,
    )
    summary = product.manifest.summary
    return (
        f"{product.path}: {summary['sequences']:,} sequences of {summary['clusters']:,} clusters; "
        f"{summary['dropped_clusters']:,} clusters too small"
    )


if __name__ == "__main__":
    sys.exit(main())
