"""Train the bundled demo encoder on real proteins.

A small ESM-C learns to predict hidden residues of the example proteins of MMseqs2, those of the
training split alone. ``judge_encoder`` measures what it learnt.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from esm_sae import storage
from esm_sae.cli import command, run
from esm_sae.data.cut_proteins import add_source
from esm_sae.data.source_proteins import SourceProtein, read_source

WEIGHTS = "encoder.safetensors"
RECORD = "encoder_training.json"
_STATE = ".encoder_training.state.pt"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = command(
        "data.train_encoder",
        "Train the demo's encoder, a small ESM-C, by masked-residue prediction on the example "
        "records of MMseqs2. A killed run goes on where it stopped.",
        "python -m esm_sae.data.train_encoder "
        "--source /usr/share/doc/mmseqs2/example-data --output esm_sae/data",
        seed=True,
    )
    add_source(parser)
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps (default: 2800)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="default: cpu")
    return run(parser, _work, argv)


def _work(options: argparse.Namespace) -> str:
    record = train_bundled_encoder(
        options.source,
        options.output,
        device=options.device,
        seed=options.seed,
        **({} if options.steps is None else {"steps": options.steps}),
    )
    last = record["curve"][-1]
    return (
        f"{options.output / WEIGHTS}: {record['proteins']['train']} proteins, "
        f"{record['options']['steps']} steps, held-out perplexity {last['held_out_perplexity']}"
    )


def train_bundled_encoder(
    source: Path, output: Path, *, device: str = "cpu", **options: Any
) -> dict[str, Any]:
    """Write ``encoder.safetensors`` (bfloat16) and ``encoder_training.json``.

    Args:
        source: folder of the example records.
        output: folder of the results.
        device: where to train.
        options: of ``TrainingOptions``, where they differ.

    Returns:
        What ``encoder_training.json`` holds: options, counts, the curve, hashes.

    Raises:
        InputError: the source is not the expected one, or training fails.
    """
    import torch
    from safetensors.torch import save

    from esm_sae.data.encoder_training import TrainingOptions, tokenizer, train_encoder
    from esm_sae.embedding.esmc import vocabulary_of

    chosen = TrainingOptions(**options)
    proteins = read_source(source)
    encode = vocabulary_of(tokenizer()).encode
    tokens = {
        split: [encode(p.sequence).ids for p in proteins if p.split == split]
        for split in ("train", "validation")
    }
    state = output / _STATE
    model, curve = train_encoder(
        tokens["train"], tokens["validation"], chosen, device=device, state=state
    )
    tensors = {
        name: tensor.to("cpu", torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
    }
    storage.publish_bytes(output / WEIGHTS, save(tensors))
    record = {
        "options": asdict(chosen),
        "proteins": _counts(proteins),
        "curve": curve,
        "sha256": storage.sha256_of(output / WEIGHTS),
        "torch": torch.__version__.partition("+")[0],
    }
    storage.publish_json(output / RECORD, record)
    state.unlink(missing_ok=True)
    return record


def _counts(proteins: Sequence[SourceProtein]) -> dict[str, int]:
    splits = [protein.split for protein in proteins]
    return {split: splits.count(split) for split in ("train", "validation", "test")}


if __name__ == "__main__":
    sys.exit(main())
