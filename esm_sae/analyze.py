"""Command: tables, heatmap, mapping and report of a checkpoint on embedded clusters."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from esm_sae import cli
from esm_sae.analysis import (
    SparseEncoder,
    compute_activations,
    feature_taxonomy,
    open_cluster_rows,
    summarise_latents,
)
from esm_sae.embedding.options import POOLINGS
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig
from esm_sae.formats.manifest import Product
from esm_sae.report import write_report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _analyze, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "analyze",
        "Say what each latent of an SAE fires on, from embedded clusters and a checkpoint.",
        "python -m esm_sae.analyze --clusters embedded_clusters.json --checkpoint data/L3840_k32",
        output="data/analysis/L{L}_k{k}",
    )
    parser.add_argument(
        "--clusters",
        type=Path,
        required=True,
        metavar="PATH",
        help="embedded_clusters.json or .parquet, with the .residues files beside it for a "
        "residue SAE",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="PATH",
        help="checkpoint_epoch_N.npy, or the folder of a training",
    )
    parser.add_argument(
        "--topk", type=int, metavar="K", help="k, for a checkpoint that does not record it"
    )
    parser.add_argument(
        "--normalize",
        action="store_true",
        default=None,
        help="rows are z-scored, for a checkpoint that does not record it",
    )
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="what a row is, for a checkpoint that does not record it (then default: mean)",
    )
    return parser


def _analyze(options: argparse.Namespace) -> str:
    from esm_sae.sae import load_checkpoint

    sae = load_checkpoint(options.checkpoint, k=options.topk, normalize=options.normalize)
    config = sae.config = _with_pooling(sae.config, options.pooling, options.checkpoint)
    output = options.output or Path(f"data/analysis/L{config.latent_dim}_k{config.k}")
    products = _write_all(sae, options.clusters, output)
    return _describe(products, output)


def _with_pooling(config: SAEConfig, pooling: str | None, checkpoint: Path) -> SAEConfig:
    if pooling is None or config.pooling == pooling:
        return config
    if config.pooling != "unknown":
        raise InputError(f"{checkpoint}: was trained on {config.pooling} rows, not {pooling} rows")
    return replace(config, pooling=pooling)


def _write_all(sae: SparseEncoder, clusters: Path, output: Path) -> dict[str, Product]:
    rows = open_cluster_rows(clusters, pooling=sae.config.pooling)
    activations = compute_activations(sae, rows, output / "activations")
    taxonomy = feature_taxonomy(sae, clusters, output / "taxonomy")
    summary = summarise_latents(activations.path, taxonomy.path, output / "feature_summary.parquet")
    report = write_report(
        output / "report.html",
        summary=summary.path,
        activations=activations.path,
        taxonomy=taxonomy.path,
    )
    return {
        "activations": activations,
        "taxonomy": taxonomy,
        "summary": summary,
        "report": report,
    }


def _describe(products: dict[str, Product], output: Path) -> str:
    activations = products["activations"].manifest.summary
    taxonomy = products["taxonomy"].manifest.summary
    unchanged = all(product.unchanged for product in products.values())
    return (
        f"{activations['proteins']:,} proteins of {taxonomy['taxa']:,} taxa: "
        f"{activations['firing_latents']:,} of {activations['latents']:,} latents fire\n"
        f"wrote {output}" + (" (unchanged)" if unchanged else "") + "\n"
        f"open {products['report'].path}"
    )


if __name__ == "__main__":
    sys.exit(main())
