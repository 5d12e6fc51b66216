"""Cluster proteins: by density of their embeddings, or by the taxon of their headers."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from esm_sae import cli
from esm_sae.clusters import cluster_embeddings, cluster_taxa
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product
from esm_sae.formats.shards import open_shards

_DENSITY_OPTIONS = (
    "min_cluster_size",
    "min_samples",
    "components",
    "fit_rows",
    "selection",
    "seed",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "cluster",
        "Cluster proteins by HDBSCAN of their embeddings, or with --by taxon by the taxa that "
        "their headers name, and write a cluster table.",
        "python -m esm_sae.cluster --np_dir data/embeddings3 --output data/clusters.parquet\n"
        "  python -m esm_sae.cluster --by taxon --fasta proteins.fasta --output data/taxa.parquet",
        seed=True,
    )
    parser.add_argument(
        "--by",
        choices=["embedding", "taxon"],
        default="embedding",
        help="what to cluster by (default: embedding)",
    )
    parser.add_argument("--np_dir", type=Path, metavar="PATH", help="folder of embedding shards")
    parser.add_argument("--fasta", metavar="PATH", help="FASTA file, with --by taxon")
    parser.add_argument(
        "--min_cluster_size", type=int, metavar="N", help="fewest rows of a cluster (default: 5)"
    )
    parser.add_argument(
        "--min_samples",
        type=int,
        metavar="N",
        help="neighbours that make a row's density; more gives more noise "
        "(default: as --min_cluster_size)",
    )
    parser.add_argument(
        "--components", type=int, metavar="N", help="principal components kept (default: 50)"
    )
    parser.add_argument(
        "--fit_rows",
        type=int,
        metavar="N",
        help="most rows fitted, the others are predicted (default: 20000)",
    )
    parser.add_argument(
        "--selection",
        choices=["auto", "eom", "leaf"],
        help="persistent clusters (eom) or fine ones (leaf); auto takes eom unless it puts over "
        "80%% of the rows into one cluster (default: auto)",
    )
    # Left unset, so that it shows when it was given where it has no meaning.
    parser.set_defaults(seed=None)
    return parser


def _run(options: argparse.Namespace) -> str:
    given = {
        name: value for name in _DENSITY_OPTIONS if (value := getattr(options, name)) is not None
    }
    if options.by == "taxon":
        _refuse([*given, *(["np_dir"] if options.np_dir else [])], "--by taxon")
        if options.fasta is None:
            raise InputError("--by taxon needs --fasta, the file whose headers name the taxa")
        return _describe_taxa(cluster_taxa(options.fasta, options.output))
    _refuse(["fasta"] if options.fasta else [], "--by embedding")
    if options.np_dir is None:
        raise InputError("--by embedding needs --np_dir, the folder of embeddings")
    product = cluster_embeddings(open_shards(options.np_dir), options.output, **given)
    if "warning" in product.manifest.summary:
        warnings.warn(f"{product.path}: {product.manifest.summary['warning']}", stacklevel=2)
    return _describe_embeddings(product)


def _refuse(given: list[str], choice: str) -> None:
    if given:
        raise InputError(f"--{given[0]} does not go with {choice}; leave it out")


def _describe_taxa(product: Product) -> str:
    summary = product.manifest.summary
    largest = summary["top_taxa"][0]
    return (
        f"{product.path}: {summary['clusters']:,} taxa of {summary['clustered']:,} of "
        f"{summary['records']:,} records, {summary['without_taxon']:,} without a taxon; the "
        f"largest is {largest['cluster']} with {largest['size']:,}"
    )


def _describe_embeddings(product: Product) -> str:
    summary = product.manifest.summary
    lines = [
        f"{product.path}: {summary['clusters']:,} clusters ({summary['selection']}) of "
        f"{summary['rows']:,} proteins, {summary['noise_share']:.0%} noise; "
        f"{summary['predicted_rows']:,} rows predicted; {summary['components']} components hold "
        f"{summary['explained_variance']:.0%} of the variance; rows: {summary['embeddings']}"
    ]
    if summary["largest_sizes"]:
        lines.append(f"largest clusters: {', '.join(map(str, summary['largest_sizes']))}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
