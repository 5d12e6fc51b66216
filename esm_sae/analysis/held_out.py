"""Whether the proteins that are held out here were held out of the training, too."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import read_manifest
from esm_sae.split import similarity_clusters_path


def require_held_out(
    name: str,
    training: Mapping[str, Any],
    similarity_clusters: storage.PathLike | None,
    split_seed: int,
) -> None:
    """Refuse an SAE that was trained with another split; one that does not tell passes.

    Args:
        name: what an error calls the SAE.
        training: ``SAEConfig.training`` of it.
        similarity_clusters: table of the proteins' similarity clusters, ``"bundled"`` or None.
        split_seed: of the split.

    Raises:
        InputError: the SAE records another split, so that it may have seen the held-out proteins.
    """
    wanted = {
        "seed": split_seed,
        "similarity_clusters": None
        if similarity_clusters is None
        else storage.sha256_of(similarity_clusters_path(similarity_clusters)),
    }
    trained = training.get("split", wanted)
    if trained != wanted:
        raise InputError(
            f"{name} was trained with another split ({trained}, not {wanted}), so that held-out "
            "proteins may have been trained on; give the similarity clusters and the split seed of "
            "its training"
        )


def require_held_out_activations(
    folder: Path, similarity_clusters: storage.PathLike | None, split_seed: int
) -> None:
    """Refuse activations of an SAE that was trained with another split.

    Args:
        folder: by ``compute_activations``; one without a manifest passes.
        similarity_clusters: table of the proteins' similarity clusters, ``"bundled"`` or None.
        split_seed: of the split.

    Raises:
        InputError: as ``require_held_out``.
    """
    manifest = read_manifest(folder) if folder.is_dir() else None
    config = manifest.determinants.get("config", {}) if manifest else {}
    training = config.get("training", {})
    require_held_out(f"{folder}: its SAE", training, similarity_clusters, split_seed)
