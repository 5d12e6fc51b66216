"""A second look at a folder that an SAE is shared as: what those hold that pass."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product
from esm_sae.formats.sae_files import read_sae
from esm_sae.formats.shared_sae import CARD_NAME, read_shared_sae
from esm_sae.formats.verification import AGAIN, made_from, require_files

_WEIGHTS = ("encoder", "decoder", "latent_bias", "pre_bias", "threshold")


class SoundRelease(NamedTuple):
    """What is known of a shared SAE that is the one it was made from.

    Attributes:
        width: D.
        latent_dim: L.
        files: files that the manifest names.
        compared: whether the checkpoint is still that which it was made from, bit for bit; else it
            has been trained again since.
    """

    width: int
    latent_dim: int
    files: int
    compared: bool


def verify_release(shared: Product, checkpoint: storage.PathLike) -> SoundRelease:
    """Check that a shared SAE is whole, can be read, and is the checkpoint bit for bit.

    Args:
        shared: as ``share_sae`` made it.
        checkpoint: what it was made from.

    Raises:
        InputError: it does not pass.
    """
    files = require_files(shared)
    found = read_shared_sae(shared.path)
    if not storage.read_bytes(shared.path / CARD_NAME).startswith(b"---\n"):
        raise InputError(
            f"{shared.path / CARD_NAME}: does not begin with what the hub reads; {AGAIN}"
        )
    original = read_sae(checkpoint)
    is_same = made_from(shared, "weights", storage.sha256_of(original.path))
    if is_same:
        for name in _WEIGHTS:
            if not np.array_equal(_bits(getattr(found, name)), _bits(getattr(original, name))):
                raise InputError(f"{found.path}: {name} is not that of {original.path}; {AGAIN}")
        if found.config != replace(original.config, final_checkpoint=""):
            raise InputError(f"{found.path.parent}: its config is not the checkpoint's; {AGAIN}")
    return SoundRelease(found.config.width, found.config.latent_dim, files, is_same)


def _bits(array: np.ndarray | None) -> np.ndarray:
    return np.empty(0, np.uint32) if array is None else array.view(np.uint32)
