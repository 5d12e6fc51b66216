"""Weights of encoders: from a file or the model hub, hashed, loaded without exceptions."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from esm_sae import storage
from esm_sae.embedding.torch_files import is_dense, read_torch_file
from esm_sae.errors import InputError
from esm_sae.url_secrets import without_secrets

Tensors = Mapping[str, torch.Tensor]


def read_weights(path: storage.PathLike) -> Tensors:
    """Read the tensors of a ``.safetensors`` or ``.pth`` file, by name, on the CPU.

    Nothing but tensors and plain containers is ever unpickled.

    Raises:
        InputError: the file is missing, damaged, or not a mapping of names to tensors; the path
            is a URL of another kind than ``file://``.
    """
    location = storage.local_path(path)
    if location is None:
        raise InputError(
            f"{without_secrets(os.fspath(path))}: is a URL, and weights are read from a local "
            "path; fetch the file and name that with --weights PATH"
        )
    storage.open_binary(location).close()
    if location.suffix == ".safetensors":
        return _read_safetensors(location)
    return _read_pth(location)


def fetch_weights(repositories: Sequence[str], file: str) -> Path:
    """Return the local path of a file of the model hub, fetching it where it is not cached.

    ``HF_ENDPOINT`` names a mirror and ``HF_HOME`` the cache, as everywhere with this hub.

    Args:
        repositories: where the same file is published; they are tried in turn.
        file: its path in the repository.

    Raises:
        InputError: it is not cached and cannot be fetched.
    """
    from huggingface_hub import hf_hub_download

    reasons = []
    for repository in repositories:
        try:
            return Path(hf_hub_download(repository, file))
        except (OSError, ValueError) as error:
            reasons.append(type(error).__name__)
    raise InputError(
        f"{Path(file).name}: not in the model hub's cache here and cannot be fetched "
        f"({', '.join(reasons)}); fetch {file} of {' or '.join(repositories)} from "
        "huggingface.co elsewhere and name it with --weights PATH, or set HF_ENDPOINT to a mirror, "
        "or copy a cache here and set HF_HOME to it"
    )


def hash_of(tensors: Tensors) -> str:
    """Return the sha256 of tensors: of their names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().resolve_neg().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_strictly(module: torch.nn.Module, tensors: Tensors, source: storage.PathLike) -> None:
    """Load tensors into a module, in float32; every one must have its place and its shape.

    The module takes the tensors themselves where they are float32: they are held once.

    Raises:
        InputError: a tensor is missing, superfluous, not dense or not floating-point, of another
            shape, or not finite.
    """
    expected = module.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise _misfit(source, f"lacks the tensor {missing[0]}")
    if superfluous := sorted(tensors.keys() - expected.keys()):
        raise _misfit(source, f"has a tensor {superfluous[0]} that the encoder has not")
    exact = {}
    for name, tensor in tensors.items():
        if not is_dense(tensor):
            kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
            raise _misfit(source, f"has a tensor {name} of no dense floating-point values ({kind})")
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, the encoder's is {tuple(expected[name].shape)}"
            raise _misfit(source, f"has a tensor {name} of shape {shapes}")
        exact[name] = tensor.float().resolve_neg()
        # As float32: a float64 may be beyond its range.
        if not torch.isfinite(exact[name]).all():
            raise _misfit(source, f"has a tensor {name} with values that are not finite")
    module.load_state_dict(exact, strict=True, assign=True)


def _read_safetensors(path: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None


def _read_pth(path: Path) -> Tensors:
    content = read_torch_file(path)
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in content.items()
    ):
        raise InputError(f"{path}: not a mapping of names to tensors, as a state_dict is")
    return content


def _misfit(source: storage.PathLike, what: str) -> InputError:
    return InputError(
        f"{os.fspath(source)}: {what}; are these the weights of the encoder that was asked for?"
    )
