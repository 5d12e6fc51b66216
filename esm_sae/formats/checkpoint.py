"""SAE checkpoints: a NumPy-saved dictionary of weights and what is known of them."""

import functools
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.npy_dict import load_npy_dict
from esm_sae.formats.shards import Provenance

CONFIG_NAME = "config.json"
ACTIVATIONS = ("topk", "batchtopk", "jumprelu")

# Among the determinants of a folder whose SAE was trained elsewhere: the hash of its weights.
IMPORTED = "imported"

_SIZES = ("width", "latent_dim", "k")
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("encoder", "encoder_note", "weights_sha256", "pooling", "project"), str),
    **dict.fromkeys(("data_fingerprint", "activation", "final_checkpoint"), str),
    **dict.fromkeys(("normalize", "tied", "latent_bias"), bool),
    **dict.fromkeys(("layer", "seed", "epochs"), int | None),
    **dict.fromkeys(("training", "versions"), dict),
    "normalize_ddof": int,
    "normalize_epsilon": int | float,
    "fvu": int | float | None,
}

_K_IN_FOLDER = re.compile(r"(?:^|_)k(\d+)(?:_|$)")
_EPOCH = re.compile(r"^checkpoint_epoch_(\d+)\.npy$")


class ZScore(NamedTuple):
    """How a row is z-scored: ``(x - mean) / (deviation + epsilon)`` over its D numbers.

    Attributes:
        ddof: the squares' sum is divided by D less this.
        epsilon: what is added to the deviation.
    """

    ddof: int = 0
    epsilon: float = 1e-5


@dataclass(frozen=True)
class SAEConfig:
    """What a checkpoint is.

    Attributes:
        width: D, the width of an embedding row.
        latent_dim: L, the number of latents.
        k: largest number of latents that fire on a row.
        normalize: whether a row is z-scored before it is encoded, and its reconstruction
            scaled back.
        normalize_ddof: of that, as in ``ZScore``.
        normalize_epsilon: likewise.
        tied: whether the decoder is the encoder transposed.
        latent_bias: whether ``lb_L`` was trained.
        activation: ``topk``: the k largest pre-activations fire, where above 0. ``batchtopk`` and
            ``jumprelu``: those above the latent's threshold do, k of them in the mean.
        project: name of the group of runs.
        encoder: name of the encoder whose embeddings the SAE was trained on.
        encoder_note: what a reader must know of the encoder, such as 'untrained'.
        weights_sha256: hash of that encoder's weights.
        layer: canonical layer number of those embeddings.
        pooling: ``mean`` or ``residue`` rows.
        data_fingerprint: hash of the training embeddings.
        seed: seed of the training.
        epochs: number of epochs trained.
        fvu: FVU at the end of the training, on validation rows where there were any.
        final_checkpoint: file name of the checkpoint after the last epoch.
        training: the other training options.
        versions: versions of the libraries that trained it.
    """

    width: int
    latent_dim: int
    k: int
    normalize: bool = False
    normalize_ddof: int = 0
    normalize_epsilon: float = 1e-5
    tied: bool = False
    latent_bias: bool = True
    activation: str = "topk"
    project: str = ""
    encoder: str = "unknown"
    encoder_note: str = ""
    weights_sha256: str = "unknown"
    layer: int | None = None
    pooling: str = "unknown"
    data_fingerprint: str = "unknown"
    seed: int | None = None
    epochs: int | None = None
    fvu: float | None = None
    final_checkpoint: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def z_score(self) -> ZScore | None:
        """How a row is z-scored before it is encoded; None where it is not."""
        return ZScore(self.normalize_ddof, self.normalize_epsilon) if self.normalize else None


