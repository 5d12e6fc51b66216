"""The files of Biohub's SAEs of ESMC (``esmc_sae``): read as a checkpoint, and written from one.

A folder has ``config.json`` and for each layer ``layer_{N}.safetensors`` with ``W_enc`` (D, L),
``W_dec`` (L, D), ``b_dec`` (D,), and ``idf`` and ``max`` (L,), which only scale what is shown. Such
an SAE reads a row x as z = (x - mean) / (deviation + 1e-5), the deviation with ddof 1: the k
largest of ReLU((z - b_dec) @ W_enc) are kept, and ``f @ W_dec + b_dec`` reconstructs z.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import (
    CONFIG_NAME,
    Checkpoint,
    SAEConfig,
    ZScore,
    parse_config,
)
from esm_sae.formats.manifest import Product, produce_folder

MODEL_TYPE = "esmc_sae"

_ALGORITHM = "1"
_Z_SCORE = ZScore(ddof=1, epsilon=1e-5)
_LAYER_FILE = re.compile(r"layer_([0-9]{1,6})\.safetensors")
_OURS = "esm_sae"
_WEIGHTS, _SHOWN = ("W_enc", "W_dec", "b_dec"), ("idf", "max")

_WIDTHS = {"esmc_300m": 960, "esmc_600m": 1152, "esmc_6b": 2560}
# A hyphen: the names of encoders here have an underscore.
_ENCODER_IN_NAME = re.compile(r"(?<![a-z0-9])esmc-(300m|600m|6b)(?![a-z0-9])", re.IGNORECASE)


class _Facts(NamedTuple):
    """What ``config.json`` tells."""

    width: int
    latent_dim: int
    k: int
    layers: tuple[int, ...]
    ours: SAEConfig | None


def is_biohub(path: storage.PathLike) -> bool:
    """Whether a path is a layer's file of a Biohub SAE, or a folder of such."""
    place = Path(path)
    if not place.is_dir():
        return _LAYER_FILE.fullmatch(place.name) is not None
    if _layer_files(place):
        return True
    config = place / CONFIG_NAME
    return config.is_file() and _model_type(storage.read_json(config)) == MODEL_TYPE


def read_biohub(
    path: storage.PathLike, *, k: int | None = None, normalize: bool | None = None
) -> Checkpoint:
    """Read an SAE of Biohub: a layer's file, or its folder where that has one layer's only.

    The encoder is what ``write_biohub`` recorded, else what the folder's name or the width tells.
    Floating-point numbers of any size become float32. ``idf`` and ``max`` are checked for their
    shape where they are there, and not used: no activation depends on them.

    Args:
        path: ``layer_{N}.safetensors`` with ``config.json`` beside it, or the folder.
        k: if given, what the config must have.
        normalize: likewise; the rows of these SAEs are z-scored.

    Raises:
        InputError: a file is missing or damaged, tensors are missing, of no known name, of
            another shape than the config says or not finite, the folder has several layers, the
            SAE reads what a block adds and not states, or its name contradicts its width.
    """
    file = _layer_file(Path(path))
    facts = _read_config(file.parent / CONFIG_NAME)
    layer = _layer_of(file)
    if layer not in facts.layers:
        raise InputError(
            f"{file}: {CONFIG_NAME} has the layers {', '.join(map(str, facts.layers))}, not "
            f"{layer}; bring the config that belongs to it"
        )
    config = _config_of(file, facts, layer)
    if k is not None and k != config.k:
        raise InputError(f"{file}: was trained with k = {config.k}, not {k}; ask for {config.k}")
    if normalize is False:
        raise InputError(f"{file}: was trained with normalize = True")
    arrays = _read_tensors(file, facts)
    return Checkpoint(
        encoder=arrays["W_enc"],
        decoder=arrays["W_dec"],
        latent_bias=np.zeros(facts.latent_dim, dtype=np.float32),
        pre_bias=arrays["b_dec"],
        config=config,
        path=file,
        unknown=("encoder",) if config.encoder == "unknown" else (),
    )


