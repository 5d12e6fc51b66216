"""Encoders by name: those of this package, and those that are registered or imported."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from esm_sae import storage
from esm_sae.embedding.backbone import Backbone, require_backbone
from esm_sae.embedding.devices import find_device, resolve_precision
from esm_sae.embedding.encoder import Encoder
from esm_sae.embedding.imported import import_builder, is_imported_name
from esm_sae.errors import InputError

if TYPE_CHECKING:
    import torch

Builder = Callable[[storage.PathLike | None, "torch.device"], Backbone]


class Size(NamedTuple):
    """The size of a transformer."""

    width: int
    heads: int
    blocks: int


def load_encoder(
    name: str,
    *,
    weights: storage.PathLike | None = None,
    device: str | None = None,
    precision: str = "auto",
) -> Encoder:
    """Load an encoder by its name.

    Args:
        name: ``esmc_300m``, ``esmc_600m``, ``esmc_demo`` (bundled weights), one of these with
            ``_untrained`` (seeded random weights, to compare with), one that was registered, or
            ``package.module:function``, which is imported.
        weights: path of a ``.pth`` or ``.safetensors`` file; None takes those that belong to
            the name, from the model hub where they are not part of the package. An encoder of
            somebody's own code may read it as something else.
        device: such as ``"cpu"`` or ``"cuda:0"``; None takes a CUDA device where there is one.
        precision: ``"float32"``, ``"bfloat16"`` (autocast), or ``"auto"``: bfloat16 on a CUDA
            device and float32 elsewhere. bfloat16 on a CPU that does not compute in it is warned
            of: it is slower than float32.

    Raises:
        InputError: unknown name, precision or device; weights that are not to be had, or that
            do not fit the encoder tensor by tensor; code that cannot be imported, or does not
            build a ``Backbone``.
    """
    build = _builder_of(name)
    chosen = find_device(device)
    precision = resolve_precision(precision, chosen)
    backbone = build(weights, chosen)
    require_backbone(backbone, name)
    return Encoder(name, backbone, device=chosen, precision=precision)


def require_encoder(name: str) -> None:
    """Check that there is an encoder of a name, without loading it.

    Raises:
        InputError: there is none; or it is code that cannot be imported.
    """
    _builder_of(name)


def untrained_name(name: str) -> str:
    """Return the name of an encoder's untrained twin: its size, with seeded random weights."""
    return f"{name}_untrained"


def known_size(name: str) -> Size | None:
    """Return the size of an encoder of this package without loading it; None of any other."""
    return _SIZES.get(name)


def register_encoder(name: str, build: Builder) -> None:
    """Make an encoder known by a name.

    Args:
        name: the name; an encoder of that name is replaced.
        build: makes the backbone from the path of its weights (or None) and a device.
    """
    _BUILDERS[name] = build


def encoder_names() -> list[str]:
    """Return the names that ``load_encoder`` knows."""
    return list(_BUILDERS)


def _builder_of(name: str) -> Builder:
    if name in _BUILDERS:
        return _BUILDERS[name]
    if is_imported_name(name):
        return import_builder(name)
    raise InputError(
        f"encoder '{name}': expected one of {', '.join(encoder_names())}, or one of your own as "
        "package.module:function"
    )


def _esmc(
    weights: storage.PathLike | None,
    device: "torch.device",
    *,
    size: Size,
    hub: tuple[Sequence[str], str] | None,
) -> Backbone:
    from esm_sae.embedding.esmc import load_esmc

    return load_esmc(*size, weights=weights, hub=hub, device=device)


def _demo(weights: storage.PathLike | None, device: "torch.device") -> Backbone:
    from esm_sae.data import bundled_encoder

    backbone = _esmc(weights or bundled_encoder(), device, size=_DEMO_SIZE, hub=None)
    backbone.note = "a small demonstration model"
    return backbone


def _from_hub(model: str) -> tuple[list[str], str]:
    publishers = ("EvolutionaryScale", "biohub")
    file = f"data/weights/{model.replace('-', '_')}_2024_12_v0.pth"
    return [f"{publisher}/{model}-2024-12" for publisher in publishers], file


_DEMO_SIZE = Size(width=256, heads=4, blocks=3)
_TRAINED_SIZES = {
    "esmc_300m": Size(width=960, heads=15, blocks=30),
    "esmc_600m": Size(width=1152, heads=18, blocks=36),
    "esmc_demo": _DEMO_SIZE,
}
_UNTRAINED_SIZES = {untrained_name(name): size for name, size in _TRAINED_SIZES.items()}
_SIZES = _TRAINED_SIZES | _UNTRAINED_SIZES

_BUILDERS: dict[str, Builder] = {
    "esmc_300m": functools.partial(_esmc, size=_SIZES["esmc_300m"], hub=_from_hub("esmc-300m")),
    "esmc_600m": functools.partial(_esmc, size=_SIZES["esmc_600m"], hub=_from_hub("esmc-600m")),
    "esmc_demo": _demo,
    **{
        name: functools.partial(_esmc, size=size, hub=None)
        for name, size in _UNTRAINED_SIZES.items()
    },
}
