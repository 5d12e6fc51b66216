"""Reading an SAE from whatever form its files have."""

from esm_sae import storage
from esm_sae.formats.biohub import is_biohub, read_biohub
from esm_sae.formats.checkpoint import Checkpoint, read_checkpoint
from esm_sae.formats.hub_files import local_copy
from esm_sae.formats.shared_sae import is_shared_sae, read_shared_sae


def read_sae(
    path: storage.PathLike, *, k: int | None = None, normalize: bool | None = None
) -> Checkpoint:
    """Read an SAE's weights and what is known of them.

    Args:
        path: a checkpoint file, a training folder or a shared one, the files of a Biohub SAE
            (``biohub.read_biohub``), or ``hf://org/name`` of one on the model hub, as
            ``hub_files``.
        k: for files that do not record it.
        normalize: whether rows were z-scored, for files that do not record it.

    Raises:
        InputError: as ``checkpoint.read_checkpoint``, ``shared_sae.read_shared_sae`` and
            ``hub_files.local_copy``.
    """
    path = local_copy(path)
    if is_shared_sae(path):
        return read_shared_sae(path, k=k, normalize=normalize)
    if is_biohub(path):
        return read_biohub(path, k=k, normalize=normalize)
    return read_checkpoint(path, k=k, normalize=normalize)
