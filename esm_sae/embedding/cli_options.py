"""The options that the embedding commands share."""

import argparse
from collections.abc import Mapping
from typing import Any

from esm_sae import storage
from esm_sae.embedding.devices import PRECISIONS
from esm_sae.embedding.encoder import Encoder
from esm_sae.embedding.encoders import encoder_names, load_encoder
from esm_sae.embedding.imported import is_imported_name
from esm_sae.embedding.options import LONG_SEQUENCES, POOLINGS, EmbeddingOptions
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig


def recorded_encoder(config: SAEConfig, checkpoint: storage.PathLike) -> str:
    """Return the encoder that a checkpoint records, for a command that was given none.

    Raises:
        InputError: it records none, or one of somebody's own code: what a file records never
            decides what is imported.
    """
    if config.encoder == "unknown":
        raise InputError(f"{checkpoint}: does not record its encoder; name it with --model")
    if is_imported_name(config.encoder):
        raise InputError(
            f"{checkpoint}: records an encoder of somebody's own code, which is only run when you "
            f"name it; if you trust it: --model {config.encoder}"
        )
    return config.encoder


def add_encoder_options(
    parser: argparse.ArgumentParser, *, recorded: bool = False, rows: bool = True
) -> None:
    """Add the options that choose an encoder and what it makes of a protein.

    Args:
        parser: of the command.
        recorded: whether encoder, layer and pooling are None unless they are given, since a
            checkpoint records them.
        rows: whether rows are made, of which there are several kinds.
    """
    model, layer, pooling = (None, None, None) if recorded else ("esmc_300m", -1, "mean")
    default = "default: what the checkpoint records" if recorded else "default: {}"
    parser.add_argument(
        "--model",
        default=model,
        metavar="NAME",
        help=f"encoder: {', '.join(encoder_names())}, or package.module:function of your own "
        f"({default.format(model)})",
    )
    parser.add_argument(
        "--weights",
        metavar="PATH",
        help=".pth or .safetensors file (default: the encoder's own, from the model hub)",
    )
    parser.add_argument(
        "--layer",
        type=int,
        default=layer,
        metavar="N",
        help="0 the token embeddings, then one per block; -1 the last, after the final norm "
        f"({default.format(layer)})",
    )
    if rows:
        parser.add_argument(
            "--pooling",
            choices=POOLINGS,
            default=pooling,
            help="a row is a protein (mean or max over its residues, its last residue, or BOS) or "
            f"a residue ({default.format(pooling)})",
        )
    parser.add_argument(
        "--batch_tokens",
        type=int,
        metavar="N",
        help="most tokens of a batch, padding included (default: what suits the device)",
    )
    parser.add_argument(
        "--max_len",
        type=int,
        metavar="N",
        help="most residues of a sequence that are embedded at once (default: no limit)",
    )
    if rows:
        parser.add_argument(
            "--long",
            choices=LONG_SEQUENCES,
            default="truncate",
            help="what becomes of sequences longer than --max_len: cut off, embedded in "
            "overlapping windows, or left out (default: truncate)",
        )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="auto: bfloat16 on a CUDA device, else float32 (default: auto)",
    )
    parser.add_argument(
        "--device", metavar="NAME", help="such as cpu, cuda:0 or mps (default: cuda, else cpu)"
    )


def encoder_from(options: argparse.Namespace) -> Encoder:
    """Load the encoder that the options name."""
    return load_encoder(
        options.model, weights=options.weights, device=options.device, precision=options.precision
    )


def embedding_options_from(options: argparse.Namespace, **more: Any) -> EmbeddingOptions:
    """Return what the rows are to be, as the options say."""
    return EmbeddingOptions(
        pooling=options.pooling,
        layer=options.layer,
        batch_tokens=options.batch_tokens,
        max_length=options.max_len,
        long_sequences=options.long,
        **more,
    )


def counts_line(summary: Mapping[str, Any]) -> str:
    """Say what was embedded, from a manifest's summary."""
    return (
        f"{summary['residues']:,} residues, {summary['truncated']:,} proteins cut off, "
        f"{summary['windowed']:,} in windows, {summary['skipped']:,} left out, "
        f"{summary['unknown_letters']:,} unknown letters read as X"
    )
