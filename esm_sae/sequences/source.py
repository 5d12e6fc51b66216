"""The source of all sequences: the bundled proteins, a local FASTA file or a URL."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.fasta import read_fasta
from esm_sae.formats.manifest import (
    Manifest,
    Product,
    is_recorded,
    manifest_beside,
    produce_files,
    read_manifest,
)
from esm_sae.sequences.part_file import PartFile
from esm_sae.url_secrets import without_secrets

BUNDLED = "bundled"

_NAME = "uniref50"
_COPY_NAME = f"{_NAME}.fasta.gz"
_RECORD_NAME = f"{_NAME}.source.json"
SOURCE_MANIFEST = f"{_NAME}.manifest.json"


@dataclass(frozen=True)
class SourceFile:
    """The FASTA file to read.

    Attributes:
        location: its path or URL.
        sha256: hash of its bytes.
    """

    location: str
    sha256: str


def provide_source(
    source: storage.PathLike,
    target_folder: storage.PathLike,
    *,
    checksum: str | None = None,
    metalink: str | None = None,
) -> Product:
    """Make the source of sequences known in a folder.

    ``"bundled"`` copies the bundled proteins to ``uniref50.fasta.gz``. What an HTTP(S) URL has is
    downloaded to ``uniref50.fasta``, with the ending of the URL's compression. A local path or
    another URL (``s3://...``) is not copied. For all but the bundled proteins
    ``uniref50.source.json`` records where the file is, its size and its sha256, so that another
    content is another fingerprint. ``uniref50.manifest.json`` names the one in use.

    Args:
        source: ``"bundled"``, a path or a URL.
        target_folder: where the source is made known.
        checksum: with an HTTP(S) URL, as ``download``.
        metalink: with an HTTP(S) URL, as ``download``.

    Returns:
        The copy, the download or the record.

    Raises:
        InputError: the source is missing, a directory or not a FASTA file, a download fails, or
            the copy or the download would replace a file that was not made here.
    """
    folder = Path(target_folder)
    if source == BUNDLED:
        return _copy_bundled(folder)
    if storage.is_http_url(source):
        return _download(os.fspath(source), folder, checksum, metalink)
    return _record_external(_absolute(source), folder)


def provided_source(folder: storage.PathLike) -> SourceFile:
    """Return the file to read, given the folder in which ``provide_source`` made it known.

    Raises:
        InputError: no source was provided there, or a local one is gone or not what it was.
    """
    folder = Path(folder)
    manifest_path = folder / SOURCE_MANIFEST
    manifest = read_manifest(manifest_path)
    if manifest is None:
        raise InputError(f"{folder}: no source of sequences was provided here; do that first")
    record = _read_record(manifest_path, manifest)
    # A download's is relative to the folder, so that the folder can be moved.
    location = record["path"]
    if not storage.is_url(location):
        location = os.path.join(folder, location)
        _require_unchanged(Path(location), record, manifest_path)
    return SourceFile(location, record["sha256"])


def download_name(folder: Path) -> str | None:
    """Return the name of the file in a folder that its source was downloaded to, if it was."""
    manifest = read_manifest(folder / SOURCE_MANIFEST)
    if manifest is None or _RECORD_NAME not in manifest.files:
        return None
    location = _read_record(folder / SOURCE_MANIFEST, manifest)["path"]
    return None if storage.is_url(location) or Path(location).is_absolute() else location


def _read_record(manifest_path: Path, manifest: Manifest) -> dict[str, Any]:
    """Return the ``path``, ``bytes`` and ``sha256`` of the source that a manifest makes known."""
    if _RECORD_NAME in manifest.files:
        path = manifest_path.with_name(_RECORD_NAME)
        record = storage.read_json(path)
    elif _COPY_NAME in manifest.files:
        path = manifest_path
        record = {"path": _COPY_NAME, **manifest.files[_COPY_NAME]}
    else:
        raise InputError(f"{manifest_path}: names no source; provide the source again")
    kinds = {"path": str, "bytes": int, "sha256": str}
    if not isinstance(record, dict) or any(
        type(record.get(name)) is not kind for name, kind in kinds.items()
    ):
        raise InputError(f"{path}: not the record of a source; provide the source again")
    return record


def _require_unchanged(path: Path, record: Mapping[str, Any], manifest_path: Path) -> None:
    """Refuse a file of another size, or one written to since and of another content."""
    if not path.is_file():
        raise InputError(f"{path}: no such file any more; provide the source again")
    state = path.stat()
    is_newer = state.st_mtime_ns > manifest_path.stat().st_mtime_ns
    if state.st_size != record["bytes"] or (
        is_newer and storage.sha256_of(path) != record["sha256"]
    ):
        raise InputError(f"{path}: changed since it was made known; provide the source again")


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
        manifest=folder / SOURCE_MANIFEST,
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
        what = "is a download" if _is_download(target) else "was not made here"
        raise InputError(
            f"{target}: is in the way of the bundled proteins and {what}; move it away, or name "
            "it as the source"
        )


def _is_our_copy(path: Path) -> bool:
    manifest = read_manifest(path.parent / SOURCE_MANIFEST)
    return manifest is not None and path.name in manifest.files and is_recorded(path, manifest)


def _download(url: str, folder: Path, checksum: str | None, metalink: str | None) -> Product:
    # Only here: httpx is slow to import.
    from esm_sae.sequences.download import download

    target = folder / _download_name(url)
    if target.is_file() and not _is_our_copy(target) and not _is_download(target):
        raise InputError(
            f"{target}: is in the way of the download and was not made here; move it away, or "
            "name it as the source"
        )

    def check(arrived: Path) -> None:
        _require_fasta(os.fspath(arrived), name=without_secrets(url))
        _forget_copy(target)

    product = download(url, target, checksum=checksum, metalink=metalink, check=check)
    _forget_copy(target)
    summary = product.manifest.summary
    _record(folder, target.name, summary["bytes"], summary["sha256"], summary["url"])
    return product


def _forget_copy(target: Path) -> None:
    """Remove the manifest of a copy whose place is taken: it must not name another content."""
    path = target.parent / SOURCE_MANIFEST
    manifest = read_manifest(path)
    if manifest is not None and target.name in manifest.files:
        path.unlink()


def _download_name(url: str) -> str:
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    return f"{_NAME}.fasta{suffix}" if suffix in (".gz", ".zst") else f"{_NAME}.fasta"


def _is_download(path: Path) -> bool:
    """Whether a file was downloaded here, or is about to be replaced by what was."""
    manifest = read_manifest(manifest_beside(path))
    if manifest is not None:
        return manifest.kind == "download"
    return PartFile(path).origin is not None


def _record_external(location: str, folder: Path) -> Product:
    _require_fasta(location)
    _require_no_output(location, folder)
    copy = folder / _COPY_NAME
    if not storage.is_url(location) and copy.is_file() and copy.samefile(location):
        _require_not_our_copy(copy)
    return _record(folder, location, _size_of(location), storage.sha256_of(location), location)


def _record(folder: Path, path: str, size: int, sha256: str, source: str) -> Product:
    record = {"path": path, "bytes": size, "sha256": sha256}

    def build(paths: list[Path]) -> dict[str, Any]:
        paths[0].write_bytes(storage.encode_json(record))
        return {"source": source, "bytes": size, "sha256": sha256}

    return produce_files(
        [folder / _RECORD_NAME],
        manifest=folder / SOURCE_MANIFEST,
        kind="source",
        determinants={"source": source, "sha256": sha256},
        build=build,
    )


def _require_no_output(location: str, folder: Path) -> None:
    """Refuse a sample in the same folder: the next sample drawn would take its place."""
    local = storage.local_path(location)
    if local is None or local.parent.resolve() != folder.resolve():
        return
    manifest = read_manifest(manifest_beside(local))
    if manifest is not None and manifest.kind == "sample":
        raise InputError(
            f"{local}: is a sample drawn here, which the next one would replace; copy it to "
            "another folder and name that copy as the source"
        )


def _require_not_our_copy(copy: Path) -> None:
    """Refuse the copy as an external source: it is removed once it is no longer wanted."""
    if _is_our_copy(copy):
        raise InputError(f"{copy}: is the copy of the bundled proteins; set the source '{BUNDLED}'")


def _absolute(source: storage.PathLike) -> str:
    return os.fspath(source) if storage.is_url(source) else os.path.abspath(source)


def _require_fasta(location: str, *, name: str | None = None) -> None:
    try:
        next(read_fasta(location))
    except InputError as error:
        raise InputError(str(error).replace(location, name or location)) from None


def _size_of(location: str) -> int:
    with storage.open_binary(location) as file:
        return file.seek(0, os.SEEK_END)
