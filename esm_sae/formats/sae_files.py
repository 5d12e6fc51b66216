"""Reading an SAE from whatever form its files have."""

import contextlib
from pathlib import Path

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.biohub import is_biohub, read_biohub
from esm_sae.formats.checkpoint import CONFIG_NAME, Checkpoint, read_checkpoint
from esm_sae.formats.hub_files import local_copy
from esm_sae.formats.manifest import MANIFEST_NAME, is_recorded, read_manifest
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
            ``hub_files.local_copy``; or a file is not the one that a manifest beside it records.
    """
    path = local_copy(path)
    if is_shared_sae(path):
        return read_shared_sae(path, k=k, normalize=normalize)
    read = read_biohub if is_biohub(path) else read_checkpoint
    checkpoint = read(path, k=k, normalize=normalize)
    _require_recorded(checkpoint.path)
    return checkpoint


def _require_recorded(file: Path) -> None:
    manifest = None
    # One of something else, such as of another tool, records nothing here.
    with contextlib.suppress(InputError):
        manifest = read_manifest(file.parent)
    if manifest is None:
        return
    for path in (file, file.parent / CONFIG_NAME):
        if path.name in manifest.files and not is_recorded(path, manifest):
            raise InputError(
                f"{path}: is not the file that {MANIFEST_NAME} beside it records; bring or make "
                "the folder again"
            )
