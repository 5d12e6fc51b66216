"""Object storage: objects named by their content, and the manifests that name them.

Object stores have no rename. So an object is never written over with other bytes: its name holds
the hash of its content, ``embeddings3/embeddings_0000-of-0002.<sha256>.npy``. Only manifests keep
their names. One is written last and in one piece: a reader finds the old output or the new one.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import MANIFEST_NAME, Manifest, parse_manifest
from esm_sae.formats.shards import EMBEDDINGS

# The whole hash: with less of it other files' names, such as those with an MD5, pass for objects.
_OBJECT = re.compile(r".+\.[0-9a-f]{64}(?:\.[^./]+)?")
# Of an output, or of a shard, whose files are beside it.
_MANIFEST = re.compile(rf"(?:.+\.)?{re.escape(MANIFEST_NAME)}|{EMBEDDINGS}_[0-9]+-of-[0-9]+\.json")
# Of these one is in what a file system tells of a file.
_TIMES = ("LastModified", "mtime", "last_modified", "updated", "created")
_WITHOUT_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")


class Stored(NamedTuple):
    """What a store tells of an object.

    Attributes:
        bytes: its size.
        modified: when it was written; None where the store does not tell.
    """

    bytes: int
    modified: datetime | None


class ObjectStore:
    """The objects under an fsspec URL such as ``s3://bucket/prefix``; names are relative to it.

    What fails for want of a right, a bucket or a package is an ``InputError``; what may pass is an
    ``OSError``. Either names the object.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def address(self, name: str) -> str:
        """Return the URL of an object or a folder."""
        return f"{self.url}/{name}" if name else self.url

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        """Read several small objects at once; those that are not there are left out."""
        if not names:
            return {}
        known = {self._stripped(self._place(name)): name for name in names}
        with _naming(self.address(names[0] if len(names) == 1 else "")):
            self._files.invalidate_cache()
            places = [self._place(name) for name in names]
            # With a first byte to read from s3fs does not ask for each size before.
            found = self._files.cat(places, on_error="return", start=0)
        contents = {}
        for place, content in found.items():
            name = known[self._stripped(place)]
            if isinstance(content, FileNotFoundError):
                continue
            if isinstance(content, Exception):
                with _naming(self.address(name)):
                    raise content
            contents[name] = bytes(content)
        return contents

    def list(self, folder: str, *, below: bool = False) -> dict[str, Stored]:
        """Return the objects directly in a folder, or all below it, by name."""
        place = self._place(folder)
        with _naming(self.address(folder)):
            self._files.invalidate_cache()
            try:
                found = (
                    self._files.find(place, detail=True).values()
                    if below
                    else self._files.ls(place, detail=True)
                )
            except FileNotFoundError:
                return {}
        return {
            self._name(entry["name"]): _stored(entry) for entry in found if entry["type"] == "file"
        }

    def stat(self, names: Sequence[str]) -> dict[str, Stored]:
        """Return what is known of objects, by name; those that are not there are left out."""
        found = {}
        for name in names:
            with _naming(self.address(name)), contextlib.suppress(FileNotFoundError):
                self._files.invalidate_cache()
                found[name] = _stored(self._files.info(self._place(name)))
        return found

    def fetch(self, name: str, target: Path) -> None:
        """Copy an object to a local file.

        Raises:
            FileNotFoundError: there is none of that name.
            InputError: the local disk is full.
        """
        with storage.naming_full_disk(target), _naming(self.address(name)):
            self._files.get_file(self._place(name), str(target))

    def upload(self, source: Path, name: str) -> None:
        """Write an object that has the bytes of a local file."""
        with self._writing(name) as place:
            self._files.put_file(str(source), place)

    def write(self, name: str, content: bytes) -> None:
        """Write a small object in one piece."""
        with self._writing(name) as place:
            self._files.pipe_file(place, content)

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects; those that are gone already are none to report."""
        for name in names:
            with _naming(self.address(name)), contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._place(name))

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[str]:
        with _naming(self.address(name)):
            try:
                yield self._place(name)
            except FileNotFoundError as error:
                raise InputError(
                    f"{self.address(name)}: cannot be written ({error}); make the bucket first"
                ) from None

    @cached_property
    def _files(self) -> Any:
        return self._opened[0]

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        try:
            files, root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"{self.url}: cannot be opened ({error}); for s3:// install the extra s3"
            ) from None
        return files, root.rstrip("/")

    def _place(self, name: str) -> str:
        root = self._opened[1]
        return f"{root}/{name}" if name else root

    def _name(self, place: str) -> str:
        return self._stripped(place).removeprefix(f"{self._stripped(self._opened[1])}/")

    @staticmethod
    def _stripped(place: str) -> str:
        # Some file systems begin their paths with a slash, some only in answers.
        return place.strip("/")


def manifest_at(url: str) -> Manifest | None:
    """Read the manifest at a URL; None where there is none.

    Raises:
        InputError: what is there is no manifest, or may not be read.
    """
    folder, _, name = url.rpartition("/")
    content = ObjectStore(folder).read([name]).get(name)
    return None if content is None else parse_manifest(content, url)


def object_name(name: str, sha256: str) -> str:
    """Return the name of the object with a file's bytes: ``a/b.npy`` -> ``a/b.<sha256>.npy``."""
    path = PurePosixPath(name)
    return path.with_name(f"{path.stem}.{sha256}{path.suffix}").as_posix()


def is_object_name(name: str) -> bool:
    """Whether a name is one of ``object_name``."""
    return _OBJECT.fullmatch(PurePosixPath(name).name) is not None


def is_manifest_name(name: str) -> bool:
    """Whether a name is one that an output's manifest has; other JSON is none of ours."""
    return _MANIFEST.fullmatch(PurePosixPath(name).name) is not None


def _stored(entry: Mapping[str, Any]) -> Stored:
    return Stored(int(entry["size"]), _time_of(entry))


def _time_of(entry: Mapping[str, Any]) -> datetime | None:
    for name in _TIMES:
        value = entry.get(name)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
    return None


@contextlib.contextmanager
def _naming(address: str) -> Iterator[None]:
    """Say of which object a call failed: a store's libraries have errors of their own kinds."""
    try:
        yield
    except (InputError, FileNotFoundError):
        raise
    except PermissionError as error:
        raise InputError(
            f"{address}: access denied ({error}); grant it to the credentials in the environment"
        ) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in storage.DISK_FULL:
            raise
        kind = type(error).__name__
        if kind in _WITHOUT_CREDENTIALS:
            raise InputError(
                f"{address}: no credentials ({error}); set them in the environment, such as "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None
        raise OSError(f"{address}: cannot be reached ({kind}: {error})") from error
