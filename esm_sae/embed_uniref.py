"""Embed the proteins of a FASTA file into shards."""

import argparse
import sys
import time
from collections.abc import Sequence

from esm_sae import cli
from esm_sae.embedding import embed_fasta
from esm_sae.embedding.cli_options import (
    add_encoder_options,
    counts_line,
    embedding_options_from,
    encoder_from,
)
from esm_sae.embedding.options import DTYPES
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product, read_manifest
from esm_sae.formats.shards import provenance_of

_COUNTS = ("proteins", "residues", "truncated", "windowed", "skipped", "unknown_letters")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "embed_uniref",
        "Embed the proteins of a FASTA file with ESM-C into shards: plain .npy matrices, each "
        "with a table of its rows (.parquet) and a manifest (.json).",
        "python -m esm_sae.embed_uniref --fasta data/proteins.fasta --model esmc_demo "
        "--output data/embeddings3",
        seed=True,
    )
    parser.add_argument("--fasta", required=True, metavar="PATH", help="FASTA file, may be .gz")
    add_encoder_options(parser)
    parser.add_argument(
        "--residues_per_protein",
        type=int,
        metavar="N",
        help="with --pooling residue: draw N residues of each protein (default: all)",
    )
    parser.add_argument(
        "--sequences_per_shard",
        type=int,
        metavar="N",
        help="default: 16384, or as many as keep a shard of residues within 1 GB",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the matrices (default: float32)"
    )
    return parser


def _run(options: argparse.Namespace) -> str:
    embedding_options = embedding_options_from(
        options,
        residues_per_protein=options.residues_per_protein,
        dtype=options.dtype,
        seed=options.seed,
    )
    encoder = encoder_from(options)
    started = time.monotonic()
    product = embed_fasta(
        options.fasta,
        options.output,
        encoder=encoder,
        options=embedding_options,
        sequences_per_shard=options.sequences_per_shard,
    )
    seconds = time.monotonic() - started
    _require_counts(product)
    summary = product.manifest.summary
    rows = provenance_of(product.manifest.determinants).describe()
    return (
        f"{product.path}: {summary['rows']:,} x {summary['width']} of {summary['proteins']:,} "
        f"proteins in {summary['shards']} shards; {rows}\n"
        f"{counts_line(summary)}; " + ("unchanged" if product.unchanged else f"{seconds:.1f} s")
    )


def _require_counts(product: Product) -> None:
    """Refuse shards whose manifests lack counts: the sum over all shards then has none."""
    for name in product.manifest.determinants["shards"]:
        path = product.path / f"{name}.json"
        shard = read_manifest(path)
        counts = shard.summary if shard is not None else {}
        missing = [count for count in _COUNTS if not isinstance(counts.get(count), int)]
        if missing:
            raise InputError(
                f"{path}: records no number of {missing[0]}; remove it and run this again, which "
                "makes the shard anew"
            )


if __name__ == "__main__":
    sys.exit(main())
