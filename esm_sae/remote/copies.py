"""The copies of a store's outputs on the local disk, under their plain names."""

import contextlib
import shutil
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from esm_sae import storage
from esm_sae.formats.manifest import MANIFEST_NAME, Manifest, read_manifest
from esm_sae.formats.shards import SHARDS_KIND
from esm_sae.remote.outputs import Output, outputs_of, place_of
from esm_sae.remote.store import is_manifest_name

Fetch = Callable[[str, Path], None]

# In the folder that an output comes through: its manifest, and its files.
_COMING, _FILES = "manifest", "files"


class Copies:
    """A folder of outputs, as a local data root is.

    Args:
        folder: where the copies are.
        incoming: where files are on their way; on the same file system.
    """

    def __init__(self, folder: Path, incoming: Path) -> None:
        self.folder = folder
        self._incoming = incoming

    def manifest(self, name: str) -> bytes | None:
        """Return the bytes of a manifest, None where there is none."""
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None

    def lacking(self, output: Output, without: str = "") -> list[str]:
        """Return the files of an output that are not here, but for those of a suffix."""
        old = self._old(output.name)
        return [
            file
            for file in sorted(output.own)
            if not (without and file.endswith(without)) and not self._has(output, file, old)
        ]

    def size(self, output: Output, coming: Collection[str] = ()) -> int:
        """Return the bytes of an output's files that are here or are to come."""
        return sum(
            size
            for file, size in output.own.items()
            if file in coming or (self.folder / output.path(file)).is_file()
        )

    def add(self, output: Output, fetch: Fetch, *, old: bytes | None, without: str = "") -> int:
        """Put an output here, in place of an older one; its manifest comes last.

        Where another has been put here in the meantime, it stays.

        Args:
            output: what is to be here.
            fetch: writes a file of it, given its name, to a path.
            old: the manifest of what it replaces, None where there was nothing.
            without: suffix of files that are left out.

        Returns:
            How many bytes were fetched.
        """
        with storage.locked(self.folder / output.place):
            if self.manifest(output.name) not in (old, output.content):
                return 0
            work = self._cleared(output.name)
            lacking = self.lacking(output, without)
            storage.make_folder(work)
            storage.publish_bytes(work / _COMING, output.content)
            for file in lacking:
                storage.make_folder((work / _FILES / file).parent)
                fetch(file, work / _FILES / file)
            self._move_in(output, work / _FILES, lacking)
            shutil.rmtree(work)
        return sum(output.own[file] for file in lacking)

    def clear(self) -> None:
        """Remove what killed processes were bringing here."""
        for work in list(self._incoming.glob("*")):
            name = unquote(work.name)
            with storage.locked(self.folder / place_of(name), wait=False) as held:
                if held:
                    self._cleared(name)

    def drop(self, name: str, version: str, *, only_alone: bool) -> bool:
        """Remove an output that is as the store has it; tell whether it is gone.

        Other files in its folder stay.

        Args:
            name: of its manifest.
            version: of the manifest, as the store has it.
            only_alone: leave a folder in which there is something else, such as another output.
        """
        with storage.locked(self.folder / place_of(name), wait=False) as held:
            if not held:
                return False
            self._cleared(name)
            content = self.manifest(name)
            if content is None:
                return True
            output = outputs_of({name: content}, str(self.folder))[name]
            if output.version != version or (only_alone and self._has_others(output)):
                return False
            self._remove(output, output.own)
            (self.folder / name).unlink()
            if output.is_folder:
                _remove_empty(self.folder / output.place)
        return True

    def outputs(self, name: str, content: bytes) -> dict[str, Output]:
        """Return an output and, where that is a folder of shards, the shards.

        Args:
            name: of the output's manifest.
            content: of it.
        """
        path = self.folder / name
        outputs = outputs_of({name: content}, str(self.folder))
        if outputs[name].manifest.kind != SHARDS_KIND:
            return outputs
        shards = {
            file.relative_to(self.folder).as_posix(): file.read_bytes()
            for file in storage.list_files(path.parent, "[!.]*.json")
            if file != path and is_manifest_name(file.name)
        }
        return outputs | outputs_of(shards, str(self.folder))

    def _has_others(self, output: Output) -> bool:
        target = self.folder / output.place
        files = {target / file for file in (*output.own, MANIFEST_NAME)}
        return output.is_folder and any(
            path.is_file() and path not in files for path in target.rglob("*")
        )

    def _cleared(self, name: str) -> Path:
        """Return the folder that an output comes through, without what a killed process left.

        The output's lock must be held.
        """
        work = self._incoming / quote(name, safe="")
        coming = work / _COMING
        if coming.is_file() and self.manifest(name) is None:
            # Files may have been moved in of which nothing else tells what they are.
            output = outputs_of({name: coming.read_bytes()}, str(work))[name]
            self._remove(output, output.own)
        shutil.rmtree(work, ignore_errors=True)
        return work

    def _old(self, name: str) -> Manifest | None:
        path = self.folder / name
        return read_manifest(path) if path.is_file() else None

    def _has(self, output: Output, file: str, old: Manifest | None) -> bool:
        path, entry = self.folder / output.path(file), output.manifest.files[file]
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            return False
        if old is not None and file in old.files:
            return old.files[file]["sha256"] == entry["sha256"]
        return storage.sha256_of(path) == entry["sha256"]

    def _move_in(self, output: Output, incoming: Path, files: Collection[str]) -> None:
        """Put files in place; what the old manifest does not name stays, and may be in use."""
        path, old = self.folder / output.name, self._old(output.name)
        dropped = (old.files.keys() if old is not None else set()) - output.manifest.files.keys()
        # What is left out may be here as it was: it would pass for the new manifest's.
        left_out = output.own.keys() - set(files)
        stale = {file for file in left_out if not self._has(output, file, old)}
        self._remove(output, dropped | stale)
        path.unlink(missing_ok=True)
        for file in files:
            storage.make_folder((path.parent / file).parent)
            storage.replace(incoming / file, path.parent / file)
        storage.publish_bytes(path, output.content)

    def _remove(self, output: Output, files: Collection[str]) -> None:
        """Remove files of an output, before its manifest: a kill leaves none that nothing names."""
        folder = (self.folder / output.name).parent
        for file in files:
            path = folder / file
            path.unlink(missing_ok=True)
            for parent in path.parents[: len(PurePosixPath(file).parts) - 1]:
                _remove_empty(parent)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
