"""Draw a uniform sample of a FASTA file."""

import argparse
import re
import sys
from collections.abc import Sequence

from esm_sae import cli
from esm_sae.sequences import sample_fasta


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "sample_fasta",
        "Draw records of a FASTA file uniformly without replacement, exactly as many as asked "
        "for, and write them in file order with an index (parquet) beside them.",
        "python -m esm_sae.sample_fasta --fasta data/uniref50.fasta.gz "
        "--output data/uniref50_1M_sample.fasta --n 1000000 --max_len 256",
        seed=True,
    )
    parser.add_argument(
        "--fasta", required=True, metavar="PATH", help="FASTA, plain or compressed (gzip, zstd)"
    )
    parser.add_argument(
        "--n", type=int, required=True, metavar="N", help="records to draw, or all if fewer pass"
    )
    cli.add_length_limits(parser)
    parser.add_argument(
        "--letters",
        metavar="LETTERS",
        help="drop sequences with other letters than these, such as ACDEFGHIKLMNPQRSTVWY",
    )
    parser.add_argument(
        "--taxa",
        nargs="+",
        metavar="TAXON",
        help="keep only these taxa: TaxIDs, or names as in the headers (descendants are others)",
    )
    parser.add_argument(
        "--drop_identical",
        action="store_true",
        help="of records with the same sequence keep only the first (reads the file twice)",
    )
    return parser


def _run(options: argparse.Namespace) -> str:
    report = sample_fasta(
        options.fasta,
        options.output,
        options.n,
        min_length=options.min_len,
        max_length=options.max_len,
        letters=options.letters,
        taxa=None if options.taxa is None else _taxa(options.taxa),
        drop_identical=options.drop_identical,
        seed=options.seed,
    )
    dropped = "".join(f", {count:,} {reason}" for reason, count in report.dropped.items() if count)
    return (
        f"{report.product.path}: {report.sampled:,} of {report.passing:,} records drawn; "
        f"{report.read:,} read{dropped}" + ("; unchanged" if report.product.unchanged else "")
    )


def _taxa(words: Sequence[str]) -> list[str]:
    """Take apart lists of TaxIDs; names of taxa may have commas."""
    return [
        taxon
        for word in words
        for taxon in (word.split(",") if re.fullmatch(r"[0-9]+(,[0-9]+)+", word) else [word])
    ]


if __name__ == "__main__":
    sys.exit(main())