@dataclass(frozen=True)
class Checkpoint:
    """The weights of an SAE, float32, for raw embedding rows.

    Attributes:
        encoder: (D, L).
        decoder: (L, D).
        latent_bias: ``lb_L``, (L,).
        pre_bias: ``pb_D``, (D,).
        config: what is known of the weights.
        path: the file they were read from.
        unknown: what the file did not tell and was assumed.
        threshold: (L,), what a pre-activation must exceed to fire; None where the k largest do.
    """

    encoder: np.ndarray
    decoder: np.ndarray
    latent_bias: np.ndarray
    pre_bias: np.ndarray
    config: SAEConfig
    path: Path
    unknown: tuple[str, ...] = ()
    threshold: np.ndarray | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of what decides an encoding: weights, k and z-score; the same in every file form."""
        digest = hashlib.sha256()
        k = self.config.k if self.threshold is None else None
        digest.update(repr((k, self.config.z_score)).encode())
        weights = (self.encoder, self.decoder, self.latent_bias, self.pre_bias, self.threshold)
        for array in weights:
            if array is not None:
                digest.update(repr(array.shape).encode())
                digest.update(np.ascontiguousarray(array, "<f4").data)
        return digest.hexdigest()


def read_checkpoint(
    path: storage.PathLike, *, k: int | None = None, normalize: bool | None = None
) -> Checkpoint:
    """Read a checkpoint file, or the final checkpoint of a training folder.

    k and ``normalize`` come from ``config.json`` beside the file, else from a ``config`` entry
    inside it, else from the arguments; k at last from the folder's name (``L3840_k16``).

    Raises:
        InputError: there is no such file, it holds anything but arrays, shapes do not fit one
            another, an argument contradicts what is recorded, or nothing tells k.
    """
    file = _final_checkpoint(Path(path))
    content = load_npy_dict(file)
    arrays = _arrays(content, file)
    width, latent_dim = arrays["encoder"].shape
    config, unknown = _config_of(file, content, (width, latent_dim), k, normalize)
    return _checkpoint(arrays, config, file, k, normalize, unknown)


def checkpoint_from(
    content: Mapping[str, Any],
    config: SAEConfig,
    file: Path,
    *,
    k: int | None = None,
    normalize: bool | None = None,
) -> Checkpoint:
    """Return the checkpoint that weights and their config are.

    Args:
        content: the weights by the names of ``write_checkpoint``, nested or joined by ``/``.
        config: what is known of them.
        file: where they were read from.
        k: as in ``read_checkpoint``.
        normalize: likewise.

    Raises:
        InputError: as ``read_checkpoint``.
    """
    return _checkpoint(_arrays(content, file), config, file, k, normalize)


def write_checkpoint(
    path: storage.PathLike,
    *,
    encoder: np.ndarray,
    decoder: np.ndarray,
    latent_bias: np.ndarray,
    pre_bias: np.ndarray,
    threshold: np.ndarray | None = None,
    config: SAEConfig | None = None,
) -> None:
    """Publish weights in the original's layout: nested ``enc``, ``dec``, ``lb_L``, ``pb_D``.

    Shapes are (D, L), (L, D), (L,) and (D,); all are stored as C-order float32. Thresholds, (L,),
    are an entry of their own, which the original does not have. With a config, an entry of that
    name tells what the weights cannot, so that the file can stand alone.
    """
    content: dict[str, Any] = {
        "enc": {"kernel": _float32(encoder)},
        "dec": {"kernel": _float32(decoder)},
        "lb_L": _float32(latent_bias),
        "pb_D": _float32(pre_bias),
    }
    if threshold is not None:
        content["threshold_L"] = _float32(threshold)
    if config is not None:
        content["config"] = {
            "topk": config.k,
            "activation": config.activation,
            "tied": config.tied,
            "normalize": config.normalize,
            "normalize_ddof": config.normalize_ddof,
            "normalize_epsilon": config.normalize_epsilon,
            "fvu": config.fvu,
            "project": config.project,
        }
    with storage.publish(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)


def write_config(folder: Path, config: SAEConfig) -> None:
    """Publish ``config.json`` in a training folder."""
    storage.publish_json(folder / CONFIG_NAME, asdict(config))


def read_config(folder: Path) -> SAEConfig | None:
    """Read ``config.json`` of a training folder; None where there is none.

    Raises:
        InputError: the file is there but is not such a config.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        return None
    config = parse_config(storage.read_json(path))
    if config is None:
        raise InputError(f"{path}: not the config of a training; remove it to use the file alone")
    return config