def write_biohub(checkpoint: Checkpoint, output: storage.PathLike) -> Product:
    """Publish an SAE as a folder that Biohub's own code reads, to the same activations.

    What their files have no place for (encoder, hashes, seed, training) is under ``"esm_sae"`` in
    ``config.json``, where ``read_biohub`` finds it. ``idf`` and ``max`` are ones: what is shown is
    then the activation itself.

    Args:
        checkpoint: the SAE.
        output: the folder to make.

    Raises:
        InputError: the SAE is not of their form, so that theirs would compute something else; the
            difference is named.
    """
    config = checkpoint.config
    _require_exact(checkpoint)
    layer = config.layer
    tensors = {
        "W_enc": checkpoint.encoder,
        "W_dec": checkpoint.decoder,
        "b_dec": checkpoint.pre_bias,
        **{name: np.ones(config.latent_dim) for name in _SHOWN},
    }
    theirs = {
        "model_type": MODEL_TYPE,
        "d_model": config.width,
        "codebook_dim": config.latent_dim,
        "k": config.k,
        "available_layers": [layer],
        # The name of our checkpoint's file means nothing there.
        _OURS: asdict(replace(config, final_checkpoint="")),
    }

    def build(folder: Path) -> dict[str, Any]:
        from safetensors.numpy import save

        content = save({name: _float32(array) for name, array in tensors.items()})
        storage.publish_bytes(folder / f"layer_{layer}.safetensors", content)
        storage.publish_json(folder / CONFIG_NAME, theirs)
        return {
            "encoder": config.encoder,
            "layer": layer,
            "width": config.width,
            "latent_dim": config.latent_dim,
            "k": config.k,
            "suggested_name": suggested_name(config),
        }

    return produce_folder(
        output,
        kind="biohub_sae",
        determinants={
            "weights": storage.sha256_of(checkpoint.path),
            "config": asdict(config),
            "algorithm": _ALGORITHM,
        },
        build=build,
    )


def suggested_name(config: SAEConfig) -> str:
    """Return a folder's name as Biohub's are: ``ESMC-300M-sae-layer23-k64-codebook8192``."""
    known = config.encoder in _WIDTHS
    encoder = config.encoder.replace("_", "-").upper() if known else config.encoder
    return f"{encoder}-sae-layer{config.layer}-k{config.k}-codebook{config.latent_dim}"


def _require_exact(checkpoint: Checkpoint) -> None:
    config, file = checkpoint.config, checkpoint.path
    told = f"normalize = {config.normalize}"
    if config.normalize:
        told += f" with ddof {config.normalize_ddof} and epsilon {config.normalize_epsilon:g}"
    for differs, why in (
        (
            config.activation != "topk",
            f"its activation is '{config.activation}', and theirs is TopK",
        ),
        (
            config.z_score != _Z_SCORE,
            f"theirs z-score each row with ddof 1 and epsilon 1e-05, it has {told}; train with "
            "--normalize --normalize_ddof 1",
        ),
        (
            bool(checkpoint.latent_bias.any()),
            "its latents have a bias, and theirs have none; train with --no_latent_bias",
        ),
        (config.layer is None, "its layer is not known, and theirs is in the file's name"),
        (
            config.pooling != "residue",
            f"its rows are '{config.pooling}', and theirs are residues",
        ),
    ):
        if differs:
            raise InputError(f"{file}: cannot be an SAE of Biohub's form: {why}")


def _model_type(content: Any) -> Any:
    return content.get("model_type") if isinstance(content, Mapping) else None


def _layer_files(folder: Path) -> list[Path]:
    files = storage.list_files(folder, "layer_*.safetensors")
    return sorted((file for file in files if _LAYER_FILE.fullmatch(file.name)), key=_layer_of)


def _layer_of(file: Path) -> int:
    named = _LAYER_FILE.fullmatch(file.name)
    assert named is not None, "is_biohub takes no other name"
    return int(named[1])


def _layer_file(path: Path) -> Path:
    if not path.is_dir():
        storage.open_binary(path).close()
        return path
    files = _layer_files(path)
    if not files:
        raise InputError(f"{path}: holds no layer_N.safetensors; download the layer that you want")
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise InputError(f"{path}: holds the SAEs of several layers; name the file: {names}")
    return files[0]


