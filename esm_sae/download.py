"""Download a large file, such as UniRef50, so that it is whole and verified."""

import argparse
import sys
from collections.abc import Sequence

from esm_sae import cli
from esm_sae.sequences.download import download


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "download",
        "Download a file over HTTP and verify it. A download that was cut off goes on where it "
        "stopped when the command is run again.",
        "python -m esm_sae.download https://ftp.uniprot.org/pub/databases/uniprot/current_release/"
        "uniref/uniref50/uniref50.fasta.gz --output data/uniref50.fasta.gz",
    )
    parser.add_argument("url", metavar="URL", help="address of the file (http or https)")
    parser.add_argument(
        "--checksum",
        metavar="ALGORITHM:HASH",
        help="what the file must have: sha256:..., md5:..., sha1:... or sha512:... "
        "(default: what the metalink says)",
    )
    parser.add_argument(
        "--metalink",
        metavar="PATH_OR_URL",
        help="metalink file that lists the file (default: RELEASE.metalink in the URL's folder, "
        "if there is one)",
    )
    return parser


def _run(options: argparse.Namespace) -> str:
    product = download(
        options.url, options.output, checksum=options.checksum, metalink=options.metalink
    )
    summary = product.manifest.summary
    parts = [f"{product.path}: {summary['bytes']:,} bytes"]
    if summary["release"]:
        parts.append(f"release {summary['release']}")
    if summary["verified"]:
        parts.append(f"verified by {summary['checksum']} ({summary['checksum_from']})")
    else:
        parts.append("not verified: no checksum is known")
    if product.unchanged:
        parts.append("unchanged")
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
