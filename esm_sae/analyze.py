"""Command: tables, heatmap, mapping and report of a checkpoint on embedded clusters."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from esm_sae.formats.checkpoint import SAEConfig, require_same_embeddings
from esm_sae.formats.headers import parse_header
from esm_sae.formats.manifest import Product
from esm_sae.recorded_split import require_held_out
from esm_sae.report import write_report
from esm_sae.split import similarity_clusters_path

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
    cli.add_checkpoint_options(parser)
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
        "is held out whole (default: as in the training, else each protein is its own cluster)",
    )
    parser.add_argument(
        "--split_seed",
        type=cli.seed_number,
        metavar="N",
        help="seed of the split (default: that of the training, else 0)",
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

    if options.annotations is not None:
        with storage.open_binary(options.annotations):
            pass
    sae = load_checkpoint(options.checkpoint, k=options.topk, normalize=options.normalize)
    config = sae.config = _with_pooling(sae.config, options.pooling, options.checkpoint)
    output = options.output or Path(f"data/analysis/L{config.latent_dim}_k{config.k}")
    rows = open_cluster_rows(options.clusters, pooling=config.pooling)
    require_same_embeddings(config, rows.provenance, rows.width, rows.directory)
    families, split_seed = _held_out(options, config)
    fasta, left_out = _write_fasta(rows, output / "sequences.fasta")
    products = _write_all(sae, options, output, rows, fasta, families, split_seed)
    return "\n".join([*_notes(options.clusters, families, left_out), _describe(products, output)])


def _with_pooling(config: SAEConfig, pooling: str | None, checkpoint: Path | str) -> SAEConfig:
    if pooling is None or config.pooling == pooling:
        return config
    if config.pooling != "unknown":
        raise InputError(f"{checkpoint}: was trained on {config.pooling} rows, not {pooling} rows")
    return replace(config, pooling=pooling)


def _write_all(
    sae: "SAE",
    options: argparse.Namespace,
    output: Path,
    rows: ClusterRows,
    fasta: Path,
    families: str | None,
    split_seed: int,
) -> dict[str, Product]:
    held_out: dict[str, Any] = {"similarity_clusters": families, "split_seed": split_seed}
    activations = compute_activations(sae, rows, output / "activations")
    taxonomy = feature_taxonomy(
        sae,
        options.clusters,
        output / "taxonomy",
        similarity_clusters=families,
        seed=options.seed,
    )
    annotations = annotate_concepts(
        fasta, output / "concept_annotations.parquet", annotations=options.annotations
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


def _held_out(options: argparse.Namespace, config: SAEConfig) -> tuple[str | None, int]:
    """Return the similarity clusters and the seed of the split that the SAE was trained with."""
    trained = config.training.get("split", {})
    seed = options.split_seed
    if seed is None:
        seed = trained.get("seed", 0)
    families = options.similarity_clusters
    if families is None and trained.get("similarity_clusters") is not None:
        if trained["similarity_clusters"] != storage.sha256_of(similarity_clusters_path("bundled")):
            raise InputError(
                f"{options.checkpoint}: was trained with similarity clusters held out whole; name "
                "their table with --similarity_clusters"
            )
        families = "bundled"
    require_held_out(str(options.checkpoint), config.training, families, seed)
    return families, seed


def _write_fasta(rows: ClusterRows, path: Path) -> tuple[Path, int]:
    """Write the proteins of embedded clusters, each sequence id once; return what is left out.

    Left out are proteins without an id, and sequences that are empty or not of letters.
    """
    records: dict[str, str] = {}
    left_out = 0
    for header, sequence in zip(rows.headers, rows.sequences, strict=True):
        sequence_id = parse_header(header).sequence_id
        if sequence_id and header.isprintable() and sequence.isascii() and sequence.isalpha():
            records.setdefault(sequence_id, f">{header}\n{sequence}\n")
        else:
            left_out += 1
    storage.publish_text(path, "".join(records.values()))
    return path, left_out


def _notes(clusters: Path, families: str | None, left_out: int) -> list[str]:
    notes = []
    if left_out:
        notes.append(
            f"{clusters}: {left_out:,} proteins have no id, or a sequence that is empty or not of "
            "letters; they are without concepts"
        )
    if families is None:
        notes.append(
            "no protein families are known (--similarity_clusters): relatives count as independent"
        )
    return notes


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
