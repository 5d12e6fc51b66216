"""Records of an SAE that a model card is made from, checked to be of that SAE."""

from pathlib import Path
from typing import Any

from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import CONFIG_NAME, Checkpoint
from esm_sae.formats.manifest import (
    Manifest,
    Product,
    identity_of,
    manifest_beside,
    read_manifest,
)
from esm_sae.formats.verification import product_at, require_files

_SUMMARY = "feature_summary.parquet"


def training_of(shared: Checkpoint) -> Manifest | None:
    """Return the manifest of the training that a checkpoint is the result of; None without one.

    Raises:
        InputError: the manifest does not tell of the weights or the config.
    """
    if shared.path.name != shared.config.final_checkpoint:
        return None
    folder = shared.path.parent
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    # That those it tells of are the ones that are here, ``read_sae`` has checked.
    for name in (shared.path.name, CONFIG_NAME):
        if name not in manifest.files:
            raise InputError(f"{folder / name}: is not what the training wrote; train again")
    return manifest


def metrics_of(folder: Path, shared: Checkpoint) -> Product:
    """Return the folder of ``evaluate_sae``.

    Raises:
        InputError: it is something else, incomplete, or of another SAE or split.
    """
    return _measured(folder, shared, "sae_metrics", "metrics")


def fidelity_of(folder: Path, shared: Checkpoint) -> Product:
    """Return the folder of ``measure_model_fidelity``.

    Raises:
        InputError: likewise.
    """
    return _measured(folder, shared, "model_fidelity", "model fidelity")


def summary_of(folder: Path, shared: Checkpoint) -> dict[str, Any]:
    """Return what the summary of an analysis counts, and of how many proteins it is.

    Raises:
        InputError: the analysis is not finished, or of another SAE.
    """
    activations = read_manifest(folder / "activations")
    summary = read_manifest(manifest_beside(folder / _SUMMARY))
    if activations is None or summary is None:
        raise InputError(f"{folder}: holds no finished analysis (activations and {_SUMMARY})")
    if activations.determinants.get("sae") != shared.fingerprint:
        raise InputError(f"{folder}: an analysis of another checkpoint; analyse this one")
    if summary.determinants.get("activations") != identity_of(folder / "activations"):
        raise InputError(f"{folder}: {_SUMMARY} is of other activations; analyse again")
    labels = summary.summary.get("labels", {})
    kinds = {kind: count for kind, count in labels.items() if kind != "none" and count}
    return {
        **summary.summary,
        "named": sum(kinds.values()),
        "kinds": ", ".join(
            f"{kind} {count}" for kind, count in sorted(kinds.items(), key=lambda one: -one[1])
        ),
        "proteins": activations.summary.get("proteins"),
    }


def _measured(folder: Path, shared: Checkpoint, kind: str, name: str) -> Product:
    product = product_at(folder)
    if product is None or product.manifest.kind != kind:
        raise InputError(f"{folder}: holds no {name} of an SAE; name the folder of {kind}")
    require_files(product)
    determinants = product.manifest.determinants
    if determinants.get("sae") != shared.fingerprint:
        raise InputError(f"{folder}: {name} of another SAE; measure this one")
    split = determinants.get("split")
    if shared.config.training.get("split", split) != split:
        raise InputError(
            f"{folder}: {name} by another split than the training's, on proteins that may have "
            "been trained on; measure with the training's"
        )
    return product