def parse_config(content: Any) -> SAEConfig | None:
    """Return the config that JSON holds, as ``write_config`` writes it; None where it is none."""
    if (
        not isinstance(content, dict)
        or not set(content) <= {entry.name for entry in fields(SAEConfig)}
        or not all(type(content.get(size)) is int for size in _SIZES)
        or not all(isinstance(content[name], _TYPES[name]) for name in _TYPES.keys() & content)
        or "/" in content.get("final_checkpoint", "")
    ):
        return None
    return SAEConfig(**content)


def require_same_embeddings(
    config: SAEConfig, provenance: Provenance, width: int, where: storage.PathLike
) -> None:
    """Refuse rows of another kind than those an SAE was trained on.

    What either side does not know is not compared.

    Args:
        config: of the SAE.
        provenance: of the rows that it shall encode.
        width: of these rows.
        where: their file or folder, named in the error.

    Raises:
        InputError: width, encoder, weights, layer or pooling differ; both values are named.
    """
    if width != config.width:
        raise InputError(
            f"{where}: its rows are {width} wide, the checkpoint reads rows {config.width} wide; "
            "use the embeddings the SAE was trained on"
        )
    compared = {
        "encoder": (provenance.encoder, config.encoder),
        "encoder weights": (provenance.weights_sha256, config.weights_sha256),
        "layer": (provenance.layer, config.layer),
        "pooling": (provenance.pooling, config.pooling),
    }
    for name, (of_rows, of_sae) in compared.items():
        if of_rows != of_sae and not {of_rows, of_sae} & {"unknown", None}:
            raise InputError(
                f"{where}: its rows and the checkpoint's training rows differ in {name} "
                f"({of_rows} and {of_sae}); use the embeddings the SAE was trained on"
            )


def checkpoint_name(epoch: int) -> str:
    """Return the file name of the checkpoint after an epoch."""
    return f"checkpoint_epoch_{epoch}.npy"


def _final_checkpoint(path: Path) -> Path:
    if not path.is_dir():
        return path
    config = read_config(path)
    if config is not None and config.final_checkpoint:
        return path / config.final_checkpoint
    epochs = [file for file in storage.list_files(path, "*.npy") if _EPOCH.match(file.name)]
    if len(epochs) == 1:
        return epochs[0]
    if not epochs:
        raise InputError(f"{path}: holds no checkpoint_epoch_N.npy")
    raise InputError(
        f"{path}: holds {len(epochs)} checkpoints and no {CONFIG_NAME} that names the final one; "
        "name the file"
    )


def _checkpoint(
    arrays: Mapping[str, Any],
    config: SAEConfig,
    file: Path,
    k: int | None,
    normalize: bool | None,
    unknown: Sequence[str] = (),
) -> Checkpoint:
    width, latent_dim = arrays["encoder"].shape
    if (config.width, config.latent_dim) != (width, latent_dim):
        raise InputError(
            f"{file}: weights are for D={width}, L={latent_dim}, but {CONFIG_NAME} records "
            f"D={config.width}, L={config.latent_dim}; they are not of one training"
        )
    _require_agreement(file, config, k, normalize)
    _require_threshold(file, config, arrays["threshold"])
    return Checkpoint(**arrays, config=config, path=file, unknown=tuple(unknown))


