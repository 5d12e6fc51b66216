"""Command: a folder of an SAE that is ready for a model hub, with its model card."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from esm_sae import cli
from esm_sae.formats.manifest import Product
from esm_sae.sharing import manifests_at, share_sae


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _share, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "share",
        "Write an SAE as a folder that is ready for a model hub: its weights as safetensors, what "
        "is known of them as JSON, and a model card that tells where they come from.",
        "python -m esm_sae.share --checkpoint data/L1024_k32 --metrics data/L1024_k32/metrics "
        "--made_from data/embeddings3 data/uniref50_1M_sample.fasta "
        "--output data/release/L1024_k32",
    )
    cli.add_checkpoint_options(parser)
    parser.add_argument(
        "--metrics", type=Path, metavar="PATH", help="metrics of this SAE, for the card"
    )
    parser.add_argument(
        "--fidelity",
        type=Path,
        metavar="PATH",
        help="what the encoder loses by this SAE (model_fidelity), for the card",
    )
    parser.add_argument(
        "--analysis",
        type=Path,
        metavar="PATH",
        help="folder of the analysis of this SAE: the card counts the latents it names",
    )
    parser.add_argument(
        "--made_from",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="what it was trained on, for the card: the folder of embeddings, the FASTA files of "
        "the samples, the manifest of the source",
    )
    parser.add_argument(
        "--license",
        metavar="NAME",
        help="licence of what is shared, as the hub spells it, such as cc-by-4.0 (default: none "
        "is stated)",
    )
    parser.add_argument(
        "--repository",
        metavar="ORG/NAME",
        help="where it will be on the hub, for the code in the card",
    )
    return parser


def _share(options: argparse.Namespace) -> str:
    product = share_sae(
        options.checkpoint,
        options.output,
        metrics=options.metrics,
        fidelity=options.fidelity,
        analysis=options.analysis,
        made_from=[each for path in options.made_from for each in manifests_at(path)],
        license=options.license,
        repository=options.repository,
        k=options.topk,
        normalize=options.normalize,
    )
    return _describe(product)


def _describe(product: Product) -> str:
    summary = product.manifest.summary
    size = sum(int(entry["bytes"]) for entry in product.manifest.files.values())
    return (
        f"{summary['latent_dim']:,} latents, k = {summary['k']:,}, on {summary['encoder']}; "
        f"licence: {summary['license']}\n"
        f"wrote {product.path}, {size / 1e6:,.1f} MB" + (" (unchanged)" * product.unchanged) + "\n"
        f"read {product.path / 'README.md'} before you upload it"
    )


if __name__ == "__main__":
    sys.exit(main())
