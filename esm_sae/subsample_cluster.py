"""Draw samples of equal size from the large clusters."""

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

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
        "--output data/sampled_sequences.json --min_size 20 --per_cluster 20 --max_len 256",
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
    parser.add_argument(
        "--match_lengths",
        action="store_true",
        help="draw the same lengths of every cluster, and leave out those that lack some",
    )
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
        match_lengths=options.match_lengths,
        seed=options.seed,
    )
    summary = product.manifest.summary
    if summary.get("clusters_without_common_lengths", 0) > summary["clusters"]:
        warnings.warn(
            f"{product.path}: most of the large enough clusters lack some lengths; lower "
            "--per_cluster or narrow the length range",
            stacklevel=2,
        )
    lacking = summary.get("clusters_without_common_lengths")
    lengths = summary["lengths"]
    return (
        f"{product.path}: {summary['sequences']:,} sequences of {summary['clusters']:,} clusters; "
        f"{summary['dropped_clusters']:,} clusters too small"
        + (f", {lacking:,} lack some lengths" if lacking is not None else "")
        + f"\nmean lengths of the clusters from {lengths['shortest_mean']:,.0f} to "
        f"{lengths['longest_mean']:,.0f} residues; largest Kolmogorov-Smirnov distance to all "
        f"{lengths['largest_ks']:.2f}" + _without_match(summary)
    )


def _without_match(summary: Mapping[str, Any]) -> str:
    if "lengths_without_match" not in summary:
        return ""
    return f", {summary['lengths_without_match']['largest_ks']:.2f} without the match"


if __name__ == "__main__":
    sys.exit(main())
