"""What of a store is on the local disk: how much, what is in use, and what goes first.

Each output that is here as the store has it has a record: the hash of the manifest that both had,
and its size. The time of a record is that of its last use. What is here without a record was made
here and has not reached the store: it is neither counted nor removed.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import MANIFEST_NAME
from esm_sae.remote.outputs import place_of

_RECORDS, _USES = "records", "uses"


class Record(NamedTuple):
    """An output that is here as the store has it.

    Attributes:
        manifest: sha256 of the manifest that the store and the copy had last; empty where an
            output is on its way here for the first time.
        bytes: size of its files.
    """

    manifest: str
    bytes: int


class Room:
    """The bounded room for copies of outputs.

    Args:
        folder: where records and locks are kept.
        limit: most bytes that the copies may have.
        drop: removes an output, given its manifest's name and version; tells whether it is gone.
    """

    def __init__(self, folder: Path, limit: int, drop: Callable[[str, str], bool]) -> None:
        self._folder = folder
        self._limit = limit
        self._drop = drop
        self._steps: list[dict[str, int]] = [{}]

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Hold what is asked for until the end of the block, then make room."""
        self._steps.append({})
        try:
            yield
        finally:
            for descriptor in self._steps.pop().values():
                os.close(descriptor)
        with self.locked():
            self._shrink_to(self._limit)

    def hold(self, place: str) -> None:
        """Keep what is at a place, and below it, from being removed by any process.

        Until the step ends, or outside of one the process.
        """
        held = self._steps[-1]
        if place not in held:
            # The lock dies with its process.
            held[place] = self._open_lock(place)
            fcntl.flock(held[place], fcntl.LOCK_SH)

    def record_of(self, manifest_name: str) -> Record | None:
        """Return the record of an output, None where it is not here as the store has it."""
        path = self._record_path(manifest_name)
        return Record(**storage.read_json(path)) if path.is_file() else None

    def recorded_in(self, folder: str) -> list[str]:
        """Return the names of the manifests directly in a folder that have a record."""
        place = self._record_path(folder)
        found = storage.list_files(place, "[!.]*") if place.is_dir() else []
        return [f"{folder}/{path.name}" for path in found]

    def recorded_below(self, folder: str) -> list[str]:
        """Return the names of the manifests of folders below a folder that have a record."""
        root = self._folder / _RECORDS
        found = (root / folder).glob(f"*/**/{MANIFEST_NAME}")
        return [path.relative_to(root).as_posix() for path in sorted(found)]

    def write(self, manifest_name: str, record: Record) -> None:
        """Record that an output is here as the store has it, and was used now."""
        path = self._record_path(manifest_name)
        if self.record_of(manifest_name) == record:
            os.utime(path)
        else:
            storage.publish_json(path, record._asdict())

    def forget(self, manifest_name: str) -> None:
        """Remove a record."""
        self._record_path(manifest_name).unlink(missing_ok=True)

    def make(self, coming: Mapping[str, int], *, of: str) -> None:
        """Make room for outputs, and take it.

        Args:
            coming: size of each, by the name of its manifest.
            of: address of the store, for the error.

        Raises:
            InputError: they do not fit beside what is in use.
        """
        with self.locked():
            needed = sum(coming.values())
            left = self._shrink_to(self._limit - needed, but=coming.keys())
            if left + needed > self._limit:
                raise InputError(
                    f"{of}: what is in use at once has {left + needed:,} bytes, the local copies "
                    f"may have {self._limit:,}; set ESM_SAE_CACHE_SIZE_GB to more"
                )
            for name, size in coming.items():
                old = self.record_of(name)
                self.write(name, Record(old.manifest if old else "", size))

    def _shrink_to(self, most: int, *, but: Collection[str] = ()) -> int:
        """Remove outputs that nobody uses, the longest unused first; return the bytes left."""
        records = {name: path for name, path in self._records().items() if name not in but}
        found = {name: Record(**storage.read_json(path)) for name, path in records.items()}
        total = sum(record.bytes for record in found.values())
        for name in sorted(records, key=lambda name: records[name].stat().st_mtime_ns):
            if total <= most:
                break
            # Without bytes are those whose files are other outputs'.
            version, size = found[name]
            if not size:
                continue
            with self._unused(name) as is_unused:
                if is_unused and self._drop(name, version):
                    self.forget(name)
                    total -= size
        return total

    def _records(self) -> dict[str, Path]:
        root = self._folder / _RECORDS
        return {
            path.relative_to(root).as_posix(): path
            for path in root.rglob("*.json")
            if not path.name.startswith(".")
        }

    def _record_path(self, manifest_name: str) -> Path:
        return self._folder / _RECORDS / manifest_name

    @contextlib.contextmanager
    def _unused(self, manifest_name: str) -> Iterator[bool]:
        """Tell whether nobody uses an output, and let nobody begin to."""
        place = PurePosixPath(place_of(manifest_name))
        with ExitStack() as stack:
            for each in (place, *place.parents[:-1]):
                descriptor = self._open_lock(each.as_posix())
                stack.callback(os.close, descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield False
                    return
            yield True

    def _open_lock(self, place: str) -> int:
        path = self._folder / _USES / f"{place}.lock"
        storage.make_folder(path.parent)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from making room and from recording what is here."""
        with storage.locked(self._folder / "room"):
            yield
