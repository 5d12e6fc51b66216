"""Convert .pt embeddings to plain .npy matrices, or to embedding shards."""

import argparse
import sys
from collections.abc import Sequence

from esm_sae import cli
from esm_sae.embedding import ConversionReport, convert_pt, convert_pt_to_shards
from esm_sae.embedding.options import POOLINGS
from esm_sae.errors import InputError
from esm_sae.formats.shards import provenance_of

_ORIGIN = ("fasta", "encoder", "layer", "pooling")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "pt_to_npy",
        "Convert the .pt files of a folder, tensors (N, D) or dictionaries with one under "
        "'embeddings', to plain .npy matrices of the same names; or, where --fasta, --encoder, "
        "--layer and --pooling say what the rows are, to embedding shards.",
        "python -m esm_sae.pt_to_npy --input_dir embeddings_pt --output_dir embeddings_npy\n"
        "  python -m esm_sae.pt_to_npy --input_dir embeddings_pt --output_dir data/embeddings3 "
        "--fasta proteins.fasta --encoder esmc_300m --layer -1 --pooling mean",
        output_alias="--output_dir",
    )
    parser.add_argument("--input_dir", required=True, metavar="PATH", help="folder of .pt files")
    origin = parser.add_argument_group("what the rows are, all four or none of")
    origin.add_argument(
        "--fasta", metavar="PATH", help="the sequences in the order of the rows, may be .gz"
    )
    origin.add_argument("--encoder", metavar="NAME", help="such as esmc_300m")
    origin.add_argument(
        "--layer",
        type=int,
        metavar="N",
        help="0 the token embeddings, then one per block; -1 the last, after the final norm",
    )
    origin.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="a row is a residue, or a protein: the mean or maximum over its residues, its last "
        "residue or its BOS token",
    )
    return parser


def _run(options: argparse.Namespace) -> str:
    given = {name: getattr(options, name) for name in _ORIGIN}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == len(_ORIGIN):
        return _summary(convert_pt(options.input_dir, options.output), options, "matrices")
    if missing:
        raise InputError(
            f"{', '.join(missing)} missing: shards need all of --fasta, --encoder, --layer and "
            "--pooling, plain matrices none of them"
        )
    report = convert_pt_to_shards(options.input_dir, options.output, **given)
    rows = provenance_of(report.product.manifest.determinants).describe()
    return _summary(report, options, f"shards; {rows}")


def _summary(report: ConversionReport, options: argparse.Namespace, what: str) -> str:
    done = f"{options.output}: {report.rows:,} rows in {report.files} {what}"
    return f"{done}; unchanged" if report.product.unchanged else done


if __name__ == "__main__":
    sys.exit(main())
