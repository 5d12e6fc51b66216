"""The options that the embedding commands share."""

import argparse
from typing import Any

from esm_sae.embedding.encoders import (
    DEFAULT_BATCH_TOKENS,
    PRECISIONS,
    Encoder,
    encoder_names,
    load_encoder,
)
from esm_sae.embedding.options import ROWS, EmbeddingOptions


def add_encoder_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose an encoder and what it makes of a protein."""
    parser.add_argument(
        "--model",
        default="esmc_300m",
        metavar="NAME",
        help=f"encoder: {', '.join(encoder_names())} (default: esmc_300m)",
    )
    parser.add_argument(
        "--weights",
        metavar="PATH",
        help=".pth or .safetensors file (default: the encoder's own, from the model hub)",
    )
    parser.add_argument(
        "--layer",
        type=int,
        default=-1,
        metavar="N",
        help="0 the token embeddings, then one per block; -1 the last, after the final norm "
        "(default: -1)",
    )
    parser.add_argument(
        "--pooling",
        choices=ROWS,
        default="mean",
        help="a row is a protein, the mean over its residues, or a residue (default: mean)",
    )
    parser.add_argument(
        "--batch_tokens",
        type=int,
        default=DEFAULT_BATCH_TOKENS,
        metavar="N",
        help=f"most tokens of a batch, padding included (default: {DEFAULT_BATCH_TOKENS})",
    )
    parser.add_argument(
        "--max_len",
        type=int,
        metavar="N",
        help="cut longer sequences off after N residues (default: no limit)",
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
        rows=options.pooling,
        layer=options.layer,
        batch_tokens=options.batch_tokens,
        max_length=options.max_len,
        **more,
    )
