"""Command: what a language model loses when an SAE's reconstruction takes its states' place."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from esm_sae import cli, storage
from esm_sae.analysis import measure_model_fidelity
from esm_sae.embedding.cli_options import add_encoder_options, encoder_from, recorded_encoder
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import MODEL_FIDELITY
from esm_sae.formats.checkpoint import SAEConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return cli.run(_parser(), _measure, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "model_fidelity",
        "Splice the reconstruction of an SAE of residues into ESM-C and say what the model loses "
        "in predicting masked residues of held-out proteins, beside zero and mean ablation.",
        "python -m esm_sae.model_fidelity --fasta data/proteins.fasta "
        "--checkpoint data/L1024_k32 --similarity_clusters bundled --output data/fidelity_k32",
        seed=True,
    )
    parser.add_argument("--fasta", required=True, metavar="PATH", help="FASTA file, may be .gz")
    cli.add_checkpoint_options(parser)
    add_encoder_options(parser, recorded=True, rows=False)
    parser.add_argument(
        "--similarity_clusters",
        metavar="PATH",
        help="as in the training: table with sequence_id and cluster_id, or 'bundled'",
    )
    parser.add_argument(
        "--split_seed",
        type=cli.seed_number,
        default=0,
        metavar="N",
        help="seed of the split, as in the training (default: 0)",
    )
    parser.add_argument(
        "--max_proteins",
        type=_count,
        metavar="N",
        help="most held-out proteins, and most training proteins for the mean (default: all)",
    )
    return parser


def _measure(options: argparse.Namespace) -> str:
    from esm_sae.sae import load_checkpoint

    sae = load_checkpoint(options.checkpoint, k=options.topk, normalize=options.normalize)
    _settle(options, sae.config)
    product = measure_model_fidelity(
        sae,
        encoder_from(options),
        options.fasta,
        options.output,
        layer=options.layer,
        similarity_clusters=options.similarity_clusters,
        split_seed=options.split_seed,
        seed=options.seed,
        max_proteins=options.max_proteins,
        max_length=options.max_len,
        batch_tokens=options.batch_tokens,
    )
    unchanged = " (unchanged)" if product.unchanged else ""
    figures = storage.read_json(product.path / MODEL_FIDELITY)
    return "\n".join([*_described(figures), f"wrote {product.path}{unchanged}"])


def _settle(options: argparse.Namespace, config: SAEConfig) -> None:
    """Fill in what the checkpoint records and the options don't say."""
    if options.model is None:
        options.model = recorded_encoder(config, options.checkpoint)
    if options.layer is None:
        if config.layer is None:
            raise InputError(
                f"{options.checkpoint}: does not record its layer; name it with --layer"
            )
        options.layer = config.layer


def _described(figures: dict[str, Any]) -> list[str]:
    lines = [
        f"k = {figures['k']}, layer {figures['layer']} of {figures['encoder']}: "
        f"{figures['masked_residues']:,} masked residues of {figures['proteins']:,} held-out "
        f"proteins in {figures['similarity_clusters']:,} clusters"
    ]
    for run, name in (
        ("clean", "model as it is"),
        ("spliced", "SAE spliced in"),
        ("mean", "mean ablation"),
        ("zero", "zero ablation"),
    ):
        lines.append(
            f"{name}: cross-entropy {figures[f'cross_entropy_{run}']:.4f} nats, perplexity "
            f"{figures[f'perplexity_{run}']:.2f}, accuracy {figures[f'accuracy_{run}']:.1%}"
        )
    lines.append(f"KL of the spliced model from the clean one: {figures['kl_spliced']:.4f} nats")
    return [*lines, *(_recovered(figures, ablation) for ablation in ("zero", "mean"))]


def _recovered(figures: dict[str, Any], ablation: str) -> str:
    name = f"recovered_of_{ablation}"
    if figures[name] is None:
        return f"loss recovered of {ablation} ablation: not told, {figures[f'{name}_reason']}"
    return (
        f"loss recovered of {ablation} ablation: {figures[name]:.1%} "
        f"(95% interval {figures[f'{name}_low']:.1%} to {figures[f'{name}_high']:.1%})"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of proteins; give 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
