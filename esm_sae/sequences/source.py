"""The source of all sequences: the bundled proteins, a local FASTA file or a URL."""

import os
import shutil
from pathlib import Path
from typing import Any

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.fasta import read_fasta
from esm_sae.formats.manifest import Product, is_recorded, produce_files, read_manifest

BUNDLED = "bundled"

_COPY_NAME = "uniref50.fasta.gz"
_RECORD_NAME = "uniref50.source.json"
_MANIFEST_NAME = "uniref50.manifest.json"


def provide_source(source: storage.PathLike, target_folder: storage.PathLike) -> Product:
    """Make the source of sequences known in a folder.

    ``"bundled"`` copies the bundled proteins to ``uniref50.fasta.gz``. A local path or a URL is
    not copied: ``uniref50.source.json`` records where it is, its size and its sha256, so that
    another content is another fingerprint. ``uniref50.manifest.json`` names the one in use.

    Raises:
        InputError: the source is missing, a directory or not a FASTA file, or the copy would
            replace a file that was not made here.
    """
    folder = Path(target_folder)
    if source == BUNDLED:
        return _copy_bundled(folder)
    return _record_external(_absolute(source), folder)


def source_location(provided: Product | storage.PathLike) -> str:
    """Return the path or URL to read, given what ``provide_source`` returned or its folder.

    Raises:
        InputError: no source was provided there.
    """
    path = provided.path if isinstance(provided, Product) else _provided_in(Path(provided))
    if path.name != _RECORD_NAME:
        return os.fspath(path)
    return str(storage.read_json(path)["path"])


def _provided_in(folder: Path) -> Path:
    manifest = read_manifest(folder / _MANIFEST_NAME)
    if manifest is None:
        raise InputError(f"{folder}: no source of sequences was provided here; do that first")
    (name,) = manifest.files
    return folder / name


def _copy_bundled(folder: Path) -> Product:
    from esm_sae.data import bundled_fasta

    original = Path(bundled_fasta())
    sha256 = storage.sha256_of(original)
    target = folder / _COPY_NAME
    _require_ours(target, sha256)

    def build(paths: list[Path]) -> dict[str, Any]:
        shutil.copyfile(original, paths[0])
        return {"source": BUNDLED, "bytes": original.stat().st_size, "sha256": sha256}

    return produce_files(
        [target],
        manifest=folder / _MANIFEST_NAME,
        kind="source",
        determinants={"source": BUNDLED, "sha256": sha256},
        build=build,
    )


def _require_ours(target: Path, sha256: str) -> None:
    """Refuse to replace a file that someone put there, such as a downloaded UniRef50."""
    if not target.is_file():
        return
    if _is_our_copy(target):
        return
    if storage.sha256_of(target) != sha256:
        raise InputError(
            f"{target}: is in the way of the bundled proteins and was not made here; move it "
            "away, or name it as the source"
        )


def _is_our_copy(path: Path) -> bool:
    manifest = read_manifest(path.parent / _MANIFEST_NAME)
    return manifest is not None and path.name in manifest.files and is_recorded(path, manifest)


def _record_external(location: str, folder: Path) -> Product:
    _require_fasta(location)
    copy = folder / _COPY_NAME
    if not storage.is_url(location) and copy.is_file() and copy.samefile(location):
        _require_not_our_copy(copy)
    record = {
        "path": location,
        "bytes": _size_of(location),
        "sha256": storage.sha256_of(location),
    }

    def build(paths: list[Path]) -> dict[str, Any]:
        paths[0].write_bytes(storage.encode_json(record))
        return {"source": location, "bytes": record["bytes"], "sha256": record["sha256"]}

    return produce_files(
        [folder / _RECORD_NAME],
        manifest=folder / _MANIFEST_NAME,
        kind="source",
        determinants={"source": location, "sha256": record["sha256"]},
        build=build,
    )


def _require_not_our_copy(copy: Path) -> None:
    """Refuse the copy as an external source: it is removed once it is no longer wanted."""
    if _is_our_copy(copy):
        raise InputError(f"{copy}: is the copy of the bundled proteins; set the source '{BUNDLED}'")


def _absolute(source: storage.PathLike) -> str:
    return os.fspath(source) if storage.is_url(source) else os.path.abspath(source)


def _require_fasta(location: str) -> None:
    next(read_fasta(location))


def _size_of(location: str) -> int:
    with storage.open_binary(location) as file:
        return file.seek(0, os.SEEK_END)
