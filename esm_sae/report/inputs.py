"""The folders of an analysis that a report is made of, checked to belong together."""

from collections.abc import Mapping
from pathlib import Path

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import MANIFEST_NAME, Manifest, identity_of, read_manifest

_KINDS = {
    "activations": "feature_activations",
    "taxonomy": "feature_taxonomy",
    "concepts": "feature_concepts",
    "clusters": "feature_clusters",
    "metrics": "sae_metrics",
    "fidelity": "model_fidelity",
    "matches": "latent_matches",
}


def read_manifests(given: Mapping[str, storage.PathLike | None]) -> dict[str, Manifest]:
    """Return the manifests of the folders that are given, by name.

    Args:
        given: activations, taxonomy, concepts, clusters, metrics, fidelity and matches; None where
            a folder is not to be shown.

    Raises:
        InputError: a folder is incomplete or something else than its name says, or its tables are
            not of the SAE of the activations.
    """
    manifests = {
        name: _manifest_of(Path(folder), _KINDS[name])
        for name, folder in given.items()
        if folder is not None
    }
    activations = identity_of(str(given["activations"]))
    sae = manifests["activations"].determinants.get("sae")
    wanted = {
        "taxonomy": ("sae", sae),
        "fidelity": ("sae", sae),
        "concepts": ("activations", activations),
        "clusters": ("activations", activations),
    }
    for name, (key, value) in wanted.items():
        if name in manifests and manifests[name].determinants.get(key) != value:
            raise InputError(
                f"{given[name]}: made from another SAE or other activations than "
                f"{given['activations']}; make it again"
            )
    return manifests


def _manifest_of(folder: Path, kind: str) -> Manifest:
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder}: incomplete, it has no {MANIFEST_NAME}; make it again")
    if manifest.kind != kind:
        raise InputError(f"{folder}: holds {manifest.kind}, not {kind}; give the right folder")
    return manifest
