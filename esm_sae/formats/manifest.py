"""Manifests: what an output was made from, and whether it is complete.

Every output has a manifest, written last. It holds a fingerprint of all that determined the
output and the sha256 of its files. An output is complete when its manifest is there and its
fingerprint is the wanted one.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from esm_sae import storage
from esm_sae.errors import InputError, ResumableError

MANIFEST_NAME = "manifest.json"

_PARTIAL = r"[0-9a-f]{12}\.partial"
_WORK = r"[0-9a-f]{16}\.work"


@dataclass(frozen=True)
class Manifest:
    """What an output was made from and what it consists of.

    Attributes:
        kind: name of the output's form, such as ``"sample"``.
        fingerprint: sha256 of the kind and the determinants.
        determinants: input hashes, settings, config, algorithm version, seed.
        files: for each file name its ``sha256`` and ``bytes``.
        summary: counts and figures that are a function of the determinants.
    """

    kind: str
    fingerprint: str
    determinants: dict[str, Any]
    files: dict[str, dict[str, Any]]
    summary: dict[str, Any]

    @property
    def data_version(self) -> str:
        """A hash of the names and contents of all files, behind the release where there is one."""
        names = sorted((name, entry["sha256"]) for name, entry in self.files.items())
        release = self.summary.get("release")
        return f"{release}-{_sha256_of_json(names)}" if release else _sha256_of_json(names)


@dataclass(frozen=True)
class Product:
    """An output in its place: where it is, its manifest, and whether it was there before."""

    path: Path
    manifest: Manifest
    manifest_path: Path
    unchanged: bool


def produce_folder(
    folder: storage.PathLike,
    *,
    kind: str,
    determinants: Mapping[str, Any],
    build: Callable[[Path], dict[str, Any]],
) -> Product:
    """Make a folder that is a function of ``determinants``, or find that it is there already.

    ``build`` writes the files into a work folder and returns the summary. The work folder's
    name is derived from the fingerprint and outlives a kill, so that ``build`` can go on from
    what it finds there. The finished folder is swapped in whole: files of an older output never
    mix with it.

    Raises:
        InputError: in the folder's place is a file, or a folder with anything but an older
            output of this kind, which would be lost; or the disk is full.
    """
    with folder_in_the_making(folder, kind=kind, determinants=determinants) as making:
        if making.product is not None:
            return making.product
        return making.publish(build(making.work))


@dataclass
class FolderInTheMaking:
    """An output folder that a process holds the lock of.

    Attributes:
        target: where the finished folder is to be.
        work: where its files are written.
        product: the output, where it is there already or has been published.
    """

    target: Path
    work: Path
    kind: str
    determinants: dict[str, Any]
    product: Product | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of all that determines the output."""
        return fingerprint_of(self.kind, self.determinants)

    def publish(self, summary: dict[str, Any]) -> Product:
        """Describe the files in the work folder and swap it in whole.

        Args:
            summary: counts and figures that are a function of the determinants.
        """
        files = {
            os.fspath(path.relative_to(self.work)): _entry(path)
            for path in sorted(self.work.rglob("*"))
            if path.is_file()
        }
        manifest = Manifest(self.kind, self.fingerprint, self.determinants, files, summary)
        storage.publish_bytes(self.work / MANIFEST_NAME, encode_manifest(manifest))
        storage.swap_folder(self.work, self.target)
        self.product = Product(self.target, manifest, self.target / MANIFEST_NAME, unchanged=False)
        return self.product


@contextlib.contextmanager
def folder_in_the_making(
    folder: storage.PathLike, *, kind: str, determinants: Mapping[str, Any]
) -> Iterator[FolderInTheMaking]:
    """Hold an output folder while it is made; ``produce_folder`` for those made several at once.

    Processes that hold several take them in the order of their paths, or may wait for each other.

    Raises:
        InputError: as ``produce_folder``.
    """
    target = Path(folder)
    fingerprint = fingerprint_of(kind, determinants)
    if target.is_file():
        raise InputError(f"{target}: is a file, expected a directory")
    with storage.locked(target), storage.naming_full_disk(target):
        work = _work_folder(target, fingerprint)
        making = FolderInTheMaking(target, work, kind, dict(determinants))
        old = read_manifest(target)
        _require_ours(target, old, kind)
        if old is not None and old.fingerprint == fingerprint and _verified(target, old):
            _remove_leftovers(target)
            making.product = Product(target, old, target / MANIFEST_NAME, unchanged=True)
            yield making
            return
        _remove_leftovers(target, keep=work)
        storage.make_folder(work)
        _remove_unfinished_files(work)
        try:
            yield making
        finally:
            # Input that cannot be used leaves nothing behind; what can be resumed stays.
            with contextlib.suppress(OSError):
                work.rmdir()


