"""Train TopK sparse autoencoders on a folder of embeddings, for several k in one pass."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from esm_sae import cli
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import ACTIVATIONS
from esm_sae.formats.shards import open_shards
from esm_sae.tracking import TRACKERS, Tracking

if TYPE_CHECKING:
    from esm_sae.sae import TrainResult


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(_parser(), _train, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.command(
        "train",
        "Train sparse autoencoders on embedding shards or plain .npy matrices. Several k are "
        "trained on the same batches, each to the same bytes as alone.",
        "python -m esm_sae.train --np_dir data/embeddings3 --project demo --latent_dim 1024 "
        "--topk 16 32 64",
        output="data/L{L}_k{k}/; with several k the folder in which these are made",
        seed=True,
    )
    add = parser.add_argument
    add("--np_dir", required=True, metavar="PATH", help="folder of embeddings")
    add("--project", required=True, metavar="NAME", help="name kept in the files' metadata")
    add(
        "--project_folder",
        action="store_true",
        help="make the folders in one of the project's name: data/NAME/L{L}_k{k}/, or in that of "
        "--output",
    )
    add("--latent_dim", required=True, type=int, metavar="L", help="number of latents")
    add(
        "--topk",
        type=int,
        nargs="+",
        default=[32],
        metavar="K",
        help="latents kept per row, one or more (default: 32)",
    )
    add(
        "--batch_size",
        type=int,
        metavar="B",
        help="rows per step (default: a power of two from 32 to 4096 that gives 400 or more "
        "steps per epoch)",
    )
    add(
        "--num_epochs",
        type=int,
        metavar="N",
        help="passes over the training rows (default: what 3,000 steps take, from 3 to 100)",
    )
    add(
        "--learning_rate",
        type=float,
        metavar="X",
        help="peak learning rate (default: 2e-3 * sqrt(1024 / L))",
    )
    add("--tied", action="store_true", help="keep the encoder the decoder's transpose")
    add("--normalize", action="store_true", help="z-score each row")
    add(
        "--normalize_ddof",
        type=int,
        choices=[0, 1],
        default=0,
        help="what the deviation of that is short of D in its divisor; 1 as in Biohub's SAEs "
        "(default: 0)",
    )
    add(
        "--aux_k",
        type=int,
        metavar="K",
        help="dead latents in the auxiliary loss (default: half the width of a row)",
    )
    add(
        "--aux_alpha",
        type=float,
        default=1 / 32,
        metavar="X",
        help="weight of the auxiliary loss (default: 1/32)",
    )
    add(
        "--activation",
        choices=ACTIVATIONS,
        default="topk",
        help="what decides which latents fire: the k largest of a row or of a batch, or trained "
        "thresholds (default: topk)",
    )
    add(
        "--prefixes",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="Matryoshka: numbers of first latents that are to reconstruct rows by themselves",
    )
    add(
        "--k_start",
        type=int,
        default=1,
        metavar="N",
        help="train with N times k at first, falling to k over the first quarter of the steps "
        "(default: 1)",
    )
    add("--no_latent_bias", action="store_true", help="leave the latents' bias at 0")
    add(
        "--precision",
        choices=["float32", "bfloat16"],
        default="float32",
        help="type of the factors of large matrix products (default: float32)",
    )
    add(
        "--similarity_clusters",
        metavar="PATH",
        help="table with sequence_id and cluster_id, or 'bundled'; clusters are held out whole "
        "(default: each protein is its own cluster)",
    )
    add(
        "--split_seed",
        type=cli.seed_number,
        default=0,
        metavar="N",
        help="seed of the split (default: 0)",
    )
    add(
        "--checkpoint_every",
        type=int,
        default=0,
        metavar="N",
        help="keep a checkpoint every N epochs (default: only the final one)",
    )
    add(
        "--track",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"show the course of the training in {' or '.join(TRACKERS)}, each of which comes "
        "with the extra of its name",
    )
    add(
        "--track_dir",
        type=cli.local_path,
        metavar="PATH",
        help="folder of what these write (default: tracking/ beside the outputs)",
    )
    return parser


def _train(arguments: argparse.Namespace) -> str:
    from esm_sae.sae import TrainOptions, train_saes

    ks = sorted(set(arguments.topk))
    options = TrainOptions(
        latent_dim=arguments.latent_dim,
        k=ks[0],
        batch_size=arguments.batch_size,
        num_epochs=arguments.num_epochs,
        learning_rate=arguments.learning_rate,
        aux_k=arguments.aux_k,
        aux_alpha=arguments.aux_alpha,
        tied=arguments.tied,
        normalize=arguments.normalize,
        normalize_ddof=arguments.normalize_ddof,
        latent_bias=not arguments.no_latent_bias,
        activation=arguments.activation,
        prefixes=tuple(arguments.prefixes),
        k_start=arguments.k_start,
        precision=arguments.precision,
        checkpoint_every=arguments.checkpoint_every,
        seed=arguments.seed,
        split_seed=arguments.split_seed,
    )
    for k in ks:
        replace(options, k=k).check()
    outputs = _outputs(arguments, ks)
    results = train_saes(
        open_shards(arguments.np_dir),
        outputs,
        options,
        project=arguments.project,
        similarity_clusters=arguments.similarity_clusters,
        tracking=_tracking(arguments, outputs),
    )
    done = []
    try:
        for result in results:
            done.append(_described(result))
    except InputError:
        # What was trained before one k failed.
        print("\n\n".join(done))
        raise
    return "\n\n".join(done)


def _outputs(arguments: argparse.Namespace, ks: Sequence[int]) -> dict[int, Path]:
    """Return the folder of each k; with one k, ``--output`` names it itself."""
    base = arguments.output or Path("data")
    if arguments.project_folder:
        base /= _folder_name(arguments.project)
    elif arguments.output and len(ks) == 1:
        return {ks[0]: arguments.output}
    return {k: base / f"L{arguments.latent_dim}_k{k}" for k in ks}


def _tracking(arguments: argparse.Namespace, outputs: Mapping[int, Path]) -> Tracking:
    chosen = arguments.track_dir
    if chosen is not None and not arguments.track:
        raise InputError(f"--track_dir {chosen}: nothing is tracked; name a tracker with --track")
    if chosen is not None and chosen.exists() and not chosen.is_dir():
        raise InputError(f"--track_dir {chosen}: is no folder; name one")
    folders = [folder.absolute() for folder in outputs.values()]
    directory = (chosen or folders[0].parent / "tracking").absolute()
    for folder in folders:
        if directory.is_relative_to(folder):
            raise InputError(
                f"{directory}: is in the output {folder}, which is swapped in whole; name a folder "
                "beside it with --track_dir"
            )
    return Tracking(arguments.track, directory)


def _folder_name(project: str) -> str:
    if project in (".", "..") or Path(project).name != project:
        raise InputError(f"--project '{project}' cannot be the name of a folder; give another")
    return project


def _described(result: "TrainResult") -> str:
    product = result.product
    figures = product.manifest.summary
    done = "unchanged" if product.unchanged else f"trained in {result.seconds:.0f} s"
    held_out = figures["validation_fvu"]
    lines = [
        f"{product.path / figures['final_checkpoint']}: {done}",
        f"rows: {figures['training_rows']:,} trained on, {figures['epochs']} epochs, "
        f"{figures['steps']:,} steps ({figures['encoder']})",
        f"FVU: {figures['train_fvu']:.4f} on training rows, "
        + ("no validation rows" if held_out is None else f"{held_out:.4f} on validation rows"),
        f"dead latents: {figures['dead_share']:.1%} of {figures['latent_dim']:,}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
