"""The split that a training recorded, beside the one that is asked for."""

from collections.abc import Mapping
from typing import Any

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.split import similarity_clusters_path

_SHOWN = 12


def record_of_split(similarity_clusters: storage.PathLike | None, seed: int) -> dict[str, Any]:
    """Return the seed and the hash of the table, for manifests and configs."""
    clusters = (
        None
        if similarity_clusters is None
        else storage.sha256_of(similarity_clusters_path(similarity_clusters))
    )
    return {"seed": seed, "similarity_clusters": clusters}


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
    wanted = record_of_split(similarity_clusters, split_seed)
    trained = training.get("split", wanted)
    if trained != wanted:
        raise InputError(
            f"{name} was trained with another split ({_in_words(trained)}; here "
            f"{_in_words(wanted)}), so that held-out proteins may have been trained on; give the "
            "similarity clusters and the split seed of its training, or train it with these"
        )


def _in_words(split: Any) -> str:
    if not isinstance(split, Mapping):
        return "of an unknown kind"
    clusters = split.get("similarity_clusters")
    if clusters is None:
        held_out = "no similarity clusters"
    elif clusters == storage.sha256_of(similarity_clusters_path("bundled")):
        held_out = "the bundled similarity clusters"
    else:
        held_out = f"similarity clusters {str(clusters)[:_SHOWN]}"
    return f"split seed {split.get('seed')}, {held_out}"
