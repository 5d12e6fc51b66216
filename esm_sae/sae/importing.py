"""Taking over an SAE that was trained elsewhere, as if it had been trained here."""

import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import IMPORTED, SAEConfig, write_checkpoint, write_config
from esm_sae.formats.manifest import Product, produce_folder
from esm_sae.formats.sae_files import read_sae
from esm_sae.formats.shards import EmbeddingShards, Provenance
from esm_sae.recorded_split import require_held_out
from esm_sae.sae.inference import SAE
from esm_sae.sae.trainer import KIND

_ALGORITHM = "1"
_CHECKPOINT = "checkpoint_imported.npy"
# What only a training could tell.
_UNKNOWN = (
    *("steps", "training_rows", "validation_rows", "test_rows"),
    *("train_fvu", "validation_fvu", "dead_share"),
)


def import_sae(
    source: storage.PathLike,
    output: storage.PathLike,
    shards: EmbeddingShards,
    *,
    k: int | None = None,
    latent_dim: int | None = None,
    normalize: bool | None = None,
    similarity_clusters: storage.PathLike | None = None,
    split_seed: int = 0,
) -> Product:
    """Publish an SAE of any form that ``read_sae`` knows as a folder like that of a training.

    The weights are those of the source, bit for bit: no decoder row is renormalised, which would
    change what TopK keeps. The folder has the checkpoint and ``config.json``, no record of a
    training, and in its summary the entries of one, null where nothing tells them. A source that
    does not tell its pooling gets that of the rows; an encoder or layer stays unknown. Of an SAE
    of other rows than these the split is not taken over: by it, proteins here may have been
    trained on that count as held out.

    Args:
        source: file or folder.
        output: the folder to make.
        shards: the rows that it shall encode.
        k: what the source must have, where it tells; else what it has.
        latent_dim: if given, what it must have.
        normalize: as k.
        similarity_clusters: of the split that is used here.
        split_seed: likewise.

    Raises:
        InputError: the source can't be read, has another k or L, is of other rows than these, or
            was trained on these rows with another split.
    """
    path = Path(source)
    checkpoint = read_sae(path, k=k, normalize=normalize)
    config = checkpoint.config
    if latent_dim not in (None, config.latent_dim):
        raise InputError(
            f"{path}: has {config.latent_dim} latents, not {latent_dim}; ask for "
            f"{config.latent_dim}"
        )
    if checkpoint.unknown:
        warnings.warn(f"{path}: does not tell {' or '.join(checkpoint.unknown)}", stacklevel=2)
    SAE(checkpoint).require_fit(shards)
    pooling = shards.provenance.pooling if config.pooling == "unknown" else config.pooling
    config = replace(config, pooling=pooling, final_checkpoint=_CHECKPOINT)
    if config.data_fingerprint != shards.fingerprint:
        config = replace(config, training=_without_split(config.training))
    require_held_out(f"{path}:", config.training, similarity_clusters, split_seed)

    def build(work: Path) -> dict[str, Any]:
        write_checkpoint(
            work / _CHECKPOINT,
            encoder=checkpoint.encoder,
            decoder=checkpoint.decoder,
            latent_bias=checkpoint.latent_bias,
            pre_bias=checkpoint.pre_bias,
            threshold=checkpoint.threshold,
            config=config,
        )
        write_config(work, config)
        return _summary(config)

    return produce_folder(
        output,
        kind=KIND,
        determinants={
            IMPORTED: storage.sha256_of(checkpoint.path),
            "config": asdict(config),
            "algorithm": _ALGORITHM,
        },
        build=build,
    )


def _without_split(training: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in training.items() if name != "split"}


def _summary(config: SAEConfig) -> dict[str, Any]:
    rows = Provenance(
        encoder=config.encoder,
        encoder_note=config.encoder_note,
        layer=config.layer,
        pooling=config.pooling,
    )
    return {
        "width": config.width,
        "latent_dim": config.latent_dim,
        "k": config.k,
        "encoder": rows.describe(),
        "project": config.project,
        "epochs": config.epochs,
        **dict.fromkeys(_UNKNOWN),
        "final_checkpoint": config.final_checkpoint,
    }