def produce_files(
    paths: Sequence[storage.PathLike],
    *,
    manifest: storage.PathLike,
    kind: str,
    determinants: Mapping[str, Any],
    build: Callable[[list[Path]], dict[str, Any]],
    resumable: bool = False,
) -> Product:
    """Make files beside one another that are a function of ``determinants``.

    ``build`` gets temporary paths in the order of ``paths`` and returns the summary. With
    ``resumable`` these are in a work folder whose name is derived from the fingerprint and which
    outlives a kill, so that ``build`` can go on from what it finds there, files of its own
    included; an ``InputError`` removes it, a ``ResumableError`` does not. The old manifest is
    removed before the first file is replaced and the new one is written last, so that a kill in
    between leaves an output that is known to be incomplete, never a mixture that passes for one.
    Files that the old manifest names and the new one does not are removed, unless someone has
    put another file in their place.

    Raises:
        InputError: where a file is to be there is something else, or the disk is full (with
            ``resumable`` a ``ResumableError`` once ``build`` is done); an older output is as
            it was.
    """
    targets = [Path(path) for path in paths]
    manifest_path = Path(manifest)
    finals = [*targets, manifest_path]
    fingerprint = fingerprint_of(kind, determinants)
    for path in finals:
        storage.require_writable_file(path)
    with storage.locked(targets[0]):
        work = _work_folder(targets[0], fingerprint) if resumable else None
        for path in finals:
            _remove_leftovers(path, keep=work)
        old = read_manifest(manifest_path)
        if (
            old is not None
            and old.fingerprint == fingerprint
            and set(old.files) == {target.name for target in targets}
            and _verified(targets[0].parent, old)
        ):
            _remove_leftovers(targets[0])
            return Product(targets[0], old, manifest_path, unchanged=True)
        with _temporaries(finals, work) as temporaries:
            *built, record = temporaries
            with storage.naming_full_disk(targets[0]):
                summary = build(built)
            kind_of_error = InputError if work is None else ResumableError
            with storage.naming_full_disk(targets[0], kind_of_error):
                files = {
                    target.name: _entry(temporary)
                    for target, temporary in zip(targets, built, strict=True)
                }
                new = Manifest(kind, fingerprint, dict(determinants), files, summary)
                # All that needs room comes before the first step that cannot be undone.
                record.write_bytes(encode_manifest(new))
                for temporary in temporaries:
                    storage.sync(temporary)
                manifest_path.unlink(missing_ok=True)
                _remove_dropped(targets[0].parent, old, files)
                for temporary, final in zip(temporaries, finals, strict=True):
                    storage.replace(temporary, final)
    return Product(targets[0], new, manifest_path, unchanged=False)


