"""An SAE as people share it: a folder of safetensors and JSON, as model hubs keep them.

``sae.safetensors`` holds the weights by the names of a checkpoint, ``config.json`` what is known
of them and the sha256 of the weights; ``README.md`` is the model card. Nothing is pickled.
"""

import hashlib
import math
import typing
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import CONFIG_NAME, Checkpoint, SAEConfig, checkpoint_from
from esm_sae.formats.manifest import MANIFEST_NAME, read_manifest

KIND = "sae_release"
MODEL_TYPE = "esm_sae"
FORMAT_VERSION = 1
WEIGHTS_NAME = "sae.safetensors"
CARD_NAME = "README.md"
# All that reading takes.
READ_FILES = (CONFIG_NAME, WEIGHTS_NAME, MANIFEST_NAME)

_ABOUT_FORMAT = ("model_type", "format_version", "sae_sha256")
_AGAIN = "share it again, or fetch the whole folder again"


def is_shared_sae(path: storage.PathLike) -> bool:
    """Whether a path is a folder that ``write_shared_sae`` made, or its weights file."""
    folder = _folder_of(Path(path))
    if (folder / WEIGHTS_NAME).is_file():
        return True
    # A folder that has lost its weights is to be named as such.
    return model_type_of(folder) == MODEL_TYPE


def model_type_of(folder: Path) -> str | None:
    """Return the ``model_type`` of a folder's config; None where there is none."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        return None
    try:
        content = storage.read_json(path)
    except InputError:
        return None
    found = content.get("model_type") if isinstance(content, dict) else None
    return found if isinstance(found, str) else None


def read_shared_sae(
    path: storage.PathLike, *, k: int | None = None, normalize: bool | None = None
) -> Checkpoint:
    """Read a folder that ``write_shared_sae`` made and whose manifest is written.

    Config and weights must have the hashes that are recorded of them. The card is free to be
    edited.

    Args:
        path: the folder, or the weights file in it.
        k: as in ``checkpoint.read_checkpoint``.
        normalize: likewise.

    Raises:
        InputError: a file is missing or is not the one that was shared, the format is of another
            version, or config and weights do not fit one another.
    """
    folder = _folder_of(Path(path))
    manifest = read_manifest(folder)
    missing = [name for name in READ_FILES if not (folder / name).is_file()]
    if manifest is None or missing:
        raise InputError(f"{folder}: incomplete, it has no {missing[0]}; {_AGAIN}")
    recorded = manifest.files.get(CONFIG_NAME, {}).get("sha256")
    # Read once: what is hashed is what is used.
    content = storage.read_bytes(folder / CONFIG_NAME)
    _require_hash(folder / CONFIG_NAME, content, recorded, MANIFEST_NAME)
    config, sha256 = _parse_config(content, folder / CONFIG_NAME)
    weights = storage.read_bytes(folder / WEIGHTS_NAME)
    _require_hash(folder / WEIGHTS_NAME, weights, sha256, CONFIG_NAME)
    tensors = _tensors(weights, folder / WEIGHTS_NAME)
    return checkpoint_from(tensors, config, folder / WEIGHTS_NAME, k=k, normalize=normalize)


def write_shared_sae(folder: Path, checkpoint: Checkpoint) -> str:
    """Write the weights and the config of an SAE into a folder; return the sha256 of the weights.

    The tensors are float32: ``enc/kernel`` (D, L), ``dec/kernel`` (L, D), ``lb_L`` (L,), ``pb_D``
    (D,), and with thresholds ``threshold_L`` (L,).
    """
    from safetensors.numpy import save

    tensors = {
        "enc/kernel": checkpoint.encoder,
        "dec/kernel": checkpoint.decoder,
        "lb_L": checkpoint.latent_bias,
        "pb_D": checkpoint.pre_bias,
    }
    if checkpoint.threshold is not None:
        tensors["threshold_L"] = checkpoint.threshold
    weights = save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
    sha256 = hashlib.sha256(weights).hexdigest()
    storage.publish_bytes(folder / WEIGHTS_NAME, weights)
    # The files of a training are not there.
    config = asdict(replace(checkpoint.config, final_checkpoint=""))
    about = dict(zip(_ABOUT_FORMAT, (MODEL_TYPE, FORMAT_VERSION, sha256), strict=True))
    storage.publish_json(folder / CONFIG_NAME, about | config)
    return sha256


def _folder_of(path: Path) -> Path:
    return path.parent if path.name == WEIGHTS_NAME else path


def _require_hash(path: Path, content: bytes, recorded: object, by: str) -> None:
    if hashlib.sha256(content).hexdigest() != recorded:
        raise InputError(
            f"{path}: is not the file that was shared (its sha256 is not that in {by}); {_AGAIN}"
        )


def _parse_config(text: bytes, path: Path) -> tuple[SAEConfig, str]:
    """Return the config, and the sha256 that the weights must have."""
    content = storage.parse_json(text, path)
    if not isinstance(content, dict) or content.get("model_type") != MODEL_TYPE:
        raise InputError(
            f"{path}: not the config of a shared SAE, its model_type is not {MODEL_TYPE}; {_AGAIN}"
        )
    version = content.get("format_version")
    if version != FORMAT_VERSION or type(version) is not int:
        raise InputError(
            f"{path}: is of format version {version!r}, this release reads {FORMAT_VERSION}; "
            "update esm-sae"
        )
    known = typing.get_type_hints(SAEConfig)
    required = {field.name for field in fields(SAEConfig)} & {"width", "latent_dim", "k"}
    if unknown := sorted(content.keys() - known.keys() - set(_ABOUT_FORMAT)):
        raise InputError(f"{path}: has an entry '{unknown[0]}' that is not known; update esm-sae")
    if missing := sorted((required | {"sae_sha256"}) - content.keys()):
        raise InputError(f"{path}: has no {missing[0]}; {_AGAIN}")
    values = {name: value for name, value in content.items() if name in known}
    for name, value in values.items():
        if not _is_of(value, known[name]):
            raise InputError(f"{path}: its {name} is {_shortened(value)}; {_AGAIN}")
    config = SAEConfig(**values)
    if not 0 <= config.normalize_ddof < config.width or config.normalize_epsilon < 0:
        raise InputError(
            f"{path}: its normalize_ddof of {config.normalize_ddof} and normalize_epsilon of "
            f"{config.normalize_epsilon:g} cannot z-score a row of width {config.width}; {_AGAIN}"
        )
    return config, str(content["sae_sha256"])


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value from JSON is of an annotated type of ``SAEConfig``."""
    if isinstance(kind, UnionType):
        return any(_is_of(value, each) for each in typing.get_args(kind))
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    origin = typing.get_origin(kind)
    if origin is dict:
        _, of_values = typing.get_args(kind)
        return isinstance(value, dict) and (
            of_values is Any or all(_is_of(each, of_values) for each in value.values())
        )
    return type(value) is kind


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _tensors(content: bytes, path: Path) -> Mapping[str, np.ndarray]:
    from safetensors import SafetensorError, deserialize

    try:
        found = dict(deserialize(content))
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error}); {_AGAIN}") from None
    tensors = {}
    for name, tensor in found.items():
        if tensor["dtype"] != "F32":
            raise InputError(f"{path}: {name} is {tensor['dtype']}, expected F32; {_AGAIN}")
        values = np.frombuffer(tensor["data"], dtype="<f4").reshape(tensor["shape"])
        tensors[name] = values.astype(np.float32, copy=False)
    return tensors
