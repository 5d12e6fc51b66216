"""A copy on the local disk of the outputs of a store that are in use.

The copies lie as in a local data root, under their plain names, so that all else works on them.
One is used where its manifest is that of the store. What was made here and has not reached the
store, its process having been killed, is brought there by whoever asks for it next.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime, timedelta
from pathlib import Path

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import MANIFEST_NAME, Product, parse_manifest
from esm_sae.progress import progress
from esm_sae.remote.copies import Copies
from esm_sae.remote.outputs import Output, outputs_of, place_of, require_inside, version_of
from esm_sae.remote.room import Record, Room
from esm_sae.remote.store import ObjectStore, Stored, is_manifest_name

_STATE = ".store"
_TRANSFERS_AT_ONCE = 8
# An object that no manifest names may be about to be pruned, unless it is new.
NEW = timedelta(days=1)


class OutdatedError(InputError):
    """What an output was made from has been replaced in the store since."""


class Mirror:
    """The local copy of a store.

    Args:
        store: the objects.
        folder: where the copy is.
        limit: most bytes of what is there as the store has it.
    """

    def __init__(self, store: ObjectStore, folder: Path, limit: int) -> None:
        self.store = store
        self.folder = folder
        state = folder / _STATE
        self._copies = Copies(folder, state / "incoming")
        self._room = Room(state, limit, self._evict)
        self._seen: set[str] | None = None

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Hold what is asked for until the end of the block, and look for it once."""
        self._seen = set()
        try:
            with self._room.step():
                yield
        finally:
            self._seen = None

    def bring_file(self, name: str) -> None:
        """Bring the output whose first file has a name, as ``bring``."""
        self.bring([f"{name}.{MANIFEST_NAME}"])

    def bring_folder(self, name: str) -> None:
        """Bring the output that is a folder, and the outputs that are files in it, as ``bring``."""
        require_inside(name)
        if self._asks(name):
            there = [each for each in self.store.list(name) if is_manifest_name(each)]
            here = [*self._room.recorded_in(name), f"{name}/{MANIFEST_NAME}"]
            self._reconcile(list(dict.fromkeys([*there, *here])))

    def bring(self, manifests: Sequence[str], *, hold: str = "", without: str = "") -> None:
        """Bring the outputs that manifests describe, so far as the store has them.

        Args:
            manifests: their names.
            hold: the folder that must not be removed while it is in use; else the outputs alone.
            without: suffix of files that are left out, such as ``.npy``.

        Raises:
            InputError: an object is missing or damaged, the copies have no room, or a name leads
                out of the data root.
        """
        for name in manifests:
            require_inside(name)
        places = [hold] if hold else [place_of(name) for name in manifests]
        # All of them: each is held.
        if any([self._asks(place, without) for place in places]):
            self._reconcile(manifests, without)

    def push(self, product: Product) -> None:
        """Bring an output that was made here to the store: its objects, then its manifest.

        In a folder it comes after the outputs that it is made of, such as shards, so far as these
        were made here too. Those in the folder that are gone here are gone there.

        Raises:
            InputError: a file is not what the manifest records, the output has been replaced, or
                a shard that it names.
        """
        name = product.manifest_path.relative_to(self.folder).as_posix()
        outputs = self._copies.outputs(name, self._content_of(product))
        *parts, whole = sorted(outputs.values(), key=lambda each: each.name == name)
        there = outputs_of(self.store.read(list(outputs)), self.store.url)
        made_here = [part for part in parts if self._is_made_here(part)]
        self._require_current(whole, parts, there | {part.name: part for part in made_here})
        for part in made_here:
            self._push(part, there.get(part.name))
        if product.manifest_path.name == MANIFEST_NAME:
            self._remove_dropped(whole, there.get(name))
        self._push(whole, there.get(name))

    def address(self, product: Product) -> str:
        """Return the URL of what the store has of a product: a folder, or a file's object."""
        place = product.path.relative_to(self.folder).as_posix()
        name = product.manifest_path.relative_to(self.folder).as_posix()
        output = Output(name, b"", product.manifest, {})
        is_file = product.path.name in product.manifest.files and not product.path.is_dir()
        return self.store.address(output.object(product.path.name) if is_file else place)

    def manifest_address(self, path: Path) -> str:
        """Return the URL of a manifest."""
        return self.store.address(path.relative_to(self.folder).as_posix())

    def _content_of(self, product: Product) -> bytes:
        path, made = product.manifest_path, product.manifest
        content = path.read_bytes() if path.is_file() else b""
        found = parse_manifest(content, str(path))
        if (found.fingerprint, found.files) != (made.fingerprint, made.files):
            raise InputError(f"{path}: has been replaced by another process; run the step again")
        return content

    def _is_made_here(self, output: Output) -> bool:
        """Whether an output is here as the store has never had it."""
        record = self._room.record_of(output.name)
        return record is None or record.manifest != output.version

    def _require_current(
        self, whole: Output, parts: Sequence[Output], current: Mapping[str, Output]
    ) -> None:
        for part in parts:
            now = current.get(part.name)
            is_named = part.manifest.files.items() <= whole.manifest.files.items()
            if now is None or now.version != part.version or not is_named:
                raise OutdatedError(
                    f"{self.store.address(part.name)}: has been replaced or removed since "
                    f"{self.store.address(whole.name)} was made from it; run the step again"
                )

    def _asks(self, place: str, without: str = "") -> bool:
        """Whether a place is to be looked at: in a step once, so that it sees one state."""
        self._room.hold(place)
        if self._seen is None:
            return True
        is_first = f"{place} {without}" not in self._seen
        self._seen.add(f"{place} {without}")
        return is_first

    def _reconcile(self, manifests: Sequence[str], without: str = "") -> None:
        """Make the copies of outputs what the store has, or the other way round."""
        # First what is here: what another process makes from now on is not to be replaced by what
        # the store had before.
        ours = {name: self._copies.manifest(name) for name in manifests}
        there = outputs_of(self.store.read(manifests), self.store.url)
        wanted = []
        for name in manifests:
            content, theirs = ours[name], there.get(name)
            if content is not None and self._is_ahead(name, content, theirs):
                if self._push_unsent(name, content):
                    continue
                content = None
            if theirs is not None:
                wanted.append((theirs, content))
            else:
                self._discard(name)
        self._fetch(wanted, without)

    def _is_ahead(self, name: str, content: bytes, theirs: Output | None) -> bool:
        """Whether an output was made here since the store and the copy had the same."""
        record = self._room.record_of(name)
        common = record.manifest if record else ""
        return version_of(content) != common and (theirs is None or theirs.version == common)

    def _push_unsent(self, name: str, content: bytes) -> bool:
        """Send what a killed process had not, or remove it where its shards are others now."""
        path = self.folder / name
        manifest = parse_manifest(content, str(path))
        try:
            self.push(Product(self.folder / place_of(name), manifest, path, unchanged=True))
        except OutdatedError:
            path.unlink(missing_ok=True)
            return False
        return True

    def _discard(self, name: str) -> None:
        """Remove what is gone from the store, and with a folder the outputs in it.

        What was made here since stays.
        """
        record = self._room.record_of(name)
        if record is None:
            return
        for inner in self._room.recorded_below(place_of(name)):
            self._discard(inner)
        if self._copies.drop(name, record.manifest, only_alone=False):
            self._room.forget(name)

    def _evict(self, name: str, version: str) -> bool:
        return self._copies.drop(name, version, only_alone=True)

    def _fetch(self, wanted: Sequence[tuple[Output, bytes | None]], without: str) -> None:
        """Bring outputs here in place of those that have the given manifests."""
        lacking = {each.name: self._copies.lacking(each, without) for each, _ in wanted}
        coming = [(each, old) for each, old in wanted if lacking[each.name] or old != each.content]
        if coming:
            self._copies.clear()
            room = {each.name: self._copies.size(each, lacking[each.name]) for each, _ in coming}
            self._room.make(room, of=self.store.url)
            total = sum(each.own[file] for each, _ in coming for file in lacking[each.name])
            self._fetch_all(coming, without, total)
        self._record([each for each, _ in wanted])

    def _record(self, outputs: Sequence[Output]) -> None:
        # Another process may have brought more of an output: what counts is what is here now.
        with self._room.locked():
            for each in outputs:
                self._room.write(each.name, Record(each.version, self._copies.size(each)))

    def _fetch_all(
        self, coming: Sequence[tuple[Output, bytes | None]], without: str, total: int
    ) -> None:
        with (
            progress(total, unit="bytes", description=f"fetch from {self.store.url}") as shown,
            ThreadPoolExecutor(_TRANSFERS_AT_ONCE) as pool,
        ):
            jobs = [pool.submit(self._fetch_one, each, old, without) for each, old in coming]
            try:
                for job in as_completed(jobs):
                    shown.update(job.result())
            finally:
                pool.shutdown(cancel_futures=True)

    def _fetch_one(self, output: Output, old: bytes | None, without: str) -> int:
        def fetch(file: str, target: Path) -> None:
            name = output.object(file)
            try:
                self.store.fetch(name, target)
            except FileNotFoundError:
                raise self._unusable(output, name, "is missing") from None
            if storage.sha256_of(target) != output.manifest.files[file]["sha256"]:
                raise self._unusable(output, name, "is damaged, its hash is another")

        return self._copies.add(output, fetch, old=old, without=without)

    def _unusable(self, output: Output, name: str, what: str) -> InputError:
        return InputError(
            f"{self.store.address(name)}: {what}; remove it where it is there, remove "
            f"{self.store.address(output.name)}, and make the output again"
        )

    def _push(self, output: Output, theirs: Output | None) -> None:
        if theirs is None or theirs.content != output.content:
            with storage.locked(self.folder / output.place):
                for file in self._unsent(output, theirs):
                    path = self.folder / output.path(file)
                    entry = output.manifest.files[file]
                    if not path.is_file() or storage.sha256_of(path) != entry["sha256"]:
                        raise InputError(
                            f"{path}: not the file that its manifest records; remove "
                            f"{self.folder / output.name} and make the output again"
                        )
                    self.store.upload(path, output.object(file))
            self.store.write(output.name, output.content)
        self._record([output])

    def _unsent(self, output: Output, theirs: Output | None) -> list[str]:
        """Return the files whose objects the store lacks, or may be about to lose."""
        objects = {file: output.object(file) for file in sorted(output.own)}
        named = {theirs.object(file) for file in theirs.own} if theirs else set()
        unsure = self.store.stat([name for name in objects.values() if name not in named])
        return [
            file
            for file, name in objects.items()
            if name not in named and not _is_new(unsure.get(name), output.own[file])
        ]

    def _remove_dropped(self, output: Output, theirs: Output | None) -> None:
        is_changed = theirs is None or theirs.content != output.content
        there = self.store.list(output.place, below=is_changed)
        missing = [name for name in there if is_manifest_name(name) and not self._is_here(name)]
        gone = self._manifests_of(missing)
        self.store.remove(gone)
        for name in gone:
            self._room.forget(name)

    def _is_here(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def _manifests_of(self, names: Sequence[str]) -> list[str]:
        """Return those of the names under which the store has a manifest, and no other file."""
        found = []
        for name, content in self.store.read(names).items():
            with contextlib.suppress(InputError):
                parse_manifest(content, name)
                found.append(name)
        return found


def _is_new(found: Stored | None, size: int) -> bool:
    if found is None or found.bytes != size or found.modified is None:
        return False
    # The rest of the time is for the upload, whose manifest comes last.
    return datetime.now(UTC) - found.modified < NEW / 2
