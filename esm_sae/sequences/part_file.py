"""The part of a download that is on disk, and the record of what it is a part of."""

import contextlib
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from esm_sae import storage
from esm_sae.errors import InputError


@dataclass(frozen=True)
class Origin:
    """The file that bytes are a part of, as its server describes it.

    Attributes:
        url: its address, without credentials.
        checksum: the checksum that it should have, where one is known.
        size: number of its bytes, where it is known.
        etag: its ETag, as sent.
        last_modified: its Last-Modified, as sent.
        release: its X-UniProt-Release, as sent.
    """

    url: str
    checksum: str | None
    size: int | None
    etag: str | None
    last_modified: str | None
    release: str | None

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` takes (RFC 9110, section 13.1.5): a strong ETag, else the time."""
        strong = None if self.etag is not None and self.etag.startswith("W/") else self.etag
        return next((one for one in (strong, self.last_modified) if one and one.isascii()), None)

    @property
    def can_go_on(self) -> bool:
        """Whether more bytes can be told to be of the same file, or a mixture be found out."""
        return self.size is not None and bool(self.checksum or self.validator)


class PartFile:
    """The bytes received so far of a file that will be ``target``, hidden beside it.

    The record of their origin is on the disk before the first of them. The bytes are appended to
    or removed, never overwritten: a finished part may already be the target under another name.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.download")
        self._record = target.with_name(f".{target.name}.download.json")

    @property
    def size(self) -> int:
        """Number of the bytes that are on disk."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def origin(self) -> Origin | None:
        """What the bytes are a part of; None where that is not known."""
        if not self._record.is_file():
            return None
        try:
            content = storage.read_json(self._record)
        except InputError:
            return None
        return Origin(**content) if _is_origin(content) else None

    def is_whole(self, origin: Origin) -> bool:
        """Whether all bytes are there."""
        return self.path.exists() and self.size == origin.size

    def start(self, origin: Origin) -> None:
        """Begin anew with no bytes of another file."""
        self.discard()
        self.describe(origin)

    def describe(self, origin: Origin) -> None:
        """Record what the bytes are a part of."""
        storage.publish_json(self._record, asdict(origin))

    def discard(self) -> None:
        """Remove the bytes and what is recorded of them."""
        # In this order: a record without bytes does no harm, bytes with a wrong record would.
        self.path.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)
        for unfinished in self.path.parent.glob(f".{glob.escape(self._record.name)}.*.partial"):
            unfinished.unlink()

    def require_space(self, more: int) -> None:
        """Refuse to begin what the disk cannot hold.

        Raises:
            InputError: fewer than ``more`` bytes are free.
        """
        if shutil.disk_usage(self.path.parent).free < more:
            raise self._disk_full(more)

    @contextlib.contextmanager
    def appending(self, more: int | None) -> Iterator[Callable[[bytes], None]]:
        """Yield a function that appends bytes.

        Args:
            more: number of bytes to come, where it is known.

        Raises:
            InputError: the disk is full.
        """
        before = self.size

        def append(data: bytes) -> None:
            file.write(data)
            # What has arrived is to survive a kill.
            file.flush()

        try:
            with self.path.open("ab") as file:
                yield append
        except OSError as error:
            if error.errno not in storage.DISK_FULL:
                raise
            left = None if more is None else more - (self.size - before)
            raise self._disk_full(left) from None

    def place_at(self, temporary: Path) -> None:
        """Put the finished bytes at a path of the same folder.

        Where the file system can, they stay here too, so that a kill before they are published
        does not lose them.
        """
        try:
            os.link(self.path, temporary)
        except OSError:
            os.replace(self.path, temporary)

    def _disk_full(self, more: int | None) -> InputError:
        free = shutil.disk_usage(self.path.parent).free
        needed = "more bytes are" if more is None else f"{more:,} more bytes are"
        return InputError(
            f"{self.target}: no space left on its disk, {needed} needed and {free:,} are free; "
            "make room and run it again, it goes on from what it has"
        )


def _is_origin(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and content.keys() == {field.name for field in fields(Origin)}
        and isinstance(content["url"], str)
        and (content["size"] is None or type(content["size"]) is int)
        and all(
            content[name] is None or isinstance(content[name], str)
            for name in ("checksum", "etag", "last_modified", "release")
        )
    )
