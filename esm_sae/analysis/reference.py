"""The analysis that other activations are compared with: of which SAE it is, and of what rows."""

from pathlib import Path

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import PROTEINS
from esm_sae.formats.manifest import Manifest, identity_of, manifest_beside, read_manifest
from esm_sae.formats.shards import Provenance


def require_activations_of(fingerprint: str, reference: storage.PathLike) -> None:
    """Check that activations are of an SAE.

    Args:
        fingerprint: of the SAE, as ``Checkpoint.fingerprint``.
        reference: folder of ``compute_activations``.

    Raises:
        InputError: they are of another SAE, or are no activations.
    """
    found = sae_of(reference)
    if found != fingerprint:
        raise InputError(
            f"{reference}: activations of another checkpoint ({found[:12]}) than the one in "
            f"use ({fingerprint[:12]}); give the analysis of this checkpoint"
        )


def require_rows_like(rows: Provenance, reference: storage.PathLike) -> None:
    """Check that rows are of the kind that was analysed: what differs has other activations.

    Pooling is always compared, where nothing records it as a mean; encoder, its weights and layer
    where both sides know them.

    Args:
        rows: what the rows are.
        reference: folder of ``compute_activations``.

    Raises:
        InputError: they differ; both values are named.
    """
    analysed = rows_of(reference)
    compared = {
        "pooling": (rows.pooling.replace("unknown", "mean"), analysed.pooling),
        "encoder": (rows.encoder, analysed.encoder),
        "encoder weights": (rows.weights_sha256, analysed.weights_sha256),
        "layer": (rows.layer, analysed.layer),
    }
    for name, (own, other) in compared.items():
        if own != other and not {own, other} & {"unknown", None}:
            raise InputError(
                f"{reference}: the rows analysed and those of your proteins differ in {name} "
                f"({other} and {own}); give an analysis of such rows, or embed as it did"
            )


def require_made_from(product: storage.PathLike, reference: storage.PathLike) -> None:
    """Check that a summary or the scores of concepts were made from the activations given.

    One without a manifest, or whose manifest names no activations, passes.

    Args:
        product: table or folder.
        reference: folder of ``compute_activations``.

    Raises:
        InputError: it was made from others, such as another SAE's.
    """
    path = Path(product)
    manifest = read_manifest(path if path.is_dir() else manifest_beside(path))
    made_from = manifest.determinants.get("activations") if manifest else None
    if made_from is not None and made_from != identity_of(reference):
        raise InputError(
            f"{path}: was made from other activations than {reference}; give both of one analysis"
        )


def rows_of(activations: storage.PathLike) -> Provenance:
    """Return what rows activations are of, as far as the folder tells.

    Raises:
        InputError: they are no activations.
    """
    config = _manifest_of(Path(activations)).determinants["config"]
    # An SAE that does not know its pooling encodes any rows: only residues have positions.
    positions = pl.scan_parquet(Path(activations) / PROTEINS).select("position").head(1).collect()
    if positions["position"].is_not_null().any():
        pooling = "residue"
    else:
        pooling = config["pooling"].replace("unknown", "mean")
    return Provenance(
        encoder=config["encoder"],
        weights_sha256=config["weights_sha256"],
        layer=config["layer"],
        pooling=pooling,
    )


def sae_of(activations: storage.PathLike) -> str:
    """Return the fingerprint of the SAE that activations are of.

    Raises:
        InputError: they are no activations.
    """
    return str(_manifest_of(Path(activations)).determinants["sae"])


def _manifest_of(folder: Path) -> Manifest:
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is None or not {"sae", "config"} <= manifest.determinants.keys():
        raise InputError(f"{folder}: no folder of activations; run the analysis first")
    return manifest
