"""Reading an SAE from whatever form its files have."""

from esm_sae import storage
from esm_sae.formats.biohub import is_biohub, read_biohub
from esm_sae.formats.checkpoint import Checkpoint, read_checkpoint


def read_sae(
    path: storage.PathLike, *, k: int | None = None, normalize: bool | None = None
) -> Checkpoint:
    """Read an SAE's weights and what is known of them.

    Args:
        path: a checkpoint file or a training folder, or those of Biohub's SAEs
            (``biohub.read_biohub``).
        k: for files that do not record it.
        normalize: whether rows were z-scored, for files that do not record it.

    Raises:
        InputError: as ``checkpoint.read_checkpoint``.
    """
    if is_biohub(path):
        return read_biohub(path, k=k, normalize=normalize)
    return read_checkpoint(path, k=k, normalize=normalize)
