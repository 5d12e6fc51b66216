"""Embed the sampled sequences of taxa."""

import argparse
import sys
from collections.abc import Sequence

from esm_sae import cli
from esm_sae.embedding import embed_clusters
from esm_sae.embedding.cli_options import (
    add_encoder_options,
    counts_line,
    embedding_options_from,
    encoder_from,
)
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product
from esm_sae.formats.shards import provenance_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "embed_clusters",
        "Embed clusters of sequences, {taxon: [[sequence, header], ...]}, into JSON: "
        '{taxon: [{"sequence", "header", "embedding"}, ...]}, and a table of the same (.parquet) '
        "beside it. With --pooling residue the rows of all residues go into .residues.npy and "
        ".residues.parquet too.",
        "python -m esm_sae.embed_clusters --clusters data/sampled_sequences.json "
        "--model esmc_demo --output data/embedded_clusters.json",
    )
    parser.add_argument(
        "--clusters",
        required=True,
        metavar="PATH",
        help="cluster JSON, as subsample_cluster and clusters_to_json write it",
    )
    add_encoder_options(parser)
    return parser


def _run(options: argparse.Namespace) -> str:
    embedding_options = embedding_options_from(options)
    product = embed_clusters(
        options.clusters, options.output, encoder=encoder_from(options), options=embedding_options
    )
    unchanged = "; unchanged" if product.unchanged else ""
    try:
        return _described(product) + unchanged
    except KeyError as error:
        raise InputError(
            f"{product.manifest_path}: lacks the count {error}; remove it and run this again"
        ) from None


def _described(product: Product) -> str:
    summary = product.manifest.summary
    rows = provenance_of(product.manifest.determinants).describe()
    return (
        f"{product.path}: {summary['proteins']:,} proteins of {summary['taxa']:,} taxa, "
        f"{summary['width']} wide; {rows}\n"
        f"{counts_line(summary)}"
    )


if __name__ == "__main__":
    sys.exit(main())
