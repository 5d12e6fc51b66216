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
from esm_sae.formats.analysis_tables import MODEL_FIDELITY, SAE_METRICS
from esm_sae.formats.checkpoint import Checkpoint
from esm_sae.formats.hub_files import parse_hub_path
from esm_sae.formats.manifest import Manifest, Product, produce_folder
from esm_sae.formats.sae_files import read_sae
from esm_sae.formats.shared_sae import CARD_NAME, KIND, write_shared_sae
from esm_sae.sharing.card import Known, model_card
from esm_sae.sharing.lineage import trace
from esm_sae.sharing.records import fidelity_of, metrics_of, summary_of, training_of

_ALGORITHM = "2"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def share_sae(
    checkpoint: storage.PathLike,
    output: storage.PathLike,
    *,
    metrics: storage.PathLike | None = None,
    fidelity: storage.PathLike | None = None,
    analysis: storage.PathLike | None = None,
    made_from: Sequence[Manifest] = (),
    license: str | None = None,
    repository: str | None = None,
    k: int | None = None,
    normalize: bool | None = None,
) -> Product:
    """Publish an SAE as a folder ready for a model hub: ``formats.shared_sae`` and a model card.

    ``sae.safetensors`` has the weights bit for bit, ``config.json`` what is known of them,
    ``metrics.json`` and ``model_fidelity.json`` are those of what was measured where it is given,
    and ``README.md`` the card. The card tells what config, training, measurements and manifests
    record, and of the rest that it is unknown.

    Args:
        checkpoint: as ``formats.sae_files.read_sae``.
        output: the folder to make.
        metrics: folder of ``evaluate_sae`` of this SAE.
        fidelity: folder of ``measure_model_fidelity`` of this SAE.
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
        InputError: the checkpoint cannot be read, what was measured or analysed is of another
            SAE or by another split, or the licence or the repository is no identifier.
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
    trained = training_of(shared)
    measured = {}
    if metrics is not None:
        measured[SAE_METRICS] = metrics_of(Path(metrics), shared)
    if fidelity is not None:
        measured[MODEL_FIDELITY] = fidelity_of(Path(fidelity), shared)
    figures = {name: storage.read_json(product.path / name) for name, product in measured.items()}
    card = model_card(
        Known(
            checkpoint=shared,
            weights_sha256=weights,
            training={} if trained is None else trained.summary,
            metrics=figures.get(SAE_METRICS),
            fidelity=figures.get(MODEL_FIDELITY),
            latents=None if analysis is None else summary_of(Path(analysis), shared),
            lineage=trace(shared.config, made_from),
            license=license,
            repository=repository,
        )
    )

    def build(work: Path) -> dict[str, Any]:
        sha256 = write_shared_sae(work, shared)
        for name, product in measured.items():
            with storage.publish(work / name) as temporary:
                shutil.copyfile(product.path / name, temporary)
        storage.publish_text(work / CARD_NAME, card)
        return _describe(shared, sha256, license)

    return produce_folder(
        output,
        kind=KIND,
        determinants={
            "weights": weights,
            "config": asdict(shared.config),
            "measured": {name: each.manifest.data_version for name, each in measured.items()},
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
