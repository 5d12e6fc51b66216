"""Convert .pt embeddings to plain .npy matrices."""

import argparse
import sys
from collections.abc import Sequence

from esm_sae import cli
from esm_sae.embedding import convert_pt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "pt_to_npy",
        "Convert the .pt files of a folder, tensors (N, D) or dictionaries with one under "
        "'embeddings', to plain .npy matrices of the same names.",
        "python -m esm_sae.pt_to_npy --input_dir embeddings_pt --output_dir embeddings_npy",
        output_alias="--output_dir",
    )
    parser.add_argument("--input_dir", required=True, metavar="PATH", help="folder of .pt files")
    return parser


def _run(options: argparse.Namespace) -> str:
    report = convert_pt(options.input_dir, options.output)
    return f"{options.output}: {report.rows:,} rows in {report.files} matrices" + (
        "; unchanged" if report.product.unchanged else ""
    )


if __name__ == "__main__":
    sys.exit(main())
