"""Cluster proteins: by density of their embeddings, or by the taxon of their headers."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esm_sae import cli
from esm_sae.clusters import (
    RANKS,
    cluster_embeddings,
    cluster_taxa,
    describe_clusters,
    require_layout,
)
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product
from esm_sae.formats.shards import open_shards
from esm_sae.report import write_cluster_report
from esm_sae.split import read_similarity_clusters

# The options of each way, by what they are for.
_DENSITY = (
    "min_cluster_size",
    "min_samples",
    "components",
    "fit_rows",
    "selection",
    "backend",
    "seed",
)
_DESCRIPTION = ("similarity_clusters", "map")
_BY_EMBEDDING = ("np_dir", *_DENSITY, *_DESCRIPTION)
_BY_TAXON = ("fasta", "statistics", "taxonomy", "rank", "organism", "species_list")
# Why records are left out, by the name of the count.
_LEFT_OUT = {
    "without_taxon": "without a taxon",
    "without_code": "without an organism code",
    "unknown_taxon": "of a taxon that the taxonomy does not know",
    "above_rank": "of a taxon above the rank",
    "rank_missing": "of a lineage without the rank",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "cluster",
        "Cluster proteins by HDBSCAN of their embeddings, or with --by taxon by the taxa that "
        "their headers name, and write a cluster table. Beside a table by embedding come "
        ".summary.parquet, what each cluster is, and .html, a page to browse them.",
        "python -m esm_sae.cluster --np_dir data/embeddings3 --output data/clusters.parquet\n"
        "  python -m esm_sae.cluster --by taxon --fasta proteins.fasta --output data/taxa.parquet\n"
        "  python -m esm_sae.cluster --by taxon --fasta proteins.fasta --taxonomy taxdump.tar.gz "
        "--rank family --output data/families/taxa.parquet",
        seed=True,
    )
    parser.add_argument(
        "--by",
        choices=["embedding", "taxon"],
        default="embedding",
        help="what to cluster by (default: embedding)",
    )
    _add_embedding_options(parser.add_argument_group("by embedding"))
    _add_taxon_options(parser.add_argument_group("by taxon"))
    # Left unset, so that it shows when it was given where it has no meaning.
    parser.set_defaults(seed=None)
    return parser


def _add_embedding_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--np_dir", type=Path, metavar="PATH", help="folder of embedding shards")
    group.add_argument(
        "--min_cluster_size", type=int, metavar="N", help="fewest rows of a cluster (default: 5)"
    )
    group.add_argument(
        "--min_samples",
        type=int,
        metavar="N",
        help="neighbours that make a row's density; more gives more noise "
        "(default: as --min_cluster_size)",
    )
    group.add_argument(
        "--components", type=int, metavar="N", help="principal components kept (default: 50)"
    )
    group.add_argument(
        "--fit_rows",
        type=int,
        metavar="N",
        help="most rows fitted, the others are predicted (default: 20000)",
    )
    group.add_argument(
        "--selection",
        choices=["auto", "eom", "leaf"],
        help="persistent clusters (eom) or fine ones (leaf); auto takes eom unless it puts over "
        "80%% of the rows into one cluster (default: auto)",
    )
    group.add_argument(
        "--backend",
        choices=["hdbscan", "fast_hdbscan"],
        help="package that fits HDBSCAN; fast_hdbscan comes with the extra 'fast' "
        "(default: hdbscan)",
    )
    group.add_argument(
        "--similarity_clusters",
        metavar="PATH",
        help="table of similarity clusters (sequence_id, cluster_id), or 'bundled'; the summary "
        "then tells how many of them a cluster joins",
    )
    group.add_argument(
        "--map",
        choices=["pca", "umap"],
        help="layout of the map; umap comes with the extra 'umap' (default: pca)",
    )


def _add_taxon_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--fasta", metavar="PATH", help="FASTA file whose headers name the taxa")
    group.add_argument(
        "--statistics",
        type=Path,
        metavar="PATH",
        help="where the taxa's sizes and lengths go (default: cluster_statistics.json beside the "
        "table)",
    )
    group.add_argument(
        "--taxonomy",
        metavar="PATH",
        help="NCBI's taxdump, its folder or archive; brings TaxIDs and names up to date "
        "(default: taxa stay as given)",
    )
    group.add_argument(
        "--rank", choices=RANKS, help="rank that taxa are lifted to, with --taxonomy"
    )
    group.add_argument(
        "--organism",
        choices=["common_ancestor", "representative"],
        help="whose taxon a UniRef record has: its members' common ancestor's, or its "
        "representative's (default: common_ancestor)",
    )
    group.add_argument(
        "--species_list",
        metavar="PATH",
        help="UniProt's speclist.txt, with --organism representative; gives TaxIDs to organism "
        "codes",
    )


def _run(options: argparse.Namespace) -> str:
    if options.by == "taxon":
        _refuse(options, _BY_EMBEDDING)
        if options.fasta is None:
            raise InputError("--by taxon needs --fasta, the file whose headers name the taxa")
        given = _given(options, _BY_TAXON)
        statistics = given.pop("statistics", None)
        return _describe_taxa(
            cluster_taxa(given.pop("fasta"), options.output, statistics_path=statistics, **given)
        )
    _refuse(options, _BY_TAXON)
    if options.np_dir is None:
        raise InputError("--by embedding needs --np_dir, the folder of embeddings")
    if options.output.suffix != ".parquet":
        raise InputError(
            f"{options.output}: the summary and the page beside the table are named after it; give "
            "it a name that ends in .parquet"
        )
    return _by_embedding(options)


def _by_embedding(options: argparse.Namespace) -> str:
    # What the description needs is looked at first: clustering may take long.
    layout = options.map or "pca"
    require_layout(layout)
    if options.similarity_clusters is not None:
        read_similarity_clusters(options.similarity_clusters)
    table = cluster_embeddings(
        open_shards(options.np_dir), options.output, **_given(options, _DENSITY)
    )
    if "warning" in table.manifest.summary:
        warnings.warn(f"{table.path}: {table.manifest.summary['warning']}", stacklevel=2)
    summary = describe_clusters(
        table.path,
        table.path.with_suffix(".summary.parquet"),
        similarity_clusters=options.similarity_clusters,
        layout=layout,
        seed=options.seed or 0,
    )
    report = write_cluster_report(
        table.path.with_suffix(".html"), summary=summary.path, table=table.path
    )
    return f"{_describe_embeddings(table)}\nopen {report.path}"


def _given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _refuse(options: argparse.Namespace, names: Sequence[str]) -> None:
    for name in _given(options, names):
        raise InputError(f"--{name} does not go with --by {options.by}; leave it out")


def _describe_taxa(product: Product) -> str:
    summary = product.manifest.summary
    largest = summary["top_taxa"][0]
    left_out = [
        f"{summary[reason]:,} {words}" for reason, words in _LEFT_OUT.items() if summary.get(reason)
    ]
    lines = [
        f"{product.path}: {summary['clusters']:,} taxa of {summary['clustered']:,} of "
        f"{summary['records']:,} records; the largest is {largest['cluster']} with "
        f"{largest['size']:,}",
        f"left out: {', '.join(left_out) or 'none'}",
    ]
    if summary.get("left_out"):
        shares = [f"{row['members']}: {row['left_out_share']:.1%}" for row in summary["left_out"]]
        lines.append(f"share left out by members of the UniRef cluster: {', '.join(shares)}")
    return "\n".join(lines)


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