def unfinished_in(folder: Path) -> list[Path]:
    """Return the outputs of which a folder holds unfinished work, killed or still going on."""
    work = re.compile(rf"\.(.+)\.{_WORK}")
    found = (work.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return sorted({folder / match[1] for match in found if match})


def discard_unfinished(target: Path) -> None:
    """Remove the unfinished work of an output, unless a process is at work on it."""
    with storage.locked(target, wait=False) as held:
        if held:
            _remove_leftovers(target)


def fingerprint_of(kind: str, determinants: Mapping[str, Any]) -> str:
    """Return the sha256 of an output's kind and determinants as canonical JSON."""
    return _sha256_of_json([kind, determinants])


def read_manifest(path: storage.PathLike) -> Manifest | None:
    """Read the manifest at a path or inside a folder; None where there is none.

    Raises:
        InputError: the file is there but is not a manifest.
    """
    location = Path(path)
    if location.is_dir():
        location = location / MANIFEST_NAME
    if not location.is_file():
        return None
    try:
        content = storage.read_json(location)
    except InputError as error:
        raise InputError(f"{error}; remove it and make the output again") from None
    if not _is_manifest(content):
        raise InputError(f"{location}: not a manifest; remove it and make the output again")
    return Manifest(**content)


def parse_manifest(text: bytes, location: str) -> Manifest:
    """Read a manifest that came from elsewhere, whose files must lie beside it or below.

    Raises:
        InputError: it is no manifest, or names a file outside of its folder.
    """
    content: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(text)
    if not _is_manifest(content):
        raise InputError(f"{location}: not a manifest; remove it and make the output again")
    return Manifest(**content)


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode a manifest; its summary keeps the order in which it is to be read."""
    return storage.encode_json(asdict(manifest), sort_keys=False)


def manifest_beside(path: storage.PathLike) -> Path:
    """Return the path of an output file's manifest: ``x.fasta`` -> ``x.fasta.manifest.json``."""
    location = Path(path)
    return location.with_name(f"{location.name}.manifest.json")


def identity_of(path: storage.PathLike) -> str:
    """Return the content hash of an input file or manifested folder.

    A file that a manifest beside it names, of the size recorded there and not written to since,
    is known by the recorded hash; any other file is read and hashed.

    Raises:
        InputError: the path does not exist, or is a folder without a manifest.
    """
    if storage.is_url(path):
        return storage.sha256_of(path)
    location = Path(path)
    if location.is_dir():
        manifest = read_manifest(location)
        if manifest is None:
            raise InputError(f"{location}: incomplete, it has no {MANIFEST_NAME}; make it again")
        return manifest.data_version
    beside = manifest_beside(location)
    manifest = read_manifest(beside)
    if manifest is not None and is_untouched(location, manifest, beside):
        return str(manifest.files[location.name]["sha256"])
    return storage.sha256_of(location)


def is_recorded(path: Path, manifest: Manifest) -> bool:
    """Whether a file is there with the bytes that a manifest records of its name."""
    entry = manifest.files[path.name]
    return _has_size(path, entry) and storage.sha256_of(path) == entry["sha256"]


def is_untouched(path: Path, manifest: Manifest, manifest_path: Path) -> bool:
    """Whether a file has the size that a manifest records and is older than it: a fast look."""
    entry = manifest.files.get(path.name)
    if entry is None or not _has_size(path, entry):
        return False
    return path.stat().st_mtime_ns <= manifest_path.stat().st_mtime_ns


def require_unclaimed(paths: Sequence[Path], manifest_path: Path) -> None:
    """Refuse to write files that belong to another output of their folder.

    Raises:
        InputError: a manifest beside a file, other than the one given, names it.
    """
    for beside in sorted(manifest_path.parent.glob("*.manifest.json")):
        if beside.name == manifest_path.name:
            continue
        other = None
        with contextlib.suppress(InputError):
            other = read_manifest(beside)
        for path in paths:
            if other is not None and path.name in other.files and path.is_file():
                raise InputError(
                    f"{path}: belongs to what {beside.name} describes and would be lost; write to "
                    "another folder or under another name"
                )


def in_place(manifest: Manifest, manifest_path: storage.PathLike) -> bool:
    """Whether the files that a manifest names are beside it, by their sizes: a fast look."""
    folder = Path(manifest_path).parent
    return all(_has_size(folder / name, entry) for name, entry in manifest.files.items())


def _stays_below(name: str) -> bool:
    path = PurePosixPath(name)
    # No file system takes a name with a null character.
    is_inside = not path.is_absolute() and ".." not in path.parts
    return bool(path.parts) and is_inside and "\0" not in name


def _is_manifest(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and content.keys() == {field.name for field in fields(Manifest)}
        and all(isinstance(content[name], str) for name in ("kind", "fingerprint"))
        and all(isinstance(content[name], dict) for name in ("determinants", "files", "summary"))
        and all(_stays_below(name) and _is_entry(entry) for name, entry in content["files"].items())
    )


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    sha256, size = entry.get("sha256"), entry.get("bytes")
    return (
        isinstance(sha256, str)
        and re.fullmatch("[0-9a-f]{64}", sha256) is not None
        and type(size) is int
        and size >= 0
    )


def _verified(folder: Path, manifest: Manifest) -> bool:
    return all(
        _has_size(folder / name, entry) and storage.sha256_of(folder / name) == entry["sha256"]
        for name, entry in manifest.files.items()
    )


def _has_size(path: Path, entry: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["bytes"]


def _require_ours(target: Path, old: Manifest | None, kind: str) -> None:
    """Refuse to replace a folder of someone's own files, or of another kind of output."""
    if not target.is_dir() or (old is not None and old.kind == kind):
        return
    if old is not None or any(target.iterdir()):
        raise InputError(
            f"{target}: holds files that are no earlier {kind} and would be lost; name a new "
            "folder, or remove this one"
        )


def _work_folder(target: Path, fingerprint: str) -> Path:
    return target.parent / f".{target.name}.{fingerprint[:16]}.work"


@contextlib.contextmanager
def _temporaries(targets: Sequence[Path], work: Path | None) -> Iterator[list[Path]]:
    """Yield paths to write files to before they take the places of ``targets``."""
    if work is None:
        paths = [storage.temporary_beside(target) for target in targets]
        try:
            yield paths
        finally:
            for path in paths:
                path.unlink(missing_ok=True)
        return
    storage.make_folder(work)
    _remove_unfinished_files(work)
    try:
        yield [work / target.name for target in targets]
    except ResumableError:
        raise
    except InputError:
        shutil.rmtree(work)
        raise
    shutil.rmtree(work)


def _remove_dropped(folder: Path, old: Manifest | None, files: Mapping[str, Any]) -> None:
    for name in (old.files.keys() if old is not None else set()) - files.keys():
        path = folder / name
        if old is not None and path.name == name and is_recorded(path, old):
            path.unlink()


def _entry(path: Path) -> dict[str, Any]:
    return {"sha256": storage.sha256_of(path), "bytes": path.stat().st_size}


def _remove_leftovers(target: Path, *, keep: Path | None = None) -> None:
    """Remove what killed writers of a target left; its lock must be held."""
    leftover = re.compile(rf"\.{re.escape(target.name)}\.(?:{_WORK}|{_PARTIAL})")
    for path in list(target.parent.iterdir()):
        if path == keep or not leftover.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _remove_unfinished_files(work: Path) -> None:
    """Clear a killed build's work folder of all but whole files, so that only those go in."""
    (work / MANIFEST_NAME).unlink(missing_ok=True)
    unfinished = re.compile(rf"\..+\.(?:{_PARTIAL}|lock)")
    for path in list(work.rglob(".*")):
        if path.is_file() and unfinished.fullmatch(path.name):
            path.unlink()


def _sha256_of_json(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