def _read_config(path: Path) -> _Facts:
    content = storage.read_json(path)
    if _model_type(content) != MODEL_TYPE:
        raise InputError(f"{path}: its model_type is not '{MODEL_TYPE}', so not an SAE of Biohub")
    sizes = {name: content.get(name) for name in ("d_model", "codebook_dim", "k")}
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise InputError(f"{path}: {name} is {size!r}, expected a number above 0")
    if sizes["k"] > sizes["codebook_dim"]:
        raise InputError(
            f"{path}: k is {sizes['k']}, expected 1 to codebook_dim = {sizes['codebook_dim']}"
        )
    layers = content.get("available_layers")
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise InputError(f"{path}: available_layers is no list of layers")
    reads_updates = content.get("use_residual_update_instead_of_states")
    # Those published under this name have not the flag.
    if reads_updates or "-sae-mlp-" in _name_of(path.parent).lower():
        raise InputError(
            f"{path}: this SAE reads what a block adds to the states (h[N] - h[N-1]), which no "
            "embeddings here are; take one that reads states"
        )
    ours = None
    if _OURS in content:
        ours = parse_config(content[_OURS])
        theirs = (sizes["d_model"], sizes["codebook_dim"], sizes["k"])
        if ours is None or (ours.width, ours.latent_dim, ours.k) != theirs:
            raise InputError(
                f"{path}: its entry '{_OURS}' is not of this SAE; remove the entry to read the "
                "rest alone"
            )
    return _Facts(sizes["d_model"], sizes["codebook_dim"], sizes["k"], tuple(layers), ours)


def _config_of(file: Path, facts: _Facts, layer: int) -> SAEConfig:
    config = facts.ours or SAEConfig(facts.width, facts.latent_dim, facts.k)
    if facts.ours is not None and facts.ours.layer != layer:
        raise InputError(f"{file}: {CONFIG_NAME} records layer {facts.ours.layer} of it")
    return replace(
        config,
        encoder=_encoder_of(file, facts.width, config.encoder),
        layer=layer,
        pooling="residue",
        activation="topk",
        normalize=True,
        normalize_ddof=_Z_SCORE.ddof,
        normalize_epsilon=_Z_SCORE.epsilon,
        latent_bias=False,
        final_checkpoint="",
    )


def _encoder_of(file: Path, width: int, recorded: str) -> str:
    name = _name_of(file.parent)
    found = _ENCODER_IN_NAME.search(name)
    if found is None:
        by_width = {size: encoder for encoder, size in _WIDTHS.items()}
        return by_width.get(width, "unknown") if recorded == "unknown" else recorded
    named = f"esmc_{found[1].lower()}"
    if _WIDTHS[named] != width:
        raise InputError(
            f"{file}: the folder's name '{name}' tells {named}, whose rows are {_WIDTHS[named]} "
            f"wide, but {CONFIG_NAME} has d_model = {width}; bring the config that belongs to it"
        )
    if recorded not in ("unknown", named):
        raise InputError(
            f"{file}: the folder's name '{name}' tells {named}, but {CONFIG_NAME} records "
            f"{recorded}; name the folder for its encoder"
        )
    return named


def _name_of(folder: Path) -> str:
    """Return a folder's name, or the repository's where it is a snapshot in the hub's cache."""
    # Not resolved: files of the cache are links to blobs, which have no such name.
    place = Path(os.path.abspath(folder))
    return place.parent.parent.name if place.parent.name == "snapshots" else place.name


def _read_tensors(file: Path, facts: _Facts) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    width, latent_dim = facts.width, facts.latent_dim
    shapes = {
        "W_enc": (width, latent_dim),
        "W_dec": (latent_dim, width),
        "b_dec": (width,),
        **dict.fromkeys(_SHOWN, (latent_dim,)),
    }
    try:
        # By torch: NumPy has no bfloat16.
        with safe_open(file, framework="pt") as tensors:
            found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
            _require_shapes(file, found, shapes)
            read = {name: tensors.get_tensor(name) for name in _WEIGHTS}
    except SafetensorError as error:
        raise InputError(f"{file}: not a safetensors file ({error}); download it again") from None
    arrays = {}
    for name, tensor in read.items():
        if not tensor.is_floating_point():
            raise InputError(f"{file}: {name} is of {tensor.dtype}, expected floating-point")
        arrays[name] = _float32(tensor.float().numpy())
        if not np.isfinite(arrays[name]).all():
            raise InputError(f"{file}: {name} holds NaN or infinity; download it again")
    return arrays


def _require_shapes(
    file: Path, found: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    for name in _WEIGHTS:
        if name not in found:
            raise InputError(
                f"{file}: has no tensor {name}; it holds {', '.join(sorted(found)[:6]) or 'none'}"
            )
    if superfluous := sorted(found.keys() - shapes.keys()):
        raise InputError(
            f"{file}: has a tensor {superfluous[0]}, which SAEs of this form have not: it may "
            "compute something else"
        )
    for name, shape in shapes.items():
        if found.get(name, shape) != shape:
            raise InputError(
                f"{file}: {name} has shape {found[name]}, by {CONFIG_NAME} it is {shape}"
            )


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32)