def _arrays(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    weights = {name.removeprefix("params/"): value for name, value in _flatten(content).items()}
    encoder = _weight(weights, "enc/kernel", file)
    if encoder.ndim != 2:
        raise InputError(f"{file}: enc/kernel has shape {encoder.shape}, expected (D, L)")
    width, latent_dim = encoder.shape
    arrays: dict[str, Any] = {
        "encoder": encoder,
        # A tied checkpoint keeps no decoder: it is the encoder transposed.
        "decoder": _weight(weights, "dec/kernel", file)
        if "dec/kernel" in weights
        else np.ascontiguousarray(encoder.T),
        "latent_bias": _weight(weights, "lb_L", file),
        "pre_bias": _weight(weights, "pb_D", file),
        "threshold": _weight(weights, "threshold_L", file) if "threshold_L" in weights else None,
    }
    expected = {
        "encoder": (width, latent_dim),
        "decoder": (latent_dim, width),
        "latent_bias": (latent_dim,),
        "pre_bias": (width,),
        "threshold": (latent_dim,),
    }
    for name, array in arrays.items():
        if array is None:
            continue
        if array.shape != expected[name]:
            raise InputError(
                f"{file}: {name} has shape {array.shape}, expected {expected[name]} beside an "
                f"encoder of shape {encoder.shape}"
            )
        if not np.isfinite(array).all():
            raise InputError(f"{file}: {name} holds NaN or infinity; train again")
    return arrays


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _weight(weights: Mapping[str, Any], name: str, file: Path) -> np.ndarray:
    if name not in weights:
        known = ", ".join(sorted(weights)[:6])
        raise InputError(f"{file}: has no {name}; it holds {known or 'nothing'}")
    try:
        return _float32(weights[name])
    except (TypeError, ValueError):
        raise InputError(f"{file}: {name} is not an array of numbers") from None


def _config_of(
    file: Path,
    content: Mapping[str, Any],
    shape: tuple[int, int],
    k: int | None,
    normalize: bool | None,
) -> tuple[SAEConfig, list[str]]:
    """Return what is known of the weights, of shape (D, L), and what nothing tells."""
    beside = read_config(file.parent)
    if beside is not None:
        return beside, []
    entry = content.get("config")
    inside = entry if isinstance(entry, Mapping) else {}
    unknown = ["encoder, layer and pooling"]
    if "normalize" in inside:
        normalize = _flag_of(file, inside, "normalize")
    elif normalize is None:
        unknown.append("whether rows are normalised (assumed not)")
    config = SAEConfig(
        *shape,
        k=_k_of(file, inside, k),
        normalize=bool(normalize),
        normalize_ddof=int(_number_of(file, inside, "normalize_ddof", 0)),
        normalize_epsilon=_number_of(file, inside, "normalize_epsilon", 1e-5),
        tied="tied" in inside and _flag_of(file, inside, "tied"),
        activation=str(inside.get("activation", "topk")),
        fvu=None if inside.get("fvu") is None else _number_of(file, inside, "fvu", 0),
    )
    return config, unknown


def _flag_of(file: Path, inside: Mapping[str, Any], name: str) -> bool:
    try:
        return bool(inside[name])
    except ValueError:
        raise InputError(
            f"{file}: its config has a {name} that is neither true nor false"
        ) from None


def _number_of(file: Path, inside: Mapping[str, Any], name: str, default: float) -> float:
    try:
        number = float(cast(Any, inside.get(name, default)))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{file}: its config has a {name} that is no number")
    return number


def _k_of(file: Path, inside: Mapping[str, Any], k: int | None) -> int:
    if "topk" in inside:
        try:
            return int(cast(Any, inside["topk"]))
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"{file}: its config has topk = {inside['topk']}, not a number"
            ) from None
    if k is not None:
        return k
    named = _K_IN_FOLDER.search(file.resolve().parent.name)
    if named is None:
        raise InputError(
            f"{file}: nothing tells k (no {CONFIG_NAME}, no config entry, no k in the folder's "
            "name); give it with --topk"
        )
    return int(named[1])


def _require_agreement(
    file: Path, config: SAEConfig, k: int | None, normalize: bool | None
) -> None:
    if config.activation not in ACTIVATIONS:
        raise InputError(
            f"{file}: its activation is '{config.activation}'; known are {', '.join(ACTIVATIONS)}"
        )
    if not 1 <= config.k <= config.latent_dim:
        raise InputError(f"{file}: k is {config.k}, expected 1 to L = {config.latent_dim}")
    if k is not None and k != config.k:
        raise InputError(f"{file}: was trained with k = {config.k}, not {k}; ask for {config.k}")
    if normalize is not None and normalize != config.normalize:
        raise InputError(f"{file}: was trained with normalize = {config.normalize}")


def _require_threshold(file: Path, config: SAEConfig, threshold: np.ndarray | None) -> None:
    if (threshold is None) != (config.activation == "topk"):
        held = "no threshold_L" if threshold is None else "a threshold_L"
        raise InputError(
            f"{file}: its activation is '{config.activation}', but it holds {held}; weights and "
            f"{CONFIG_NAME} are not of one training"
        )
    if threshold is not None and threshold.min() < 0:
        raise InputError(f"{file}: threshold_L holds numbers below 0; train again")


def _float32(array: Any) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(array), dtype=np.float32)
