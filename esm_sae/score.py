"""Command: the latents of an SAE that fire on one's own proteins, as tables and a page."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from esm_sae import cli
from esm_sae.analysis import annotate_concepts, compute_activations, describe_proteins
from esm_sae.analysis.own_sequences import require_activations_of
from esm_sae.embedding import EmbeddingOptions, embed_fasta
from esm_sae.embedding.cli_options import (
    add_encoder_options,
    embedding_options_from,
    encoder_from,
)
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig, require_same_embeddings
from esm_sae.formats.manifest import Product
from esm_sae.formats.sequence_index import scan_index
from esm_sae.formats.shards import open_shards
from esm_sae.report import write_protein_report

if TYPE_CHECKING:
    from esm_sae.embedding import Encoder
    from esm_sae.sae import SAE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _score, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "score",
        "Say which latents of an SAE fire on your own proteins, and where: tables and a page. "
        "With the analysis of the SAE they have names, and proteins are proposed for concepts.",
        "python -m esm_sae.score --fasta my.fasta --checkpoint data/L1024_k32 "
        "--analysis data/analysis/L1024_k32 --output data/my_proteins",
    )
    parser.add_argument("--fasta", required=True, metavar="PATH", help="FASTA file, may be .gz")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="PATH",
        help="checkpoint_epoch_N.npy, or the folder of a training",
    )
    parser.add_argument(
        "--analysis",
        type=Path,
        metavar="PATH",
        help="folder of the analysis of this checkpoint, such as data/analysis/L1024_k32",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="TSV",
        help="UniProt export of your proteins: what it has is no candidate",
    )
    add_encoder_options(parser, recorded=True)
    parser.add_argument(
        "--topk", type=int, metavar="K", help="k, for a checkpoint that does not record it"
    )
    parser.add_argument(
        "--normalize",
        action="store_true",
        default=None,
        help="rows are z-scored, for a checkpoint that does not record it",
    )
    return parser


def _score(options: argparse.Namespace) -> str:
    from esm_sae.sae import load_checkpoint

    _require_own_ids(options.fasta)
    sae = load_checkpoint(options.checkpoint, k=options.topk, normalize=options.normalize)
    sae.config = _settle(options, sae.config)
    if options.analysis is not None:
        require_activations_of(sae.fingerprint, options.analysis / "activations")
    embedding_options, encoder = embedding_options_from(options), encoder_from(options)
    rows = embedding_options.provenance(encoder)
    require_same_embeddings(sae.config, rows, encoder.width, f"encoder {encoder.name}")
    products = _write_all(options, sae, encoder, embedding_options)
    return _describe(products, options.output)


def _require_own_ids(fasta: str) -> None:
    ids = scan_index(fasta).select("sequence_id").collect()["sequence_id"]
    repeated = ids.filter(ids.is_duplicated())
    if len(repeated):
        raise InputError(
            f"{fasta}: {repeated.n_unique():,} ids occur more than once, the first is "
            f"{repeated[0]}; give each protein an id of its own"
        )


def _settle(options: argparse.Namespace, config: SAEConfig) -> SAEConfig:
    """Fill in what the checkpoint records and the options don't say, and the other way round."""
    if options.model is None:
        if config.encoder == "unknown":
            raise InputError(
                f"{options.checkpoint}: does not record its encoder; name it with --model"
            )
        options.model = config.encoder
    recorded = {"layer": (config.layer, None, -1), "pooling": (config.pooling, "unknown", "mean")}
    for name, (value, unknown, default) in recorded.items():
        if getattr(options, name) is None:
            setattr(options, name, default if value == unknown else value)
    return replace(config, pooling=options.pooling) if config.pooling == "unknown" else config


def _write_all(
    options: argparse.Namespace, sae: "SAE", encoder: "Encoder", rows: EmbeddingOptions
) -> dict[str, Product]:
    output, analysis = options.output, options.analysis
    summary, concepts, report = (
        None if analysis is None else analysis / name
        for name in ("feature_summary.parquet", "concepts", "report.html")
    )
    shards = embed_fasta(options.fasta, output / "embeddings", encoder=encoder, options=rows)
    activations = compute_activations(
        sae, open_shards(shards.path), output / "activations", fasta=options.fasta
    )
    annotations = None
    if concepts is not None and concepts.is_dir():
        annotations = annotate_concepts(
            options.fasta, output / "annotations.parquet", annotations=options.annotations
        ).path
    described = describe_proteins(
        activations.path,
        output / "proteins",
        reference=None if analysis is None else analysis / "activations",
        summary=summary,
        concepts=None if annotations is None else concepts,
        annotations=annotations,
    )
    page = write_protein_report(
        output / "report.html",
        described=described.path,
        activations=activations.path,
        latent_report=report if report is not None and report.is_file() else None,
    )
    return {"embeddings": shards, "described": described, "page": page}


def _describe(products: dict[str, Product], output: Path) -> str:
    counts = products["described"].manifest.summary
    skipped = products["embeddings"].manifest.summary.get("skipped", 0)
    unchanged = all(product.unchanged for product in products.values())
    lines = [
        f"{counts['proteins']:,} proteins"
        + (f", {skipped:,} left out" if skipped else "")
        + f": {counts['firing_latents']:,} latents fire"
    ]
    if "candidates" in counts:
        lines.append(
            f"{counts['candidates']:,} candidates on {counts['candidate_proteins']:,} proteins for "
            f"{counts['concepts_sought']:,} concepts"
        )
    lines.append(f"wrote {output}" + (" (unchanged)" if unchanged else ""))
    lines.append(f"open {products['page'].path}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
