"""Writing the folder that an SAE is shared as."""

import contextlib
import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import SAE_METRICS
from esm_sae.formats.checkpoint import CONFIG_NAME, Checkpoint
from esm_sae.formats.hub_files import parse_hub_path
from esm_sae.formats.manifest import (
    Manifest,
    Product,
    identity_of,
    manifest_beside,
    produce_folder,
    read_manifest,
)
from esm_sae.formats.sae_files import read_sae
from esm_sae.formats.shared_sae import CARD_NAME, KIND, write_shared_sae
from esm_sae.formats.verification import product_at, require_files
from esm_sae.sharing.card import Known, model_card
from esm_sae.sharing.lineage import trace

_SUMMARY = "feature_summary.parquet"

_ALGORITHM = "1"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def share_sae(
    checkpoint: storage.PathLike,
    output: storage.PathLike,
    *,
    metrics: storage.PathLike | None = None,
    analysis: storage.PathLike | None = None,
    made_from: Sequence[Manifest] = (),
    license: str | None = None,
    repository: str | None = None,
    k: int | None = None,
    normalize: bool | None = None,
) -> Product:
    """Publish an SAE as a folder ready for a model hub: ``formats.shared_sae`` and a model card.

    ``sae.safetensors`` has the weights bit for bit, ``config.json`` what is known of them,
    ``metrics.json`` is that of the metrics where they are given, and ``README.md`` the card. The
    card tells what config, training, metrics and manifests record, and of the rest that it is
    unknown.

    Args:
        checkpoint: as ``formats.sae_files.read_sae``.
        output: the folder to make.
        metrics: folder of ``evaluate_sae`` of this SAE.
        analysis: folder of an analysis of this SAE, with ``activations`` and
            ``feature_summary.parquet``.
        made_from: manifests of the embeddings, of one of their shards, and of the sequences they
            are of, in any order; ``lineage.manifests_at`` reads them.
        license: identifier of the licence, as the hub spells it, such as ``cc-by-4.0``; None
            where none is to be stated.
        repository: ``org/name`` that the card's code loads from.
        k: for a checkpoint that does not record it.
        normalize: likewise.

    Raises:
        InputError: the checkpoint cannot be read, metrics or analysis are of another SAE, or the
            licence or the repository is no identifier.
    """
    if license is not None and not _LICENSE.fullmatch(license):
        raise InputError(
            f"licence '{license}': expected an identifier of the hub, in lower case, such as "
            "apache-2.0 or cc-by-4.0"
        )
    if repository is not None:
        repository = _repository(repository)
    shared = read_sae(checkpoint, k=k, normalize=normalize)
    weights = storage.sha256_of(shared.path)
    trained = _training_of(shared)
    measured = None if metrics is None else _metrics_of(Path(metrics), shared)
    card = model_card(
        Known(
            checkpoint=shared,
            weights_sha256=weights,
            training={} if trained is None else trained.summary,
            metrics=None if measured is None else storage.read_json(measured.path / SAE_METRICS),
            latents=None if analysis is None else _summary_of(Path(analysis), shared.fingerprint),
            lineage=trace(shared.config, made_from),
            license=license,
            repository=repository,
        )
    )

    def build(work: Path) -> dict[str, Any]:
        sha256 = write_shared_sae(work, shared)
        if measured is not None:
            with storage.publish(work / SAE_METRICS) as temporary:
                shutil.copyfile(measured.path / SAE_METRICS, temporary)
        storage.publish_text(work / CARD_NAME, card)
        return _describe(shared, sha256, license)

    return produce_folder(
        output,
        kind=KIND,
        determinants={
            "weights": weights,
            "config": asdict(shared.config),
            "metrics": None if measured is None else measured.manifest.data_version,
            "card": hashlib.sha256(card.encode()).hexdigest(),
            "algorithm": _ALGORITHM,
        },
        build=build,
    )


def _repository(name: str) -> str:
    found = None
    with contextlib.suppress(InputError):
        found = parse_hub_path(f"hf://{name.removeprefix('hf://')}")
    if found is None or found.file or found.revision:
        raise InputError(
            f"repository '{name}': expected ORG/NAME of the hub, without a revision or a file"
        )
    return found.repository


def _training_of(shared: Checkpoint) -> Manifest | None:
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


def _metrics_of(folder: Path, shared: Checkpoint) -> Product:
    product = product_at(folder)
    if product is None or product.manifest.kind != "sae_metrics":
        raise InputError(f"{folder}: holds no metrics of an SAE; name the folder of sae_metrics")
    require_files(product)
    determinants = product.manifest.determinants
    if determinants.get("sae") != shared.fingerprint:
        raise InputError(f"{folder}: metrics of another SAE; evaluate this one")
    measured = determinants.get("split")
    if shared.config.training.get("split", measured) != measured:
        raise InputError(
            f"{folder}: metrics by another split than the training's, on rows that may have been "
            "trained on; evaluate with the training's"
        )
    return product


def _summary_of(folder: Path, fingerprint: str) -> dict[str, Any]:
    """Return what the summary of an analysis counts, and of how many proteins it is."""
    activations = read_manifest(folder / "activations")
    summary = read_manifest(manifest_beside(folder / _SUMMARY))
    if activations is None or summary is None:
        raise InputError(f"{folder}: holds no finished analysis (activations and {_SUMMARY})")
    if activations.determinants.get("sae") != fingerprint:
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


def _describe(shared: Checkpoint, sha256: str, license: str | None) -> dict[str, Any]:
    config = shared.config
    return {
        "width": config.width,
        "latent_dim": config.latent_dim,
        "k": config.k,
        "encoder": config.encoder,
        "license": license or "not stated",
        "weights_sha256": sha256,
    }
