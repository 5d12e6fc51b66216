"""Command: write an SAE in the form of Biohub's SAEs of ESMC."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from esm_sae import cli
from esm_sae.formats.biohub import write_biohub
from esm_sae.formats.sae_files import read_sae


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _export, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "export_biohub",
        "Write an SAE as Biohub's SAEs of ESMC are: config.json and layer_N.safetensors, which "
        "their code reads to the same activations. One of another form than theirs is refused.",
        "python -m esm_sae.export_biohub --checkpoint data/L1024_k32 "
        "--output data/esmc_demo-sae-layer3-k32-codebook1024",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder of a training, or another file or folder of an SAE that is read",
    )
    return parser


def _export(options: argparse.Namespace) -> str:
    product = write_biohub(read_sae(options.checkpoint), options.output)
    facts = product.manifest.summary
    return (
        f"{product.path}: {facts['encoder']}, layer {facts['layer']}, k = {facts['k']}, "
        f"{facts['latent_dim']:,} latents" + (" (unchanged)" if product.unchanged else "") + "\n"
        f"a name like theirs: {facts['suggested_name']}"
    )


if __name__ == "__main__":
    sys.exit(main())
