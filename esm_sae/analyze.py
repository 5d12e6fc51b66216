"""Command: tables, heatmap, mapping and report of a checkpoint on embedded clusters."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from esm_sae import cli, storage
from esm_sae.analysis import (
    ClusterRows,
    annotate_concepts,
    cluster_latents,
    compute_activations,
    feature_taxonomy,
    open_cluster_rows,
    score_concepts,
    summarise_latents,
)
from esm_sae.embedding.options import POOLINGS
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig
from esm_sae.formats.headers import parse_header
from esm_sae.formats.manifest import Product
from esm_sae.report import write_report

if TYPE_CHECKING:
    from esm_sae.sae import SAE


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
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="TSV",
        help="UniProt export of the proteins; without it concepts are the names in the headers and "
        "what the sequences show",
    )
    parser.add_argument(
        "--similarity_clusters",
        metavar="PATH",
        help="table with sequence_id and cluster_id, or 'bundled': each counts once per taxon and "
        "is held out whole (default: each protein is its own cluster)",
    )
    parser.add_argument(
        "--split_seed",
        type=cli.seed_number,
        default=0,
        metavar="N",
        help="seed of the split, as in the training (default: 0)",
    )
    parser.add_argument(
        "--seed",
        type=cli.seed_number,
        default=0,
        metavar="N",
        help="seed of permutations, intervals and the map (default: 0)",
    )
    return parser


def _analyze(options: argparse.Namespace) -> str:
    from esm_sae.sae import load_checkpoint

    sae = load_checkpoint(options.checkpoint, k=options.topk, normalize=options.normalize)
    config = sae.config = _with_pooling(sae.config, options.pooling, options.checkpoint)
    output = options.output or Path(f"data/analysis/L{config.latent_dim}_k{config.k}")
    return _describe(_write_all(sae, options, output), output)


def _with_pooling(config: SAEConfig, pooling: str | None, checkpoint: Path) -> SAEConfig:
    if pooling is None or config.pooling == pooling:
        return config
    if config.pooling != "unknown":
        raise InputError(f"{checkpoint}: was trained on {config.pooling} rows, not {pooling} rows")
    return replace(config, pooling=pooling)


def _write_all(sae: "SAE", options: argparse.Namespace, output: Path) -> dict[str, Product]:
    rows = open_cluster_rows(options.clusters, pooling=sae.config.pooling)
    families = options.similarity_clusters
    held_out = {"similarity_clusters": families, "split_seed": options.split_seed}
    activations = compute_activations(sae, rows, output / "activations")
    taxonomy = feature_taxonomy(
        sae,
        options.clusters,
        output / "taxonomy",
        similarity_clusters=families,
        seed=options.seed,
    )
    annotations = annotate_concepts(
        _write_fasta(rows, output / "sequences.fasta"),
        output / "concept_annotations.parquet",
        annotations=options.annotations,
    )
    concepts = score_concepts(
        activations.path, annotations.path, output / "concepts", seed=options.seed, **held_out
    )
    clusters = cluster_latents(
        sae, activations.path, None, output / "clusters", seed=options.seed, **held_out
    )
    summary = summarise_latents(
        activations.path,
        taxonomy.path,
        output / "feature_summary.parquet",
        concepts=concepts.path,
        clusters=clusters.path,
        annotations=annotations.path,
        **held_out,
    )
    report = write_report(
        output / "report.html",
        summary=summary.path,
        activations=activations.path,
        taxonomy=taxonomy.path,
        concepts=concepts.path,
        clusters=clusters.path,
    )
    return {
        "activations": activations,
        "taxonomy": taxonomy,
        "concepts": concepts,
        "clusters": clusters,
        "summary": summary,
        "report": report,
    }


def _write_fasta(rows: ClusterRows, path: Path) -> Path:
    """Write the proteins of embedded clusters, each sequence id once, as the sample has them."""
    records: dict[str, str] = {}
    for header, sequence in zip(rows.headers, rows.sequences, strict=True):
        records.setdefault(parse_header(header).sequence_id, f">{header}\n{sequence}\n")
    storage.publish_text(path, "".join(records.values()))
    return path


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
