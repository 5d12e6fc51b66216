"""Command: the latents of an SAE that fire on one's own proteins, as tables and a page."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from esm_sae import cli, storage
from esm_sae.analysis import annotate_concepts, compute_activations, describe_proteins
from esm_sae.analysis.concepts.labels import universe_path
from esm_sae.analysis.reference import require_activations_of, require_rows_like, rows_of
from esm_sae.embedding import EmbeddingOptions, embed_fasta
from esm_sae.embedding.cli_options import (
    add_encoder_options,
    embedding_options_from,
    encoder_from,
    recorded_encoder,
)
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig, require_same_embeddings
from esm_sae.formats.fasta import read_fasta
from esm_sae.formats.manifest import Product, is_recorded, manifest_beside, read_manifest
from esm_sae.formats.sequence_index import scan_index
from esm_sae.formats.shards import open_shards
from esm_sae.report import write_protein_report

if TYPE_CHECKING:
    from esm_sae.embedding import Encoder
    from esm_sae.sae import SAE

_NUCLEOTIDES = "ACGTUN"
# Of a protein's residues about a quarter are among these letters.
_MOST_NUCLEOTIDES = 0.95


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
    cli.add_checkpoint_options(parser)
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
        help="UniProt export of your proteins, with --analysis: what it has is no candidate, and "
        "only what it knows is one for a concept of UniProt",
    )
    add_encoder_options(parser, recorded=True)
    return parser


def _score(options: argparse.Namespace) -> str:
    from esm_sae.sae import load_checkpoint

    _require_usable_annotations(options)
    _require_own_ids(options.fasta)
    _warn_of_nucleotides(options.fasta)
    sae = load_checkpoint(options.checkpoint, k=options.topk, normalize=options.normalize)
    reference = None if options.analysis is None else options.analysis / "activations"
    if reference is not None:
        require_activations_of(sae.fingerprint, reference)
    sae.config = _settle(options, sae.config, reference)
    embedding_options, encoder = embedding_options_from(options), encoder_from(options)
    rows = embedding_options.provenance(encoder)
    require_same_embeddings(sae.config, rows, encoder.width, f"encoder {encoder.name}")
    if reference is not None:
        require_rows_like(rows, reference)
    products = _write_all(options, sae, encoder, embedding_options)
    return _describe(products, options.output)


def _require_usable_annotations(options: argparse.Namespace) -> None:
    if options.annotations is None:
        return
    if options.analysis is None:
        raise InputError(
            f"{options.annotations}: --annotations needs --analysis, whose concepts it is for"
        )
    if not (options.analysis / "concepts").is_dir():
        raise InputError(
            f"{options.analysis}: has no concepts that --annotations could be for; leave it out"
        )
    storage.open_binary(options.annotations).close()


def _require_own_ids(fasta: str) -> None:
    ids = scan_index(fasta).select("sequence_id").collect()["sequence_id"]
    repeated = ids.filter(ids.is_duplicated())
    if len(repeated):
        raise InputError(
            f"{fasta}: {repeated.n_unique():,} ids occur more than once, the first is "
            f"{repeated[0]}; give each protein an id of its own"
        )


def _warn_of_nucleotides(fasta: str) -> None:
    residues = nucleotides = 0
    for record in read_fasta(fasta):
        residues += len(record.sequence)
        nucleotides += sum(map(record.sequence.count, _NUCLEOTIDES))
    if nucleotides > _MOST_NUCLEOTIDES * residues:
        warnings.warn(
            f"{fasta}: {nucleotides / residues:.0%} of its letters are A, C, G, T, U or N, as of "
            "DNA or RNA, but they are read as amino acids; translate it first",
            stacklevel=2,
        )


def _settle(options: argparse.Namespace, config: SAEConfig, reference: Path | None) -> SAEConfig:
    """Fill in what the checkpoint records and the options don't say, and the other way round.

    A pooling that neither tells is that of the analysis, else the mean.
    """
    if options.model is None:
        options.model = recorded_encoder(config, options.checkpoint)
    if options.layer is None:
        options.layer = -1 if config.layer is None else config.layer
    if config.pooling != "unknown":
        options.pooling = options.pooling or config.pooling
        return config
    if options.pooling is None:
        options.pooling = "mean" if reference is None else rows_of(reference).pooling
    return replace(config, pooling=options.pooling)


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
    annotations = output / "annotations.parquet"
    if concepts is not None and concepts.is_dir():
        annotate_concepts(options.fasta, annotations, annotations=options.annotations)
    else:
        _remove_annotations(annotations)
        concepts = annotations = None
    described = describe_proteins(
        activations.path,
        output / "proteins",
        reference=None if analysis is None else analysis / "activations",
        summary=summary,
        concepts=concepts,
        annotations=annotations,
    )
    page = write_protein_report(
        output / "report.html",
        described=described.path,
        activations=activations.path,
        latent_report=report if report is not None and report.is_file() else None,
    )
    return {"embeddings": shards, "described": described, "page": page}


def _remove_annotations(table: Path) -> None:
    """Remove what an earlier run with an analysis left, unless someone has changed it since."""
    with storage.locked(table):
        beside = manifest_beside(table)
        manifest = read_manifest(beside)
        if manifest is None or manifest.kind != "concept_annotations":
            return
        for path in (table, universe_path(table)):
            if path.name in manifest.files and is_recorded(path, manifest):
                path.unlink()
        beside.unlink()


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
        if counts["not_looked_up"]:
            lines.append(
                f"not looked up in UniProt: {counts['not_looked_up']:,} more, on "
                f"{counts['proteins_not_looked_up']:,} proteins; --annotations takes an export "
                "that has them"
            )
    lines.append(f"wrote {output}" + (" (unchanged)" if unchanged else ""))
    lines.append(f"open {products['page'].path}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
