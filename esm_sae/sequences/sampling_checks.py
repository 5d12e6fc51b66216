"""What is refused before a sample is drawn."""

import glob
from pathlib import Path

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import manifest_beside, read_manifest
from esm_sae.formats.sequence_index import index_path


def require_usable(source: storage.PathLike, target: Path, n: int, seed: int) -> None:
    """Refuse arguments that make no sample, or one in the place of something else.

    Raises:
        InputError: a number is out of range, or the sample or its index would replace the source
            or another sample's index.
    """
    if n < 1:
        raise InputError(f"{target}: cannot draw {n} records; give n of at least 1")
    if seed < 0:
        raise InputError(f"{target}: seed {seed} is negative; give one from 0 on")
    storage.require_writable_file(target)
    if target.suffix.lower() in (".gz", ".zst"):
        raise InputError(
            f"{target}: a sample is plain text, so that records are found by seeking; give a "
            f"name without {target.suffix}"
        )
    local = storage.local_path(source)
    if local is not None and local.is_dir():
        raise InputError(f"{local}: is a directory, expected a FASTA file")
    for path in (target, index_path(target), manifest_beside(target)):
        if local is not None and local.exists() and path.exists() and path.samefile(local):
            raise InputError(f"{path}: is the source itself; give the sample another name")
    _require_own_index(target)


def require_as_recorded(source: storage.PathLike, sha256: str) -> None:
    """Refuse a source that is not what the manifest beside it says, such as half a sample.

    Args:
        source: path or URL.
        sha256: of its content.

    Raises:
        InputError: the manifest records another content.
    """
    local = storage.local_path(source)
    manifest = None if local is None else read_manifest(manifest_beside(local))
    if local is None or manifest is None or local.name not in manifest.files:
        return
    if manifest.files[local.name]["sha256"] != sha256:
        raise InputError(
            f"{local}: incomplete or changed, it is not what {manifest_beside(local).name} says; "
            "make it again, or remove that manifest if the file is meant to be so"
        )


def _require_own_index(target: Path) -> None:
    """Refuse to replace the index of another file, such as that of x.fa by that of x.fasta."""
    index = index_path(target)
    for path in target.parent.glob(f"{glob.escape(storage.stem(target))}.*.manifest.json"):
        if path == manifest_beside(target):
            continue
        manifest = read_manifest(path)
        if manifest is not None and manifest.kind == "sample" and index.name in manifest.files:
            raise InputError(
                f"{target}: its index would replace {index.name}, that of another sample "
                f"({path.name}); give this one another name"
            )
