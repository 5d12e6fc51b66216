"""The copies of a store's outputs on the local disk, under their plain names."""

import contextlib
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from esm_sae import storage
from esm_sae.formats.manifest import MANIFEST_NAME, Manifest, read_manifest
from esm_sae.formats.shards import SHARDS_KIND
from esm_sae.remote.outputs import Output, outputs_of, place_of, version_of

Fetch = Callable[[str, Path], None]


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
        target, work = self.folder / output.place, self._work(output.name)
        with storage.locked(target):
            if self.manifest(output.name) not in (old, output.content):
                return 0
            # What a killed process was fetching.
            shutil.rmtree(work, ignore_errors=True)
            lacking = self.lacking(output, without)
            storage.make_folder(work)
            for file in lacking:
                storage.make_folder((work / file).parent)
                fetch(file, work / file)
            if output.is_folder:
                self._swap_in(output, work, target)
            else:
                self._move_in(output, work, lacking)
            shutil.rmtree(work, ignore_errors=True)
        return sum(output.own[file] for file in lacking)

    def drop(self, output: str, version: str, *, only_alone: bool) -> bool:
        """Remove an output that is as the store has it; tell whether it is gone.

        Args:
            output: name of its manifest.
            version: of the manifest, as the store has it.
            only_alone: leave a folder in which there is something else, such as another output.
        """
        content = self.manifest(output)
        if content is None:
            return True
        with storage.locked(self.folder / place_of(output), wait=False) as held:
            if not held or version_of(content) != version:
                return False
            return self._drop(outputs_of({output: content}, "")[output], only_alone)

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
            if file != path
        }
        return outputs | outputs_of(shards, str(self.folder))

    def _drop(self, output: Output, only_alone: bool) -> bool:
        path = self.folder / output.name
        if output.is_folder:
            return self._drop_folder(path.parent, output, only_alone)
        path.unlink()
        for file in output.own:
            (path.parent / file).unlink(missing_ok=True)
        return True

    def _drop_folder(self, target: Path, output: Output, only_alone: bool) -> bool:
        files = {target / file for file in (*output.own, MANIFEST_NAME)}
        if only_alone and any(p.is_file() and p not in files for p in target.rglob("*")):
            return False
        aside = self._work(output.name)
        shutil.rmtree(aside, ignore_errors=True)
        storage.make_folder(self._incoming)
        os.replace(target, aside)
        shutil.rmtree(aside)
        return True

    def _work(self, name: str) -> Path:
        """Return where an output comes and goes through; its lock must be held."""
        return self._incoming / version_of(name.encode())[:16]

    def _old(self, name: str) -> Manifest | None:
        path = self.folder / name
        return read_manifest(path) if path.is_file() else None

    def _has(self, output: Output, file: str, old: Manifest | None) -> bool:
        path, entry = self.folder / output.path(file), output.manifest.files[file]
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            return False
        known = old is not None and old.files.get(file, {}).get("sha256") == entry["sha256"]
        return known or storage.sha256_of(path) == entry["sha256"]

    def _swap_in(self, output: Output, work: Path, target: Path) -> None:
        for file in output.own:
            path = work / file
            if not path.exists():
                storage.make_folder(path.parent)
                _link(target / file, path)
        storage.publish_bytes(work / MANIFEST_NAME, output.content)
        for path in sorted(target.rglob(MANIFEST_NAME)):
            # Outputs in the folder that are not part of it: they are compared on their own.
            inner = path.parent.relative_to(target)
            if path.parent != target and not (work / inner).exists():
                storage.make_folder((work / inner).parent)
                os.replace(path.parent, work / inner)
        storage.swap_folder(work, target)

    def _move_in(self, output: Output, work: Path, files: list[str]) -> None:
        path = self.folder / output.name
        old = self._old(output.name)
        path.unlink(missing_ok=True)
        for file in files:
            storage.replace(work / file, path.parent / file)
        for file in (old.files.keys() if old is not None else set()) - output.manifest.files.keys():
            (path.parent / file).unlink(missing_ok=True)
        storage.publish_bytes(path, output.content)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        with contextlib.suppress(FileExistsError):
            shutil.copy2(source, target)
