"""Write a cluster table as JSON of sequences by cluster."""

import argparse
import sys
from collections.abc import Sequence

from esm_sae import cli
from esm_sae.clusters import clusters_to_json


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "clusters_to_json",
        "Write a cluster table as JSON: {cluster: [[sequence, header], ...]}, noise under '-1'.",
        "python -m esm_sae.clusters_to_json --clusters data/clusters.parquet "
        "--fasta proteins.fasta --output data/clusters.json",
    )
    parser.add_argument("--clusters", required=True, metavar="PATH", help="cluster table (parquet)")
    parser.add_argument(
        "--fasta",
        metavar="PATH",
        help="FASTA with the sequences (default: the file that a table by taxon records)",
    )
    return parser


def _run(options: argparse.Namespace) -> str:
    product = clusters_to_json(options.clusters, options.output, fasta=options.fasta)
    summary = product.manifest.summary
    return (
        f"{product.path}: {summary['sequences']:,} sequences in {summary['clusters']:,} clusters, "
        f"{summary['noise']:,} of them noise"
    )


if __name__ == "__main__":
    sys.exit(main())
