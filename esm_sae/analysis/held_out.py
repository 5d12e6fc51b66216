"""Whether the proteins that are held out here were held out of the training, too."""

from pathlib import Path

from esm_sae import storage
from esm_sae.formats.manifest import read_manifest
from esm_sae.recorded_split import require_held_out


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
